"""The texts of the configuration as values: durations, sizes, addresses, names.

Each function raises ValueError with a sentence that says what would be right.
"""

from __future__ import annotations

import json
import re
from ipaddress import IPv4Address, IPv6Address

from smtpproxy.values import value

LONGEST = 7 * 86400.0  # seconds; epoll(7) refuses waits of more than 2**31 ms, about 24 days

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_OCTETS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
}
_QUANTITY = re.compile(r"(?P<number>-?[0-9]{1,15}(?:\.[0-9]{1,6})?) ?(?P<unit>[A-Za-z]*)")
_SERVER = re.compile(r"(?P<host>\[.*\]|[^:]*)(?::(?P<port>.*))?")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_SUN_PATH = 107  # octets; sockaddr_un.sun_path of Linux without its NUL, unix(7)


def quoted(text: str) -> str:
    """`text` in quotes, on one line, for a message."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def parse_duration(text: str) -> float:
    """Seconds: "500ms", "30s", "5m", "2h", "1d"; "1.5h" too."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f'{quoted(text)} is not a duration: write "500ms", "30s", "5m", "2h" or "1d"'
        )
    number, unit = match["number"], match["unit"]
    if not unit:
        raise ValueError(no_unit(number))
    if unit not in _SECONDS:
        raise ValueError(f'{quoted(unit)} is not a unit of time: use ms, s, m, h or d, as in "30s"')
    seconds = float(number) * _SECONDS[unit]
    if seconds <= 0:
        raise ValueError(f"{quoted(text)} is too short: a duration must be longer than zero")
    if seconds > LONGEST:
        raise ValueError(f'{quoted(text)} is too long: at most "7d"')
    return seconds


def no_unit(number: object) -> str:
    """What to say where a duration is a bare number."""
    return f'{number} has no unit: write "{number}s" for seconds or "{number}m" for minutes'


def parse_share(text: str) -> float:
    """A part of 1: "50%" is 0.5."""
    match = re.fullmatch(r"([0-9]{1,3}) ?%", text.strip())
    if match is None or int(match[1]) > 100:
        raise ValueError(f'{quoted(text)} is not a percentage: write "50%", at most "100%"')
    return int(match[1]) / 100


def parse_size(text: str) -> int:
    """Octets: "1024", "50MiB" (times 2**20), "50MB" (times 10**6); case does not matter."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{quoted(text)} is not a size: write octets, or a unit as in "50MiB"')
    factor = _OCTETS.get(match["unit"].lower())
    if factor is None:
        raise ValueError(
            f"{quoted(match['unit'])} is not a unit of size: "
            'use KiB, MiB, GiB or kB, MB, GB, as in "50MiB"'
        )
    octets = float(match["number"]) * factor
    if octets < 1:
        raise ValueError(f"{quoted(text)} is too small: a size must be at least one octet")
    return int(octets)


@value
class Address:
    """Where a listener listens: `host` and `port`, the `path` of a Unix socket, or by `name`.

    `host` is an IP address without brackets, or "" for all addresses, IPv4 and IPv6.  Port 0 is
    a free port that the system chooses.  The name is that of a socket that systemd has.
    """

    host: str = ""
    port: int = 0
    path: str = ""
    name: str = ""

    def overlaps(self, other: Address) -> bool:
        """Both cannot be listened to at once."""
        if self.path or other.path or self.name or other.name:
            return (self.path, self.name) == (other.path, other.name)
        if self.port == 0 or self.port != other.port:
            return False
        return self._covers(other) or other._covers(self)

    def _covers(self, other: Address) -> bool:
        every_v4 = self.host == "0.0.0.0" and "." in other.host
        every_v6 = self.host == "::" and ":" in other.host
        return self.host in ("", other.host) or every_v4 or every_v6

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        if self.name:
            return f"systemd:{self.name}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, like: str = ":25") -> Address:
    """The address in "192.0.2.1:25", "[2001:db8::1]:25", ":25", "unix:/path" or "systemd:name".

    Where it has no port, what would be right is shown `like` this one.
    """
    if text.startswith("systemd:"):
        return Address(name=_socket_name(text.removeprefix("systemd:")))
    if text.startswith("unix:"):
        return Address(path=parse_socket_path(text.removeprefix("unix:")))
    host, colon, port = text.rpartition(":")
    if not colon or "]" in port:
        like_host, _, like_port = like.rpartition(":")
        is_port = text.isascii() and text.isdigit()
        example = f"{like_host}:{text}" if is_port else f"{text or '127.0.0.1'}:{like_port}"
        raise ValueError(f"{quoted(text)} has no port: write it as in {quoted(example)}")
    if host.count(":") and not host.startswith("["):
        raise ValueError(
            f'{quoted(text)}: an IPv6 address needs brackets, as in "[2001:db8::1]:25"'
        )
    if host == "*":
        raise ValueError(f"all addresses are written {quoted(f':{port}')}, without the star")
    return Address(_ip(host, text) if host else "", parse_port(port))


def parse_port(text: str) -> int:
    """A TCP or UDP port, 0 to 65535."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f"{quoted(text)} is not a port: write a number from 1 to 65535")
    return int(text)


def parse_socket_path(path: str) -> str:
    """A file name that can be bound to."""
    check_file_name(path)
    if not path:
        raise ValueError('the path is missing: write it as in "unix:/run/smtpproxy/smtp"')
    if len(path.encode()) > _SUN_PATH:
        raise ValueError(
            f"the path of a socket can have {_SUN_PATH} octets, not more: {quoted(path)}"
        )
    return path


def _socket_name(name: str) -> str:
    """A FileDescriptorName of systemd.socket(5)."""
    if not name or len(name) > 255 or not name.isascii() or not name.isprintable() or ":" in name:
        raise ValueError(
            f"{quoted(name)} is no name of a socket: write FileDescriptorName of the socket's "
            'unit, or the name of the unit itself, as in "systemd:smtpproxy.socket"'
        )
    return name


def check_file_name(name: str) -> str:
    """`name`, which may be empty, without control characters."""
    if not name.isprintable():
        raise ValueError("a file name must not hold control characters")
    return name


def check_token(token: str) -> str:
    """`token` itself, which nobody can guess or has to encode; it is never shown."""
    if not re.fullmatch(r"[!-~]{16,256}", token):
        raise ValueError(
            "must be 16 to 256 letters, digits and signs without a blank: openssl rand -hex 16 "
            "gives one"
        )
    return token


def parse_dns_server(text: str) -> str:
    """`text` itself: "192.0.2.53", "192.0.2.53:5353", "2001:db8::53" or "[2001:db8::53]:5353"."""
    bare_v6 = text.count(":") > 1 and not text.startswith("[")
    match = _SERVER.fullmatch(f"[{text}]" if bare_v6 else text)
    if match is None:
        raise ValueError(f'{quoted(text)} is not a name server: write it as in "192.0.2.53"')
    _ip(match["host"], text)
    if match["port"] is not None and parse_port(match["port"]) == 0:
        raise ValueError(f"{quoted(text)} has port 0: a name server usually has 53")
    return text


def parse_domain(text: str) -> str:
    """A domain name in its ASCII form or an address literal (RFC 5321 4.1.2), no final dot."""
    name = text.rstrip(".")
    if name.startswith("[") and name.endswith("]"):
        inner = name[1:-1]
        inner = inner[5:] if inner[:5].lower() == "ipv6:" else inner
        _ip(f"[{inner}]" if ":" in inner else inner, text)
        return name
    if not name.isascii():
        raise ValueError(f'{quoted(text)} must be in its ASCII form, which begins with "xn--"')
    if re.fullmatch(r"[0-9.]+", name):
        raise ValueError(f'{quoted(text)} is no domain name: write an address as "[{name}]"')
    if len(name) > 253 or not _DOMAIN.fullmatch(name):
        raise ValueError(f'{quoted(text)} is no domain name: write it as in "mx.example.net"')
    return name


def _ip(host: str, text: str) -> str:
    """The address in `host`, an IPv6 one in brackets, in its canonical form."""
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = IPv6Address(host[1:-1]) if bracketed else IPv4Address(host)
    except ValueError:
        kind = "an IPv6 address" if bracketed else "an IP address"
        hint = ": write 127.0.0.1" if host == "localhost" else ""
        raise ValueError(f"{quoted(text)}: {quoted(host)} is not {kind}{hint}") from None
    return str(address)
