"""Running what may have to wait: with a reactor, but only where something does.

Files are read and answered from at once, and a command that needs nothing else does not
load Twisted for it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from smtpproxy.chain import Loop
from smtpproxy.config import Config, HttpMapping, MysqlMapping, SqliteMapping

T = TypeVar("T")

Work = Callable[[Callable[[], Loop]], Coroutine[Any, Any, T]]

_WAITING = (MysqlMapping, SqliteMapping, HttpMapping)


def wait_for(config: Config, work: Work[T]) -> T:
    """What `work` gives, whose mappings are those of `config`."""
    if any(isinstance(mapping, _WAITING) for mapping in config.mappings):
        return with_reactor(lambda loop: work(lambda: loop))
    return at_once(work(_no_loop))


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, without a reactor: all that it asks is in memory."""
    try:
        work.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    work.close()
    raise AssertionError("this waits, and nothing would wake it")


def with_reactor(work: Callable[[Loop], Coroutine[Any, Any, T]]) -> T:
    """What `work` gives; raises what it raises, and `KeyboardInterrupt` when it is ended early.

    Once in a process: a reactor cannot be started again.
    """
    from twisted.internet.defer import CancelledError, Deferred
    from twisted.internet.task import react

    from smtpproxy.deadlines import Deadlines
    from smtpproxy.tasks import start

    given: list[T] = []
    raised: list[BaseException] = []

    async def kept(reactor: Any) -> None:
        deadlines = Deadlines(reactor)
        try:
            given.append(await work(Loop(reactor, deadlines)))
        except CancelledError:
            raised.append(KeyboardInterrupt())
        except BaseException as error:
            raised.append(error)
        finally:
            deadlines.stop()

    def main(reactor: Any) -> Deferred[None]:
        task = start(kept(reactor))
        reactor.addSystemEventTrigger("before", "shutdown", task.cancel)
        return task

    with suppress(SystemExit):  # `react` ends the program with a status of its own
        react(main)
    for error in raised:
        raise error
    if not given:
        raise KeyboardInterrupt
    return given[0]


def _no_loop() -> Loop:
    raise AssertionError("files need no reactor")
