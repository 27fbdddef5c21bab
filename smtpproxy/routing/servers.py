"""Upstream servers, and how an administrator writes one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from smtpproxy.routing.keys import domain_key

SMTP_PORT = 25

_FORMS = "give host, host:port, [IPv6] or [IPv6]:port"
_SERVER = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:\[\]]+))(?::(?P<port>[^:]*))?")
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"  # with underscores: container networks have such names
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_HOST = 253  # characters; RFC 1035 section 2.3.4, without the outermost dot


@dataclass(frozen=True, slots=True)
class Upstream:
    """A server that takes mail: equal to another of the same host, port and TLS ways.

    `host` is as `parse_server` gives it.  With `tls_verify`, its certificate must
    verify wherever it offers STARTTLS.
    """

    host: str
    port: int = SMTP_PORT
    tls_verify: bool = True

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_server(text: str) -> tuple[str, int]:
    """Host and port of `host`, `host:port`, `[IPv6]`, `[IPv6]:port` or a bare IPv6 address.

    The host is lower-case, in ASCII (IDNA), without brackets and trailing dot; an IPv6
    address is in its short form.  Without a port it is 25.  Raises `ValueError`, whose
    text says what is wrong and what would be right.
    """
    text = text.strip()
    if not text:
        raise ValueError(f"no server; {_FORMS}")
    if text.count(":") > 1 and not text.startswith("["):
        return _ipv6(text), SMTP_PORT
    match = _SERVER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a server; {_FORMS}")
    host = _name(match["host"]) if match["ipv6"] is None else _ipv6(match["ipv6"])
    return host, SMTP_PORT if match["port"] is None else _port(match["port"])


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
