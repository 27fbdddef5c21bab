"""Where the dialogues of sessions can be listened to, of both sides, while they go on.

Nobody listens, most of the time: then `watch` is None, and it costs one look at that.  No content
is ever told, only how much of it there was, and nothing that may be a password.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.logger import Logger

from smtpproxy.values import value

log = Logger()

SECRET = b"<not shown>"


@value
class Said:
    """Some lines of the dialogue of `session`, as they were on the wire, without line ends.

    `who`: "C" for the client, "S" for us to the client, "P" for us to an upstream, and "U" for the
    upstream.  The last two have the upstream as its mapping names it, and the server of it.
    """

    session: str
    who: str
    lines: tuple[bytes, ...]
    upstream: str = ""
    server: str = ""
    address: str = ""


Watch = Callable[[Said], object]


class Tap:
    """Told of all that is said in sessions, as long as somebody listens."""

    def __init__(self) -> None:
        self.watch: Watch | None = None  # who says something, calls it
        self._listeners: list[Watch] = []

    def listen(self, listener: Watch) -> None:
        """Have `listener` told from now on."""
        self._listeners.append(listener)
        self.watch = self._tell

    def leave(self, listener: Watch) -> None:
        """Tell it no more."""
        if listener in self._listeners:
            self._listeners.remove(listener)
        if not self._listeners:
            self.watch = None

    def _tell(self, said: Said) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(said)
            except Exception:  # whoever looks on must not cost anybody's mail
                log.failure("a listener to dialogues failed, and is told no more")
                self.leave(listener)


UNHEARD = Tap()  # where nobody ever listens


def lines_of(data: bytes) -> tuple[bytes, ...]:
    """Commands or a reply as they are on the wire, one a line; what AUTH says is a secret."""
    return tuple(map(_harmless, data.removesuffix(b"\r\n").split(b"\r\n")))


def content_line(octets: int) -> tuple[bytes, ...]:
    """What is shown in place of content."""
    return (b"<%d octets of content>" % octets,)


def _harmless(line: bytes) -> bytes:
    verb, _, rest = line.partition(b" ")
    if verb.upper() != b"AUTH":
        return line
    mechanism, blank, _ = rest.partition(b" ")
    return b"%b %b %b" % (verb, mechanism, SECRET) if blank else line
