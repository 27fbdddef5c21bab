"""Connections from load balancers: for whom they are, a PROXY header says, before all else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from smtpproxy.deadlines import TimedOut
from smtpproxy.events import NotIntroduced, Observer
from smtpproxy.listener.profile import Profile
from smtpproxy.mail import Peer
from smtpproxy.smtp.proxy_header import BadHeader, Ends, Header, HeaderReader
from smtpproxy.stream import Disconnected, Stream
from smtpproxy.tasks import start

Then = Callable[[], object]
Begin = Callable[[Peer, Stream, Profile, Then], object]

FULL = "too many connections"

log = Logger()


class Fronted:
    """Those whose header is not there yet: they have no session, and were told nothing."""

    def __init__(
        self, *, names: Callable[[], str], observe: Observer, begin: Begin, full: Callable[[], bool]
    ) -> None:
        """`begin` is told of a client that is known; `full` whether one more is too many."""
        self._names = names
        self._observe = observe
        self._begin = begin
        self._full = full
        self._waiting: set[Deferred[Any]] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, peer: Peer, stream: Stream, profile: Profile, then: Then) -> None:
        """`peer` has connected, and is trusted to say whom it speaks for.

        `then` is called once its session has ended, or there will be none.
        """
        if self._full():
            self._part(peer, stream, FULL)
            then()
            return
        task: Deferred[Any] = start(self._read(peer, stream, profile))
        self._waiting.add(task)
        task.addBoth(self._introduced, task, peer, stream, profile, then)
        task.addErrback(lambda failure: log.failure("a connection failed", failure=failure))

    def stop(self) -> None:
        """Let all of them go."""
        for task in tuple(self._waiting):
            task.cancel()

    async def _read(self, peer: Peer, stream: Stream, profile: Profile) -> Header | None:
        """The header; None where there is none to be had, and nothing left to do."""
        reader, silent = HeaderReader(), True
        until = stream.seconds() + profile.header_time
        try:
            while True:
                data = await stream.receive(until - stream.seconds())
                silent = False
                if (header := reader.feed(data)) is not None:
                    return header
        except BadHeader as error:
            reason = str(error)
        except TimedOut:
            silent, reason = False, f"not there within {profile.header_time:g} s"
        except Disconnected as error:
            reason = f"lost connection: {error}"
        except CancelledError:
            reason = "stopped"
        self._part(peer, stream, reason, silent)
        return None

    def _introduced(
        self,
        header: Header | Failure | None,
        task: Deferred[Any],
        peer: Peer,
        stream: Stream,
        profile: Profile,
        then: Then,
    ) -> Failure | None:
        self._waiting.discard(task)  # it counts as a session from here on
        if not isinstance(header, Header):
            then()
            return header
        stream.give_back(header.rest)
        self._begin(fronted(peer, header.ends), stream, profile, then)
        return None

    def _part(self, peer: Peer, stream: Stream, reason: str, silent: bool = False) -> None:
        self._observe(NotIntroduced(self._names(), peer, reason, silent))
        stream.close()


def fronted(peer: Peer, ends: Ends | None) -> Peer:
    """Whom `peer` connects for; itself where it says of nobody."""
    if ends is None:
        return peer
    (address, port), (local_address, local_port) = ends
    return replace(
        peer,
        address=address,
        port=port,
        local_address=local_address,
        local_port=local_port,
        via=peer.address or "unix",
    )
