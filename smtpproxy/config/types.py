"""The types of settings: what pydantic is told about each.

Validated with a `Reading`, texts are held to what the file's rules ask; built in
code, without one, a duration may be a plain number of seconds too.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo

from smtpproxy.config.values import (
    Address,
    check_file_name,
    check_token,
    no_unit,
    parse_address,
    parse_dns_server,
    parse_domain,
    parse_duration,
    parse_share,
    parse_size,
    parse_socket_path,
    quoted,
)
from smtpproxy.networks import Networks
from smtpproxy.routing import parse_servers
from smtpproxy.routing.http_url import check_headers, parse_url
from smtpproxy.routing.sql import MYSQL, SQLITE, Dialect, keyed_query, keyless_query
from smtpproxy.smtp.keywords import Wishes
from smtpproxy.store import parse_place

MOST_WORKERS = 63  # processes whose session ids differ


@dataclass(slots=True)
class Reading:
    """One reading of a configuration: pydantic's validation context.

    `folder` is absolute; relative file names begin there. `taken` are the
    addresses of the listeners read so far.
    """

    folder: Path
    taken: list[Address] = field(default_factory=list)


def _duration(value: object, info: ValidationInfo) -> float:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError('must be a duration in quotes, such as "30s" or "5m"')
    if info.context is not None:
        raise ValueError(no_unit(value))
    return float(value)


def _duration_or_zero(value: object, info: ValidationInfo) -> float:
    if value == "0s" or (value == 0.0 and type(value) in (int, float) and info.context is None):
        return 0.0
    return _duration(value, info)


def _share(value: object, info: ValidationInfo) -> float:
    if info.context is None and isinstance(value, float) and 0 <= value <= 1:
        return value
    if not isinstance(value, str):
        raise ValueError('must be a percentage in quotes, such as "50%"')
    return parse_share(value)


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError('must be a size in octets, or in quotes with a unit, such as "50MiB"')
    return parse_size(str(value))


def _address(value: object, info: ValidationInfo, like: str = ":25") -> Address:
    """`like` is what one would write most often."""
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        one = '"127.0.0.1:25" or ":25"' if like == ":25" else quoted(like)
        raise ValueError(f"must be an address in quotes, such as {one}")
    address = parse_address(value, like)
    if isinstance(info.context, Reading):
        if address.path:
            address = Address(path=parse_socket_path(str(info.context.folder / address.path)))
        for other in info.context.taken:
            if address.overlaps(other):
                raise ValueError(
                    f"{quoted(value)} is taken by the listener on {quoted(str(other))}"
                )
        info.context.taken.append(address)
    return address


def _address_or_none(value: object, info: ValidationInfo) -> Address | None:
    return None if value is None or value == "" else _address(value, info, "127.0.0.1:9025")


def _token(value: str) -> str:
    if value:
        check_token(value)
    return value


def _file_name(value: str, info: ValidationInfo) -> str:
    check_file_name(value)
    if value and isinstance(info.context, Reading):
        return str(info.context.folder / value)
    return value


def _present(value: str) -> str:
    if not value:
        raise ValueError("must not be empty")
    return value


def _some(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("at least one is needed")
    return value


def _servers(value: str) -> str:
    parse_servers(value)
    return value


def _socket_name(value: str, info: ValidationInfo) -> str:
    name = _file_name(value, info)
    return parse_socket_path(name) if name else name


def _keyed(dialect: Dialect) -> AfterValidator:
    def check(value: str) -> str:
        keyed_query(value, dialect)
        return value

    return AfterValidator(check)


def _keyless(dialect: Dialect) -> AfterValidator:
    return AfterValidator(lambda value: keyless_query(value, dialect))


def _url(value: str) -> str:
    parse_url(value)
    return value


def _store(value: str) -> str:
    if value:
        parse_place(value)
    return value


def _headers(value: dict[str, str]) -> dict[str, str]:
    check_headers(value)
    return value


def _domain(value: str) -> str:
    if value:
        return parse_domain(value)
    name = socket.getfqdn()
    try:
        return parse_domain(name)
    except ValueError:
        raise ValueError(f"this host has no usable name ({quoted(name)}): set domain") from None


def _wishes(value: tuple[str, ...]) -> tuple[str, ...]:
    Wishes.of(value)
    return value


def _trusted(value: tuple[str, ...]) -> tuple[str, ...]:
    Networks(value)
    return value


def _workers(value: object) -> int | str:
    number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_WORKERS
    if not (number or value == "auto"):
        raise ValueError(f'must be "auto" or a number from 1 to {MOST_WORKERS}')
    return value  # type: ignore[return-value]


def _delimiters(value: str) -> str:
    wrong = [c for c in value if not c.isascii() or c.isalnum() or c not in "!#$%&'*+-/=?^_`{|}~."]
    if wrong:
        raise ValueError(f"{quoted(wrong[0])} cannot delimit: use a character such as + or -")
    return value


Duration = Annotated[float, PlainValidator(_duration)]  # seconds
DurationOrZero = Annotated[float, PlainValidator(_duration_or_zero)]  # seconds
Size = Annotated[int, PlainValidator(_size)]  # octets
Count = Annotated[int, Field(strict=True, gt=0)]
CountOrZero = Annotated[int, Field(strict=True, ge=0)]
Workers = Annotated[int | str, PlainValidator(_workers)]  # "auto" or a number
CommandSize = Annotated[int, Field(strict=True, ge=512)]  # RFC 5321 section 4.5.3.1.4
Ipv4Prefix = Annotated[int, Field(strict=True, ge=1, le=32)]
Ipv6Prefix = Annotated[int, Field(strict=True, ge=1, le=128)]
Flag = Annotated[bool, Field(strict=True)]
FileName = Annotated[str, AfterValidator(_file_name)]  # absolute after a reading; "" = none
PresentFile = Annotated[str, AfterValidator(_present), AfterValidator(_file_name)]
SocketName = Annotated[str, AfterValidator(_socket_name)]  # the same; "" = none
Listen = Annotated[Address, PlainValidator(_address)]
ListenOrNone = Annotated[Address | None, PlainValidator(_address_or_none)]  # "" = None
Token = Annotated[str, AfterValidator(_token)]  # "" = none
Domain = Annotated[str, AfterValidator(_domain)]  # "" = the host's
Delimiters = Annotated[str, AfterValidator(_delimiters)]
Present = Annotated[str, AfterValidator(_present)]
Port = Annotated[int, Field(strict=True, gt=0, lt=65536)]
Share = Annotated[float, PlainValidator(_share)]  # a part of 1
Servers = Annotated[str, AfterValidator(_servers)]  # as `parse_servers` takes them
MysqlQuery = Annotated[Present, _keyed(MYSQL)]
MysqlUpstreamsQuery = Annotated[str, _keyless(MYSQL)]  # "" = none
SqliteQuery = Annotated[Present, _keyed(SQLITE)]
SqliteUpstreamsQuery = Annotated[str, _keyless(SQLITE)]  # "" = none
HttpUrl = Annotated[Present, AfterValidator(_url)]
HttpHeaders = Annotated[dict[str, str], AfterValidator(_headers)]
ExtensionWishes = Annotated[tuple[str, ...], AfterValidator(_wishes)]  # as `Wishes` takes them
Trusted = Annotated[tuple[str, ...], AfterValidator(_trusted)]  # as `Networks` takes them
StoreUrl = Annotated[str, AfterValidator(_store)]  # as `parse_place` takes it; "" = none
DnsServer = Annotated[str, AfterValidator(parse_dns_server)]
Some = AfterValidator(_some)
