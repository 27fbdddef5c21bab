"""The settings: their names, types, defaults and meanings.

A default is written as the file would have it ("5m") and read as a setting is
(300.0), so `settings` and the documentation show what an administrator types.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator

from smtpproxy.config.limits import Limits, Timeouts
from smtpproxy.config.lines import KeyPath
from smtpproxy.config.listeners import Listener
from smtpproxy.config.mappings import Mapping
from smtpproxy.config.places import Places
from smtpproxy.config.table import Table, needed, setting
from smtpproxy.config.types import (
    Delimiters,
    DnsServer,
    Domain,
    Duration,
    FileName,
    Flag,
    ListenOrNone,
    SocketName,
    Some,
    Token,
    Workers,
)
from smtpproxy.config.upstreams import Upstreams
from smtpproxy.faults import Fault


class Dns(Table):
    """How names are looked up."""

    servers: tuple[DnsServer, ...] = setting(
        'The name servers to ask, as "192.0.2.53" or "192.0.2.53:5353"; [] = those of the system.',
        (),
    )
    timeout: Duration = setting("How long finding the name of one client may take in all.", "5s")
    reverse: Flag = setting(
        "Whether to look up the names of clients, to log them and to tell upstreams.", True
    )


class Log(Table):
    """What is logged, where and how."""

    format: Literal["text", "json"] = setting(
        'The form of a log line: "text" (as Postfix writes it) or "json".', "text"
    )
    level: Literal["debug", "info", "warning", "error"] = setting(
        'The least that is logged: "debug", "info", "warning" or "error".', "info"
    )
    file: FileName = setting('The file to write to; "" = standard output.', "")


class Http(Table):
    """The status page, metrics and health checks."""

    listen: ListenOrNone = setting(
        'Where they are served: "127.0.0.1:9025", "[::1]:9025", "unix:/path"; "" = nowhere.', ""
    )
    token: Token = setting(
        'What has to be said to reload, drain and enable by HTTP; "" = nobody may.',
        "",
        secret=True,
    )
    token_file: FileName = setting(
        'In place of token: a file that holds it and nothing else; "" = none.', ""
    )
    hosts: tuple[Domain, ...] = setting(
        "Further names under which browsers and others may ask for it; addresses, localhost and "
        "the domain need not be listed.",
        (),
    )

    @field_validator("token_file")
    @classmethod
    def _one_of_both(cls, file: str, info: ValidationInfo) -> str:
        if file and info.data.get("token"):
            raise ValueError("stands beside token: set one of them")
        return file


class Config(Table):
    """The whole configuration."""

    domain: Domain = setting(
        'The name of this server in its greeting and in EHLO; "" = the full name of the host.',
        "",
    )
    recipient_delimiter: Delimiters = setting(
        'Characters that begin a suffix in a local part, as + does in user+suffix; "" = none.', ""
    )
    tls_ca: FileName = setting(
        "File with the authorities that certificates of upstreams are verified against, in PEM; "
        '"" = those of the system.',
        "",
    )
    bare_newline: Literal["normalize", "reject"] = setting(
        'What to do with a bare CR or LF in content: "normalize" (make it CRLF) or '
        '"reject" (refuse the message).',
        "normalize",
    )
    control: SocketName = setting(
        "The Unix socket through which the command smtpproxy talks to the running program; "
        '"" = none.',
        "",
    )
    workers: Workers = setting(
        'How many processes share the work: a number, or "auto" for one for each processor. A '
        "change needs a restart.",
        1,
    )
    session_in_replies: Flag = setting(
        "Whether the greeting and our own refusals name the session, by the id that the log has.",
        False,
    )
    listeners: Annotated[tuple[Listener, ...], Some] = needed(
        "The addresses that clients connect to; at least one.", '[[listeners]] and listen = ":25"'
    )
    mappings: Annotated[tuple[Mapping, ...], Some] = needed(
        "Which upstream takes the mail for which recipient: asked in this order, the first that "
        "knows decides; at least one.",
        '[[mappings]], type = "csv" and file = "mapping.csv"',
    )
    upstreams: Upstreams = Field(default_factory=Upstreams)
    timeouts: Timeouts = Field(default_factory=Timeouts)
    limits: Limits = Field(default_factory=Limits)
    dns: Dns = Field(default_factory=Dns)
    log: Log = Field(default_factory=Log)
    http: Http = Field(default_factory=Http)

    _places: Places = PrivateAttr(default_factory=Places)

    def place(self, *key: str | int) -> str:
        """Where the setting with that path is written, as faults name it."""
        return self._places.of(key)

    def naming(self, faults: Iterable[Fault]) -> list[Fault]:
        """The same, once each; those of a file as a whole say by which setting it is meant."""
        keys: dict[str, KeyPath] = {}
        for key, value in _values(self):
            if isinstance(value, str):
                keys.setdefault(value, key)
        named: dict[Fault, None] = {}
        for fault in faults:
            place = fault.place
            if place in keys:
                place = f"{self.place(*keys[place])}: {place}"
            named[Fault(place, fault.text)] = None
        return list(named)

    def written_at(self, places: Places) -> Self:
        """The same, which knows where it is written."""
        config = self.model_copy()
        config._places = places
        return config


def _values(table: Table, around: KeyPath = ()) -> Iterator[tuple[KeyPath, object]]:
    """The path and the value of each setting in a table, and in those within."""
    for name in type(table).model_fields:
        value, path = getattr(table, name), (*around, name)
        elements = (
            [((*path, number), each) for number, each in enumerate(value)]
            if isinstance(value, tuple)
            else [(path, value)]
        )
        for key, each in elements:
            if isinstance(each, Table):
                yield from _values(each, key)
            else:
                yield key, each
