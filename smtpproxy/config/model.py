"""The settings: their names, types, defaults and meanings.

A default is written as the file would have it ("5m") and read as a setting is
(300.0), so `settings` and the documentation show what an administrator types.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from smtpproxy.config.types import (
    Count,
    Delimiters,
    DnsServer,
    Domain,
    Duration,
    FileName,
    Flag,
    Listen,
    PresentFile,
    Server,
    Size,
    Some,
)


def _setting(meaning: str, default: Any) -> Any:
    """A setting, its default as the file would have it."""
    return Field(default, description=meaning)


def _needed(meaning: str, example: str) -> Any:
    """A setting without a default, and how one would write it."""
    return Field(description=meaning, examples=[example])


class Table(BaseModel):
    """A table of the configuration file."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Listener(Table):
    """An address that clients connect to."""

    listen: Listen = _needed(
        'Where to listen: "127.0.0.1:25", "[::1]:25", ":25" (all addresses, IPv4 and IPv6) '
        'or "unix:/path".',
        'listen = ":25"',
    )
    tls_cert: FileName = _setting(
        'File with the certificate for STARTTLS and the chain behind it, in PEM; "" = no STARTTLS.',
        "",
    )
    tls_key: FileName = _setting("File with the private key of tls_cert, in PEM.", "")

    @field_validator("tls_key")
    @classmethod
    def _both_or_none(cls, key: str, info: ValidationInfo) -> str:
        cert = info.data.get("tls_cert", key)
        if cert and not key:
            raise ValueError("is missing: tls_cert needs the key that belongs to it")
        if key and not cert:
            raise ValueError("stands alone: set tls_cert too, or neither")
        return key


class CsvMapping(Table):
    """Upstreams from a CSV file."""

    type: Literal["csv"] = _needed('The kind of mapping: "csv" or "static".', 'type = "csv"')
    file: PresentFile = _needed(
        'For "csv": the file, with lines pattern;server;tls_verify.', 'file = "mapping.csv"'
    )


class StaticMapping(Table):
    """One upstream for every recipient."""

    type: Literal["static"] = _needed('The kind of mapping: "csv" or "static".', 'type = "static"')
    server: Server = _needed(
        'For "static": the upstream, as host, host:port, [IPv6] or [IPv6]:port; '
        "the port is 25 by default.",
        'server = "mail.example.com"',
    )
    tls_verify: Flag = _setting(
        'For "static": whether the certificate of the upstream must verify.', True
    )


class Timeouts(Table):
    """How long to wait for what: seconds."""

    client_command: Duration = _setting("How long a client may take for its next command.", "5m")
    client_data: Duration = _setting(
        "How long a client may pause between two blocks of content.", "3m"
    )
    upstream_connect: Duration = _setting(
        "How long connecting to one address of an upstream may take, and each TLS handshake.",
        "30s",
    )
    upstream_reply: Duration = _setting(
        "How long an upstream may take for its greeting, and to answer EHLO, XCLIENT, MAIL, "
        "RCPT or DATA.",
        "5m",
    )
    upstream_final: Duration = _setting(
        "How long an upstream may take to answer the final dot.", "10m"
    )
    recipient: Duration = _setting(
        "How long everything that the first RCPT asks for may take: look-up, connection, "
        "replay and answer.",
        "4m",
    )
    drain: Duration = _setting(
        "How long transactions in hand may take to end when the program stops.", "30s"
    )


class Limits(Table):
    """How much of what."""

    max_message_bytes: Size = _setting(
        "The largest message taken, in octets; announced as SIZE.", "50MiB"
    )
    max_recipients: Count = _setting("The most recipients of one transaction.", 1000)
    max_errors: Count = _setting(
        "The most bad commands and unknown recipients of one session; then 421.", 20
    )
    max_connections: Count = _setting("The most client connections at once.", 10000)
    max_connections_per_address: Count = _setting(
        "The most connections at once from one client address.", 100
    )


class Dns(Table):
    """How names are looked up."""

    servers: tuple[DnsServer, ...] = _setting(
        'The name servers to ask, as "192.0.2.53" or "192.0.2.53:5353"; [] = those of the system.',
        (),
    )
    timeout: Duration = _setting("How long finding the name of one client may take in all.", "5s")
    reverse: Flag = _setting(
        "Whether to look up the names of clients, to log them and to tell upstreams.", True
    )


class Log(Table):
    """What is logged, where and how."""

    format: Literal["text", "json"] = _setting(
        'The form of a log line: "text" (as Postfix writes it) or "json".', "text"
    )
    level: Literal["debug", "info", "warning", "error"] = _setting(
        'The least that is logged: "debug", "info", "warning" or "error".', "info"
    )
    file: FileName = _setting('The file to write to; "" = standard output.', "")


class Config(Table):
    """The whole configuration."""

    domain: Domain = _setting(
        'The name of this server in its greeting and in EHLO; "" = the full name of the host.',
        "",
    )
    recipient_delimiter: Delimiters = _setting(
        'Characters that begin a suffix in a local part, as + does in user+suffix; "" = none.', ""
    )
    tls_ca: FileName = _setting(
        "File with the authorities that certificates of upstreams are verified against, in PEM; "
        '"" = those of the system.',
        "",
    )
    bare_newline: Literal["normalize", "reject"] = _setting(
        'What to do with a bare CR or LF in content: "normalize" (make it CRLF) or '
        '"reject" (refuse the message).',
        "normalize",
    )
    listeners: Annotated[tuple[Listener, ...], Some] = _needed(
        "The addresses that clients connect to; at least one.", '[[listeners]] and listen = ":25"'
    )
    mappings: Annotated[
        tuple[Annotated[CsvMapping | StaticMapping, Field(discriminator="type")], ...],
        Some,
    ] = _needed(
        "Which upstream takes the mail for which recipient: asked in this order, the first that "
        "knows decides; at least one.",
        '[[mappings]], type = "csv" and file = "mapping.csv"',
    )
    timeouts: Timeouts = Field(default_factory=Timeouts)
    limits: Limits = Field(default_factory=Limits)
    dns: Dns = Field(default_factory=Dns)
    log: Log = Field(default_factory=Log)


def tables_in(annotation: Any) -> tuple[type[Table], ...]:
    """The tables that a setting of this type consists of; () for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return (annotation,)
    return tuple(table for part in get_args(annotation) for table in tables_in(part))


def is_list(setting: FieldInfo) -> bool:
    """The setting is written as a list: [ ... ], or [[tables]]."""
    return get_origin(setting.annotation) is tuple


class Setting(NamedTuple):
    """One setting, for documentation: "listeners[].listen", '":25"' or "" if needed, meaning."""

    path: str
    default: str
    meaning: str


def settings() -> list[Setting]:
    """Every setting but the tables themselves, in the order of the model, each once."""
    return list(dict.fromkeys(_settings((Config,), "")))


def _settings(tables: tuple[type[Table], ...], prefix: str) -> Iterator[Setting]:
    for table in tables:
        for name, setting in table.model_fields.items():
            path = f"{prefix}{name}"
            if inner := tables_in(setting.annotation):
                yield from _settings(inner, f"{path}[]." if is_list(setting) else f"{path}.")
            else:
                default = "" if setting.is_required() else json.dumps(setting.default)
                yield Setting(path, default, setting.description or "")
