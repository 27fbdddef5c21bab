"""One worker as the parent sees it: a process, its channel, and whether it serves."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

import smtpproxy
from smtpproxy.workers.channel import Channel, pair
from smtpproxy.workers.terms import Terms

CHANNEL = 3  # the descriptor in the worker

# What a worker says; anything else is why it cannot begin.
READY = b"?"  # all is read, and it waits for the word "serve"
SERVES = b"."  # since then, and whenever it is asked whether it is alive

# Those of this version, also where a link such as /opt/smtpproxy/current leads elsewhere by now.
_PYTHON = str(Path(sys.executable).parent.resolve() / Path(sys.executable).name)
_HOME = str(Path(smtpproxy.__file__).resolve().parents[1])

# What is for the parent alone: systemd is told by it, and passes sockets to it.
_OURS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})


class Child(ProcessProtocol):
    """A process that was started with `terms`, or has taken them since.

    `serves` once it accepts clients, `silent` is how often it was asked in vain whether it does.
    """

    def __init__(
        self,
        number: int,
        folder: Path,
        terms: Terms,
        reactor: Any,
        ready: Callable[[Child], object],
        begun: Callable[[Child], object],
        ended: Callable[[Child, str], object],
    ) -> None:
        """Its control socket is in `folder`; `ended` is told how it ended."""
        self.number = number
        self.control = str(folder / f"worker-{number}")
        self.terms = terms
        self.serves = False
        self.retired = False
        self.silent = 0
        self.why = ""
        """What it said of why it cannot begin."""
        self._ready = ready
        self._begun = begun
        self._ended = ended
        self._reactor = reactor
        self._pid = 0

    def __str__(self) -> str:
        return f"worker {self.number} ({self._pid})"

    def start(self, workers: int) -> None:
        """Have the process begin; raises OSError."""
        ours, theirs = pair()
        self._channel = Channel(ours, self._reactor, self._heard, lambda: None)
        numbers = {"--number": self.number, "--of": workers, "--channel": CHANNEL}
        options = [str(each) for option in numbers.items() for each in option]
        try:
            process = self._reactor.spawnProcess(
                self,
                _PYTHON,
                [
                    _PYTHON,
                    "-P",
                    "-m",
                    "smtpproxy.workers.worker",
                    "--control",
                    self.control,
                    *options,
                ],
                env=_environment(),
                childFDs={0: 0, 1: 1, 2: 2, CHANNEL: theirs.fileno()},
            )
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()
        self._pid = process.pid

    @property
    def hangs(self) -> bool:
        """It has not answered for a while: waiting for it again is of no use."""
        return self.silent > 1

    def tell(self, word: str, value: Any) -> None:
        """Say something through the channel."""
        self._say(json.dumps({word: value}).encode(), ())

    def offer(self, terms: Terms) -> None:
        """Tell it what to take when it is to reload."""
        terms.tell(self._say)

    def ask(self) -> None:
        """Have it say whether it is alive."""
        self.silent += 1
        self.tell("alive", True)

    def retire(self) -> None:
        """Have it end, after its transactions in hand."""
        self.serves = False
        self.retired = True
        self.signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Nothing happens where it has ended."""
        with suppress(ProcessExitedAlready, ProcessLookupError):
            self.transport.signalProcess(number)  # type: ignore[union-attr]

    def processEnded(self, reason: Failure) -> None:
        self._channel.doRead()  # its last words may not have been read
        self._channel.close()
        self.serves = False
        with suppress(OSError):
            os.unlink(self.control)  # it may have been killed
        self._ended(self, _how(reason))

    def _say(self, data: bytes, descriptors: Sequence[int]) -> None:
        try:
            self._channel.send(data, descriptors)
        except BlockingIOError:  # it has not read for long, and would miss this
            self.signal(signal.SIGKILL)

    def _heard(self, data: bytes, descriptors: list[int]) -> None:
        self.silent = 0
        if data == READY:
            self._ready(self)
        elif data != SERVES:
            self.why = data.decode(errors="replace")
        elif not self.serves and not self.retired:
            self.serves = True
            self._begun(self)


def _how(reason: Failure) -> str:
    """In what way a process ended, in a few words."""
    number = getattr(reason.value, "signal", None)
    if number:
        return f"ended by {signal.Signals(number).name}"
    return f"ended with status {getattr(reason.value, 'exitCode', 0)}"


def _environment() -> dict[str, str]:
    """Ours, and the place that we were imported from."""
    path = os.pathsep.join(filter(None, (_HOME, os.environ.get("PYTHONPATH"))))
    kept = {name: value for name, value in os.environ.items() if name not in _OURS}
    return {**kept, "PYTHONPATH": path}
