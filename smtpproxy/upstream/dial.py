"""Opening a connection to one port of one address, or to a Unix socket."""

from __future__ import annotations

import errno
from collections.abc import Callable

from smtpproxy.deadlines import Deadlines
from smtpproxy.stream import Disconnected, NoRoom, Stream
from smtpproxy.transport import Poll, connect
from smtpproxy.values import value

# Descriptors or memory that we have not got: that says nothing of the upstream.
_OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@value
class SocketDial:
    """A `Dial`; `make` gives the stream for each connection that is made."""

    poll: Poll
    deadlines: Deadlines
    make: Callable[[], Stream]

    async def __call__(self, address: str, port: int, seconds: float) -> Stream:
        try:
            return await connect(self.poll, self.deadlines, address, port, seconds, self.make)
        except OSError as error:
            kind = NoRoom if error.errno in _OURS else Disconnected
            raise kind(error.strerror or str(error)) from error
