"""Who may ask by HTTP, and who may change something."""

from __future__ import annotations

import hmac
from base64 import b64decode
from ipaddress import ip_address
from pathlib import Path

from smtpproxy.config import Address, Config
from smtpproxy.config.values import check_token
from smtpproxy.faults import Fault, Faults
from smtpproxy.values import value


@value
class Access:
    """`hosts` are the names under which it may be asked for; `token` is "" where there is none.

    `local`: nobody but users of this host can connect, and they may read without the token.
    """

    token: str
    hosts: frozenset[str]
    local: bool

    def named(self, host: str) -> bool:
        """May it be asked for as `host`, as a request's header says it?

        A page from elsewhere that has its own name lead here (DNS rebinding) could read all of it
        in the browser of who may.  Addresses are safe: they are no names.
        """
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        name = name.removeprefix("[").removesuffix("]").removesuffix(".").lower()
        return name in self.hosts or _is_address(name)

    def may_read(self, authorization: str) -> bool:
        """Without a token, whoever can connect may read: a warning tells of that."""
        if self.local or not self.token:
            return True
        return self.may_change(authorization) or self._is_token(_password(authorization))

    def may_change(self, authorization: str) -> bool:
        """Only by `Bearer`, which no browser says of its own accord, as it does a password."""
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and self._is_token(token.strip())

    def _is_token(self, said: str) -> bool:
        return bool(self.token) and hmac.compare_digest(
            said.encode("utf-8", "replace"), self.token.encode()
        )


def access_of(config: Config) -> Access:
    """What the settings say; raises `Faults` where a file cannot be read."""
    http = config.http
    names = {"localhost", config.domain.lower(), *(each.lower() for each in http.hosts)}
    return Access(_token(config), frozenset(names), http.listen is None or is_local(http.listen))


def is_local(address: Address) -> bool:
    """Nobody but users of this host can connect there."""
    if address.name:
        return False  # only systemd knows
    return bool(address.path) or (bool(address.host) and ip_address(address.host).is_loopback)


def warnings(config: Config) -> list[Fault]:
    """What can be served, and had better not be."""
    http = config.http
    if http.listen is None or is_local(http.listen) or http.token or http.token_file:
        return []
    text = (
        f"{http.listen} can be reached from elsewhere, and anybody may read there who writes to "
        "whom: set http.token, or listen on 127.0.0.1"
    )
    return [Fault(config.place("http", "listen"), text)]


def _token(config: Config) -> str:
    file = config.http.token_file
    if not file:
        return config.http.token
    try:
        return check_token(Path(file).read_text().strip())
    except (OSError, UnicodeDecodeError) as error:
        why = f"cannot be read: {getattr(error, 'strerror', None) or 'is not UTF-8'}"
    except ValueError as error:
        why = str(error)
    raise Faults([Fault(file, why)]) from None


def _password(authorization: str) -> str:
    """That of a `Basic` authorization, whoever the user is; "" where there is none."""
    scheme, _, said = authorization.partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return b64decode(said, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
