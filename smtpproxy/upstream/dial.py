"""Opening a connection to one port of one address, or to a Unix socket."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from smtpproxy.deadlines import Deadlines
from smtpproxy.stream import Disconnected, Stream
from smtpproxy.transport import Poll, connect


@dataclass(frozen=True, slots=True)
class SocketDial:
    """A `Dial`; `make` gives the stream for each connection that is made."""

    poll: Poll
    deadlines: Deadlines
    make: Callable[[], Stream]

    async def __call__(self, address: str, port: int, seconds: float) -> Stream:
        try:
            return await connect(self.poll, self.deadlines, address, port, seconds, self.make)
        except OSError as error:
            raise Disconnected(error.strerror or str(error)) from error
