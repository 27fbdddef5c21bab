"""The settings: their names, types, defaults and meanings.

A default is written as the file would have it ("5m") and read as a setting is
(300.0), so `settings` and the documentation show what an administrator types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args, get_origin

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from smtpproxy.config.mappings import Mapping
from smtpproxy.config.places import Places
from smtpproxy.config.table import Table, needed, setting
from smtpproxy.config.types import (
    Count,
    CountOrZero,
    Delimiters,
    DnsServer,
    Domain,
    Duration,
    DurationOrZero,
    ExtensionWishes,
    FileName,
    Flag,
    Listen,
    Size,
    SocketName,
    Some,
)
from smtpproxy.smtp.keywords import Wishes


class Listener(Table):
    """An address that clients connect to."""

    listen: Listen = needed(
        'Where to listen: "127.0.0.1:25", "[::1]:25", ":25" (all addresses, IPv4 and IPv6) '
        'or "unix:/path".',
        'listen = ":25"',
    )
    protocol: Literal["smtp", "lmtp"] = setting(
        'What clients speak: "smtp", or "lmtp" (a reply for each recipient of a message).',
        "smtp",
    )
    tls_cert: FileName = setting(
        'File with the certificate for STARTTLS and the chain behind it, in PEM; "" = no STARTTLS.',
        "",
    )
    tls_key: FileName = setting("File with the private key of tls_cert, in PEM.", "")
    extensions: ExtensionWishes = setting(
        'What EHLO announces whatever upstreams offer, as "+SMTPUTF8", and what it never does, as '
        '"-CHUNKING"; the rest is learnt from the upstreams.',
        (),
    )

    @field_validator("protocol")
    @classmethod
    def _lmtp_not_on_port_25(cls, protocol: str, info: ValidationInfo) -> str:
        listen = info.data.get("listen")
        if protocol == "lmtp" and listen is not None and listen.port == 25:  # RFC 2033 section 5
            raise ValueError('"lmtp" is never on port 25, where SMTP is expected: its own is 24')
        return protocol

    @field_validator("tls_key")
    @classmethod
    def _both_or_none(cls, key: str, info: ValidationInfo) -> str:
        cert = info.data.get("tls_cert", key)
        if cert and not key:
            raise ValueError("is missing: tls_cert needs the key that belongs to it")
        if key and not cert:
            raise ValueError("stands alone: set tls_cert too, or neither")
        return key

    @field_validator("extensions")
    @classmethod
    def _can_be_offered(cls, texts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        wishes = Wishes.of(texts)
        if not info.data.get("tls_cert", True):
            for keyword in sorted({"STARTTLS", "REQUIRETLS"} & wishes.always):
                raise ValueError(f'"+{keyword}" cannot work without tls_cert and tls_key')
        if "PRDR" in wishes.always and info.data.get("protocol") == "lmtp":
            raise ValueError('"+PRDR" is not for "lmtp", which has a reply for each recipient')
        return texts


class Upstreams(Table):
    """How upstreams are got to know, and spoken to."""

    ask_every: DurationOrZero = setting(
        "How often each upstream that the mappings can list is asked what it offers, unless mail "
        'has gone there; "0s" = not.',
        "10m",
    )
    chunking: Literal["as_received", "preferred"] = setting(
        'When a message is sent by BDAT to an upstream that takes it: "as_received" (where it came '
        'by BDAT) or "preferred" (always).',
        "as_received",
    )
    keep_idle: DurationOrZero = setting(
        "How long a connection to an upstream is kept after a session, for the next that may use "
        'it; "0s" = not at all.',
        "2s",
    )
    keep_age: Duration = setting("How old a connection may be that is kept.", "5m")
    keep_uses: Count = setting("How many messages one connection may carry that is kept.", 100)
    keep_connections: Count = setting("The most connections kept for one upstream.", 20)
    ready_connections: CountOrZero = setting(
        "How many connections are made ahead for each upstream that is in use, so that clients "
        "need not wait for them.",
        0,
    )

    @field_validator("ready_connections")
    @classmethod
    def _ready_ones_are_kept(cls, ready: int, info: ValidationInfo) -> int:
        idle, most = info.data.get("keep_idle"), info.data.get("keep_connections")
        if ready and idle == 0:
            raise ValueError('none is kept: set keep_idle, such as "2s", or leave this at 0')
        if most is not None and ready > most:
            raise ValueError(f"is more than keep_connections ({most}): raise that one, too")
        return ready


class Timeouts(Table):
    """How long to wait for what: seconds."""

    client_command: Duration = setting("How long a client may take for its next command.", "5m")
    client_data: Duration = setting(
        "How long a client may pause between two blocks of content.", "3m"
    )
    upstream_connect: Duration = setting(
        "How long connecting to one address of an upstream may take, and each TLS handshake.",
        "30s",
    )
    upstream_reply: Duration = setting(
        "How long an upstream may take for its greeting, and to answer EHLO, XCLIENT, MAIL, "
        "RCPT or DATA.",
        "5m",
    )
    upstream_final: Duration = setting(
        "How long an upstream may take to answer the final dot.", "10m"
    )
    recipient: Duration = setting(
        "How long everything that the first RCPT asks for may take: look-up, connection, "
        "replay and answer.",
        "4m",
    )
    drain: Duration = setting(
        "How long transactions in hand may take to end when the program stops.", "30s"
    )


class Limits(Table):
    """How much of what."""

    max_message_bytes: Size = setting(
        "The largest message taken, in octets; announced as SIZE.", "50MiB"
    )
    max_recipients: Count = setting("The most recipients of one transaction.", 1000)
    max_errors: Count = setting(
        "The most bad commands and unknown recipients of one session; then 421.", 20
    )
    max_connections: Count = setting("The most client connections at once.", 10000)
    max_connections_per_address: Count = setting(
        "The most connections at once from one client address.", 100
    )


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
        "The Unix socket through which smtpproxy reload and smtpproxy lookup talk to the running "
        'program; "" = none.',
        "",
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

    _places: Places = PrivateAttr(default_factory=Places)

    def place(self, *key: str | int) -> str:
        """Where the setting with that path is written, as faults name it."""
        return self._places.of(key)

    def written_at(self, places: Places) -> Self:
        """The same, which knows where it is written."""
        config = self.model_copy()
        config._places = places
        return config


def tables_in(annotation: Any) -> tuple[type[Table], ...]:
    """The tables that a setting of this type consists of; () for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return (annotation,)
    return tuple(table for part in get_args(annotation) for table in tables_in(part))


def is_list(setting: FieldInfo) -> bool:
    """The setting is written as a list: [ ... ], or [[tables]]."""
    return get_origin(setting.annotation) is tuple


class Setting(NamedTuple):
    """One setting, for documentation.

    `path` is as in "listeners[].listen"; `kind` the kind of mapping it is for, "" elsewhere;
    `default` as in the file ('":25"'), "" where it is needed.
    """

    path: str
    kind: str
    default: str
    meaning: str


def settings() -> list[Setting]:
    """Every setting but the tables themselves, in the order of the model."""
    return list(_settings((Config,), ""))


def kind_of(table: type[Table]) -> str:
    """The kind of mapping that a table is for, "" for another table."""
    kind = table.model_fields.get("type")
    return str(get_args(kind.annotation)[0]) if kind else ""


def _settings(tables: tuple[type[Table], ...], prefix: str) -> Iterator[Setting]:
    for table in tables:
        for name, each in table.model_fields.items():
            path = f"{prefix}{name}"
            if inner := tables_in(each.annotation):
                yield from _settings(inner, f"{path}[]." if is_list(each) else f"{path}.")
            else:
                default = "" if each.is_required() else json.dumps(each.default)
                yield Setting(path, kind_of(table), default, each.description or "")
