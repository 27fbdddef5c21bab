"""The columns of a row, the same in every kind of mapping that has rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from smtpproxy.routing.answers import Row
from smtpproxy.routing.servers import Identity, Tls, Upstream, parse_servers

# Every column but the key, with what it may hold.
COLUMNS: Mapping[str, str] = {
    "server": "host, host:port, lmtp:host, unix:/path, mx:domain, or several with commas",
    "tls_verify": "true or false: must the certificate verify where TLS is offered",
    "tls": "none, may, encrypt or verify; in place of tls_verify",
    "identity": "auto, xclient, proxy1, proxy2, received or none",
    "percent": "0 to 100: for how many of the recipients the row is there",
    "shadow": "a second upstream, as in server, that is asked and gets no mail",
    "note": "for people",
}

_TRUTH = {"true": True, "yes": True, "1": True, "": True, "false": False, "no": False, "0": False}
_TLS = {each.value: each for each in Tls if each is not Tls.OFFERED}
_IDENTITY = {each.value: each for each in Identity}

_Value = TypeVar("_Value")


class BadRow(ValueError):
    """What is wrong with a row: column and sentence, of each fault."""

    def __init__(self, faults: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{column}: {text}" for column, text in faults))
        self.faults = faults


def parse_row(fields: Mapping[str, str]) -> Row:
    """The row whose `fields` are given by column, "" for an empty or missing one.

    Raises `BadRow` with all that is wrong; columns that are not known are the caller's.
    """
    faults: list[tuple[str, str]] = []

    def value(column: str, parse: Callable[[str], _Value]) -> _Value | None:
        try:
            return parse(fields.get(column, "").strip())
        except ValueError as error:
            faults.append((column, str(error)))
            return None

    servers = value("server", parse_servers)
    tls_verify = value("tls_verify", parse_truth)
    tls = value("tls", _one_of("a way of TLS", _TLS))
    identity = value("identity", _one_of("an identity", _IDENTITY))
    percent = value("percent", _percent)
    shadow = value("shadow", lambda text: parse_servers(text) if text else ())
    if tls is not None and fields.get("tls_verify", "").strip():
        faults.append(("tls", "stands beside tls_verify; leave one of the two empty"))
    if faults or servers is None or percent is None:
        raise BadRow(faults)
    ways = tls or (Tls.OFFERED if tls_verify else Tls.MAY)
    identity = identity or Identity.AUTO
    try:
        return Row(
            Upstream(servers, ways, identity),
            percent,
            Upstream(shadow, ways, identity) if shadow else None,
        )
    except ValueError as error:
        raise BadRow([("tls", str(error))]) from None


def parse_truth(text: str) -> bool:
    """true, yes, 1 or nothing; false, no, 0."""
    try:
        return _TRUTH[text.lower()]
    except KeyError:
        raise ValueError(
            f"{text!r} is not a truth value; give true or false (or yes, no, 1, 0)"
        ) from None


def _one_of(what: str, values: Mapping[str, _Value]) -> Callable[[str], _Value | None]:
    def parse(text: str) -> _Value | None:
        if text and text.lower() not in values:
            raise ValueError(f"{text!r} is not {what}; give {', '.join(values)}")
        return values.get(text.lower())

    return parse


def _percent(text: str) -> int:
    if not text:
        return 100
    number = text.removesuffix("%").rstrip()
    if not re.fullmatch("[0-9]{1,3}", number) or int(number) > 100:
        raise ValueError(f"{text!r} is not a percentage; give a whole number from 0 to 100")
    return int(number)
