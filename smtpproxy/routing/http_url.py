"""Where a web service is, and what an administrator sends along, as they are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode, urlsplit

from smtpproxy.routing.servers import parse_server
from smtpproxy.values import value

_PORTS = {"http": 80, "https": 443}
_FORM = "give http://host/path or https://host:port/path"
_SAFE = "!$&'()*+,/:;=?@[]~%-._"  # RFC 3986 section 2.2, and % for what is encoded already
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 section 5.6.2
_VALUE = re.compile(r"(?:[!-~](?:[ !-~]*[!-~])?)?")
_NOT_YOURS = {"connection", "content-length", "te", "trailer", "transfer-encoding", "upgrade"}


@value
class Url:
    """`host` is as in `Server`; `target` is path and query as they go onto the wire."""

    scheme: str
    host: str
    port: int
    target: str

    def with_query(self, parameters: Mapping[str, str]) -> bytes:
        """The whole URL, with `parameters` behind those that it has."""
        target = self.target
        if parameters:
            query = urlencode(parameters, quote_via=quote, safe="", errors="replace")
            target = f"{target}{'&' if '?' in target else '?'}{query}"
        return f"{self}{target}".encode("ascii")

    def __str__(self) -> str:
        """Without the target, which may hold a secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse_url(text: str) -> Url:
    """Raises `ValueError`, whose text says what would be right, and tells no password."""
    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"not a URL; {_FORM}, with a port from 1 to 65535") from None
    if parts.scheme not in _PORTS or not host:
        raise ValueError(f"not a URL of http or https; {_FORM}")
    if "@" in parts.netloc:
        raise ValueError("holds a user name; give the header Authorization instead")
    if parts.fragment:
        raise ValueError("holds a #, and what follows it is never sent; write %23, or leave it out")
    if port == 0:
        raise ValueError("'0' is not a port; give a number from 1 to 65535")
    host, _ = parse_server(f"[{host}]" if ":" in host else host)
    query = f"?{parts.query}" if parts.query else ""
    target = quote(f"{parts.path or '/'}{query}", safe=_SAFE)
    return Url(parts.scheme, host, port or _PORTS[parts.scheme], target)


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise `ValueError` where these cannot be added to every request."""
    for name, text in headers.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header")
        if name.lower() in _NOT_YOURS:
            raise ValueError(f"{name} is for the connection; leave it out")
        if not _VALUE.fullmatch(text):
            raise ValueError(
                f"the value of {name} must be ASCII on one line, without spaces around"
            )
