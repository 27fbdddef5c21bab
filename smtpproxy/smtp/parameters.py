"""Judges the parameters of MAIL and RCPT against what was announced (RFC 5321 section 4.1.1.11).

A parameter is carried to upstreams as the client wrote it, so what is let through here
must have the form that its extension defines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime

from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.replies import Reply
from smtpproxy.values import value

UNKNOWN_PARAMETER = Reply.of(555, "5.5.4", "Parameter not recognised")


def check_mail(parameters: Mapping[str, str], announced: Extensions) -> Reply | None:
    """The refusal that the parameters of a MAIL deserve, None where all are fine.

    Keywords are in upper case; a value is "" where there was none.  After HELO nothing is
    announced, and every parameter is refused.
    """
    refusal = _check(_MAIL, parameters, announced)
    if refusal is None and "HOLDFOR" in parameters and "HOLDUNTIL" in parameters:
        # RFC 4865 section 4
        return Reply.of(501, "5.5.4", "HOLDFOR and HOLDUNTIL exclude each other")
    return refusal


def check_rcpt(parameters: Mapping[str, str], announced: Extensions) -> Reply | None:
    """The refusal that the parameters of a RCPT deserve, None where all are fine."""
    return _check(_RCPT, parameters, announced)


_FLAGS = re.IGNORECASE | re.ASCII  # outside ASCII, IGNORECASE takes "ſ" for an "s"

# What judges a value, beside all that was announced.
_Fits = Callable[[str, Extensions], bool]


@value
class _Parameter:
    """A parameter that exists where `extension` is announced."""

    extension: str
    fits: _Fits


def _check(
    known: Mapping[str, _Parameter], parameters: Mapping[str, str], announced: Extensions
) -> Reply | None:
    for keyword, given in parameters.items():
        parameter = known.get(f"{keyword}={given.upper()}") or known.get(keyword)
        if parameter is None or parameter.extension not in announced:
            return UNKNOWN_PARAMETER
        if not parameter.fits(given, announced):
            return Reply.of(501, "5.5.4", f"The value of {keyword} is not valid")
    return None


def _like(pattern: str) -> _Fits:
    compiled = re.compile(pattern, _FLAGS)
    return lambda value, announced: compiled.fullmatch(value) is not None


_BY = re.compile(r"([+-]?[0-9]{1,9});([RN])T?", _FLAGS)


def _by(value: str, announced: Extensions) -> bool:
    """RFC 2852 section 4: seconds, and what to do when they are over: R(eturn) or N(otify)."""
    match = _BY.fullmatch(value)
    if match is None:
        return False
    least = announced.number("DELIVERBY") or 1
    return match[2] in "Nn" or int(match[1]) >= least


_SECONDS = re.compile(r"[1-9][0-9]{0,8}")


def _hold_for(value: str, announced: Extensions) -> bool:
    """RFC 4865: seconds; the first word of the announcement is the most that is taken."""
    most = announced.number("FUTURERELEASE")
    return _SECONDS.fullmatch(value) is not None and (most is None or int(value) <= most)


def _hold_until(value: str, announced: Extensions) -> bool:
    """RFC 4865: a date-time; the second word of the announcement is the latest that is taken."""
    moment = _moment(value)
    latest = next(map(_moment, announced["FUTURERELEASE"][1:2]), None)
    return moment is not None and (latest is None or moment <= latest)


_DATE_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)


def _moment(text: str) -> datetime | None:
    """The moment in `text`, in the form of RFC 3339 section 5.6; None where it is none."""
    text = text.upper()
    try:
        return datetime.fromisoformat(text) if _DATE_TIME.fullmatch(text) else None
    except ValueError:
        return None


_NO_VALUE = _like("")
# RFC 3461 section 4: "+" begins the two hexadecimal digits of an octet.
_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})"
# RFC 6533 section 3: here it is "\x{...}"; outside ASCII, all but controls stands as it is.
_UNITEXT = r"(?:[!-*,-<>-\[\]-~]|\\x\{[0-9A-F]{2,6}\}|[^\x00-\x9f\u2028\u2029])"

_ORCPT = re.compile(rf"(?!utf-8;)[a-z0-9-]+;{_XTEXT}+|utf-8;{_UNITEXT}+", _FLAGS)


def _orcpt(value: str, announced: Extensions) -> bool:
    if not value.isascii() and "SMTPUTF8" not in announced:
        return False
    return len(value) <= 500 and _ORCPT.fullmatch(value) is not None


_EVENT = "(?:SUCCESS|FAILURE|DELAY)"

_MAIL: Mapping[str, _Parameter] = {
    "SIZE": _Parameter("SIZE", _like("[0-9]{1,20}")),  # RFC 1870
    "BODY": _Parameter("8BITMIME", _like("7BIT|8BITMIME")),  # RFC 6152
    "BODY=BINARYMIME": _Parameter("BINARYMIME", _like("BINARYMIME")),  # RFC 3030
    "SMTPUTF8": _Parameter("SMTPUTF8", _NO_VALUE),  # RFC 6531
    "RET": _Parameter("DSN", _like("FULL|HDRS")),  # RFC 3461 section 4.3
    "ENVID": _Parameter("DSN", _like(rf"(?=.{{1,100}}\Z){_XTEXT}+")),  # RFC 3461 section 4.4
    "REQUIRETLS": _Parameter("REQUIRETLS", _NO_VALUE),  # RFC 8689
    "MT-PRIORITY": _Parameter("MT-PRIORITY", _like("-?[1-9]|0")),  # RFC 6710
    "BY": _Parameter("DELIVERBY", _by),  # RFC 2852
    "HOLDFOR": _Parameter("FUTURERELEASE", _hold_for),  # RFC 4865
    "HOLDUNTIL": _Parameter("FUTURERELEASE", _hold_until),
    "PRDR": _Parameter("PRDR", _NO_VALUE),
}

_RCPT: Mapping[str, _Parameter] = {
    "NOTIFY": _Parameter("DSN", _like(rf"NEVER|{_EVENT}(?:,{_EVENT})*")),  # RFC 3461 section 4.1
    "ORCPT": _Parameter("DSN", _orcpt),  # RFC 3461 section 4.2
}
