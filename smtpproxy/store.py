"""Where processes count the same clients together: what they tell it and hear, and where it is."""

from __future__ import annotations

from dataclasses import field
from urllib.parse import parse_qs, unquote, urlsplit

from smtpproxy.values import value

LASTING = 30.0  # seconds that the sessions of a process count for, unless it says so again
MINUTE = 60.0

_SCHEMES = {"redis": False, "valkey": False, "rediss": True, "valkeys": True}  # with TLS?
_FORM = 'write "redis://HOST:6379/0", "rediss://HOST:6379/0" for TLS, or "unix:/path?db=0"'


class StoreFailed(Exception):
    """There is no answer; the text says why, in one line, for the log."""


@value
class News:
    """A client that others count as well, its sessions here, and what was counted since."""

    client: str
    sessions: int
    added: tuple[int, int, int]  # connections, messages, recipients


@value
class Known:
    """What all count of that client: its sessions elsewhere, and what it did within a minute.

    The minute is over in so many `seconds`, 0 where none has begun.
    """

    elsewhere: int
    counts: tuple[int, int, int]
    seconds: float


@value
class Place:
    """Where the server is, and which of its databases is meant; `path` is that of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False
    database: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    authorities: str = ""  # a file in PEM; "" = those of the system

    def __str__(self) -> str:
        """Without the password."""
        if self.path:
            return f"unix:{self.path}?db={self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' * self.tls}://{host}:{self.port}/{self.database}"


def parse_place(text: str) -> Place:
    """Raises `ValueError`, whose text says what would be right, and tells no password."""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname or "", parts.port or 6379
    except ValueError:
        raise ValueError(f"not the URL of a server; {_FORM}") from None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
        database = parse_qs(parts.query).get("db", ["0"])[-1]
        return Place(path=unquote(parts.path), database=_database(database))
    if parts.scheme not in _SCHEMES or not host or parts.query or parts.fragment:
        raise ValueError(f"not the URL of a server; {_FORM}")
    return Place(
        host=host,
        port=port,
        tls=_SCHEMES[parts.scheme],
        database=_database(parts.path.strip("/") or "0"),
        user=user,
        password=password,
    )


def _database(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5:
        raise ValueError(f"its database must be a number; {_FORM}")
    return int(text)
