"""Upstreams, and how an administrator writes one.

An upstream is one or more servers that are good for the same mail, with the ways in
which they are talked to.
"""

from __future__ import annotations

import re
from dataclasses import field, replace
from enum import Enum
from ipaddress import IPv4Address, IPv6Address

from smtpproxy.routing.keys import domain_key
from smtpproxy.values import value

SMTP_PORT = 25
LMTP_PORT = 24  # the one that IANA lists; RFC 2033 section 5 forbids 25

_FORMS = "give host, host:port, [IPv6] or [IPv6]:port"
_SERVER = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[^:]*))?")
_URL = re.compile(r"(?!unix:)[a-z]+://", re.IGNORECASE)
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"  # with underscores: container networks have such names
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_HOST = 253  # characters; RFC 1035 section 2.3.4, without the outermost dot
_MX, _LMTP, _UNIX = "mx:", "lmtp:", "unix:"
_PATH = re.compile(r"/[A-Za-z0-9._:@+~/-]*[A-Za-z0-9._:@+~-]")
_MAX_PATH = 107  # octets; sockaddr_un.sun_path of Linux without its NUL, unix(7)
_MAX_WEIGHT = 1000


class Tls(Enum):
    """What is asked of TLS towards an upstream."""

    NONE = "none"  # never
    MAY = "may"  # where it is offered, whoever is there
    OFFERED = "verify where offered"  # the default, `tls_verify = true`
    ENCRYPT = "encrypt"  # always, whoever is there
    VERIFY = "verify"  # always, and the certificate must verify

    @property
    def required(self) -> bool:
        """No mail goes there in clear."""
        return self in (Tls.ENCRYPT, Tls.VERIFY)

    @property
    def verified(self) -> bool:
        """Where there is TLS, the certificate must verify."""
        return self in (Tls.OFFERED, Tls.VERIFY)


class Identity(Enum):
    """How an upstream is told who the client is."""

    AUTO = "auto"  # XCLIENT where it is offered, else not at all
    XCLIENT = "xclient"  # XCLIENT, and no mail without it
    PROXY1 = "proxy1"  # a PROXY protocol header, version 1 or 2
    PROXY2 = "proxy2"
    RECEIVED = "received"  # a Received: line in front of the message
    NONE = "none"

    @property
    def prefaced(self) -> bool:
        """Told by a header in front of all SMTP: the connection is its client's from the first."""
        return self in _PREFACED


_PREFACED = (Identity.PROXY1, Identity.PROXY2)


@value
class Server:
    """One server, or with `mx` the hosts of the MX records of the domain `host`.

    `host` is as `parse_server` gives it.  `weight` is 0 where servers are tried in the
    order in which they are written.  `lmtp`: it speaks LMTP (RFC 2033).  `path` is that of a
    Unix socket, in place of host and port, which are "" and 0.
    """

    host: str
    port: int = SMTP_PORT
    mx: bool = False
    weight: int = 0
    lmtp: bool = False
    path: str = ""

    def __str__(self) -> str:
        kind = _MX if self.mx else _LMTP if self.lmtp else ""
        weight = f"*{self.weight}" if self.weight else ""
        return f"{kind}{self._where()}{weight}"

    def at(self, address: str) -> str:
        """The server, and which of its addresses, where that says more."""
        return str(self) if address in (self.host, self.path) else f"{self} at {address}"

    def _where(self) -> str:
        if self.path:
            return f"{_UNIX}{self.path}"
        if ":" in self.host:
            return f"[{self.host}]:{self.port}"
        # A host may be called as one of our prefixes: then its dot tells it from one.
        dot = "." * (f"{self.host}:" in (_MX, _LMTP, _UNIX))
        return f"{self.host}{dot}:{self.port}"


@value
class Upstream:
    """Where mail goes: equal to another of the same servers, TLS ways and identity."""

    servers: tuple[Server, ...]
    tls: Tls = Tls.OFFERED
    identity: Identity = Identity.AUTO
    _hash: int = field(init=False, repr=False, compare=False)  # asked for all the time

    def __hash__(self) -> int:
        return self._hash

    def __post_init__(self) -> None:
        """Raises `ValueError` where the TLS asked for cannot be had of a server."""
        object.__setattr__(self, "_hash", hash((self.servers, self.tls, self.identity)))
        for server in self.servers:
            if server.path and self.tls is Tls.VERIFY:
                raise ValueError(
                    f"{server}: no certificate can be for a Unix socket; leave tls empty, which "
                    "means in clear there, or give encrypt"
                )

    def __str__(self) -> str:
        return ",".join(map(str, self.servers))


def parse_servers(text: str) -> tuple[Server, ...]:
    """One or more servers, with commas between them.

    Each is as `parse_server` takes it, or `unix:/path`, or one of these two with `lmtp:` before
    it, or `mx:domain`, and may end in `*` and a weight, which then all of them must have.
    Raises `ValueError`.
    """
    servers = tuple(_server(part.strip()) for part in text.split(","))
    if len({bool(server.weight) for server in servers}) > 1:
        raise ValueError(f"{text!r}: give every server a weight, as in a:25*3,b:25*1, or none")
    seen: set[Server] = set()
    for server in servers:
        where = replace(server, weight=0)
        if where in seen:
            raise ValueError(f"{text!r}: {server} is there twice; keep one")
        seen.add(where)
    return servers


def _server(text: str) -> Server:
    if (url := _URL.match(text)) is not None:
        raise ValueError(f"{text!r}: no {url[0]} stands in front; {_FORMS}")
    text, star, weight = text.partition("*")
    server = _mx(text) or _lmtp(text) or _smtp(text)
    return replace(server, weight=_weight(weight)) if star else server


def _mx(text: str) -> Server | None:
    domain = _behind(_MX, text)
    if domain is None:
        return None
    host, port = parse_server(domain)
    if ":" in host or host.replace(".", "").isdigit():
        raise ValueError(f"{text!r}: MX records belong to a domain; give mx:example.com")
    return Server(host, port, mx=True)


def _lmtp(text: str) -> Server | None:
    rest = _behind(_LMTP, text)
    if rest is None:
        return None
    if _behind(_MX, rest) is not None:
        raise ValueError(f"{text!r}: the hosts of MX records do not speak LMTP; name a host")
    if rest.isdigit():
        hint = "give lmtp:host:24, or lmtp.:24 for a host that is called lmtp"
        raise ValueError(f"{text!r} has no host; {hint}")
    server = _smtp(rest, LMTP_PORT)
    if server.port == SMTP_PORT:  # RFC 2033 section 5
        raise ValueError(f"{text!r}: LMTP is never on port 25; its own is {LMTP_PORT}")
    return replace(server, lmtp=True)


def _smtp(text: str, port: int = SMTP_PORT) -> Server:
    path = _behind(_UNIX, text)
    if path is None:
        return Server(*parse_server(text, port))
    return Server("", 0, path=_path(path))


def _behind(prefix: str, text: str) -> str | None:
    """What follows the prefix, None where it is not there."""
    if not text.lower().startswith(prefix):
        return None
    return text[len(prefix) :].strip()


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(
            f"{text!r} is no full path of a Unix socket; give unix:/run/dovecot/lmtp, say"
        )
    if len(text) > _MAX_PATH:
        raise ValueError(f"{text!r}: the path of a Unix socket has at most {_MAX_PATH} octets")
    if not _PATH.fullmatch(text):
        raise ValueError(
            f"{text!r}: the path of a Unix socket can have letters, digits and ._:@+~/- in it here"
        )
    return text


def _weight(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= _MAX_WEIGHT:
        raise ValueError(f"{text!r} is not a weight; give a number from 1 to {_MAX_WEIGHT}")
    return int(text)


def parse_server(text: str, port: int = SMTP_PORT) -> tuple[str, int]:
    """Host and port of `host`, `host:port`, `[IPv6]`, `[IPv6]:port` or a bare IPv6 address.

    The host is lower-case, in ASCII (IDNA), without brackets and trailing dot; an IPv6
    address is in its short form.  Where `text` has no port, it is `port`.  Raises `ValueError`,
    whose text says what is wrong and what would be right.
    """
    text = text.strip()
    if not text:
        raise ValueError(f"no server; {_FORMS}")
    if text.count(":") > 1 and not text.startswith("["):
        return _ipv6(text), port
    match = _SERVER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a server; {_FORMS}")
    host = _name(match["host"]) if match["ipv6"] is None else _ipv6(match["ipv6"])
    return host, port if match["port"] is None else _port(match["port"])


def _ipv6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv6 address; {_FORMS}") from None
    if address.scope_id is not None:
        raise ValueError(f"{text!r} has a zone; give an address without %{address.scope_id}")
    return str(address)


def _name(text: str) -> str:
    if text.replace(".", "").isdigit():
        try:
            return str(IPv4Address(text))
        except ValueError:
            raise ValueError(
                f"{text!r} is not an IPv4 address; give four numbers from 0 to 255"
            ) from None
    host = domain_key(text)
    if len(host) > _MAX_HOST or not _HOST.fullmatch(host):
        raise ValueError(f"{text!r} is not a host name; {_FORMS}")
    return host


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise ValueError(f"{text!r} is not a port; give a number from 1 to 65535")
    return int(text)
