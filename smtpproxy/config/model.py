"""The settings: their names, types, defaults and meanings.

A default is written as the file would have it ("5m") and read as a setting is
(300.0), so `settings` and the documentation show what an administrator types.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args, get_origin

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from smtpproxy.config.lines import KeyPath
from smtpproxy.config.mappings import Mapping
from smtpproxy.config.places import Places
from smtpproxy.config.table import Table, needed, setting
from smtpproxy.config.types import (
    CommandSize,
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
    Ipv4Prefix,
    Ipv6Prefix,
    Listen,
    ListenOrNone,
    Size,
    SocketName,
    Some,
    StoreUrl,
    Token,
    Trusted,
    Workers,
)
from smtpproxy.faults import Fault
from smtpproxy.smtp.keywords import Wishes
from smtpproxy.store import parse_place


class Listener(Table):
    """An address that clients connect to."""

    listen: Listen = needed(
        'Where to listen: "127.0.0.1:25", "[::1]:25", ":25" (all addresses, IPv4 and IPv6), '
        '"unix:/path", or "systemd:name" for a socket that systemd passes.',
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
    proxy_from: Trusted = setting(
        'The load balancers, as "192.0.2.0/24", "2001:db8::1" or "unix" (all who use the Unix '
        "socket): each connection of theirs must begin with a PROXY header, v1 or v2, which says "
        "who the client is.",
        (),
    )
    xclient_from: Trusted = setting(
        "From where XCLIENT is taken, written as in proxy_from: who is let say by it that the "
        "client is somebody else.",
        (),
    )
    xforward_from: Trusted = setting(
        "From where XFORWARD is taken, written as in proxy_from: what it says goes into the log "
        "alone.",
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
    check_every: Duration = setting(
        "The longest between two checks of an address of an upstream that failed; the first comes "
        "after 5 seconds, each further one after twice as long.",
        "1m",
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
    max_connections: CountOrZero = setting(
        "The most connections to one upstream, in use and kept; who needs one more waits for it; "
        "0 = any number.",
        0,
    )
    guard_time: DurationOrZero = setting(
        "How long an upstream that took most mail and suddenly refuses nearly all of it has its "
        '5xx told as 451, so that nothing bounces; "0s" = not at all.',
        "30m",
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
    proxy_header: Duration = setting(
        "How long a load balancer (proxy_from) may take for its PROXY header.", "5s"
    )
    client_session: Duration = setting(
        "How long a session may take in all; it does not end while an upstream is waited for.", "4h"
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
    max_header_bytes: Size = setting(
        "The largest header of a message, in octets: all up to the first empty line.", "1MiB"
    )
    max_command_bytes: CommandSize = setting(
        "The longest command line, in octets, at least 512; more by what the parameters of the "
        "extensions announced may take.",
        2048,
    )
    max_recipients: Count = setting("The most recipients of one transaction.", 1000)
    max_errors: Count = setting(
        "The most bad commands and unknown recipients of one session; then 421.", 20
    )
    max_junk: Count = setting(
        "The most commands between two messages that do nothing, such as NOOP, RSET and EHLO; each "
        "further one is an error.",
        100,
    )
    max_commands: Count = setting("The most commands of one session; then 421.", 100_000)
    max_session_messages: Count = setting(
        "The most messages of one session; the next MAIL gets 421.", 1000
    )
    max_session_recipients: Count = setting(
        "How many recipients of one session are enough; the next MAIL gets 421.", 50_000
    )
    min_data_rate: CountOrZero = setting(
        "The least octets a second at which content must come; it may come slower for "
        "timeouts.client_data in all; 0 = any rate.",
        500,
    )
    max_connections: Count = setting("The most client connections at once.", 10000)
    max_waiting: CountOrZero = setting(
        "The most sessions at once that wait for an upstream; further ones get 451 for their first "
        "recipient; 0 = any number.",
        5000,
    )
    max_connections_per_address: Count = setting(
        "The most connections at once from one client address.", 100
    )
    max_connections_per_minute: CountOrZero = setting(
        "The most new connections within a minute from one client address; 0 = any number.", 3000
    )
    max_messages_per_minute: CountOrZero = setting(
        "The most messages begun within a minute from one client address; 0 = any number.", 0
    )
    max_recipients_per_minute: CountOrZero = setting(
        "How many recipients within a minute from one client address are enough; the next MAIL "
        "gets 421; 0 = any number.",
        0,
    )
    ipv4_prefix: Ipv4Prefix = setting(
        "How many bits of IPv4 addresses make one client address: 24 has all of a /24 share its "
        "limits.",
        32,
    )
    ipv6_prefix: Ipv6Prefix = setting("How many bits of IPv6 addresses make one.", 64)
    exempt: Trusted = setting(
        "The clients that have no limits per address and per minute, written as in proxy_from.",
        ("127.0.0.0/8", "::1"),
    )
    shared: StoreUrl = setting(
        "A Redis or Valkey server through which several processes, on one machine or many, keep "
        'the limits per address together: "redis://HOST:6379/0", "rediss://HOST:6379/0" for TLS, '
        'or "unix:/path?db=0"; "" = each keeps its own.',
        "",
        secret=True,
    )
    shared_password_file: FileName = setting(
        'In place of a password in shared: a file that holds it and nothing else; "" = none.', ""
    )
    shared_tls_ca: FileName = setting(
        "File with the authorities that the certificate of that server is verified against, in "
        'PEM; "" = those of the system.',
        "",
    )

    @field_validator("shared_password_file")
    @classmethod
    def _one_password(cls, file: str, info: ValidationInfo) -> str:
        place = info.data.get("shared")
        if file and place == "":
            raise ValueError("stands alone: set shared too, or leave it out")
        if file and place and parse_place(place).password:
            raise ValueError("stands beside a password in shared: leave one of the two out")
        return file

    @field_validator("shared_tls_ca")
    @classmethod
    def _of_tls(cls, file: str, info: ValidationInfo) -> str:
        place = info.data.get("shared")
        if file and place is not None and not (place and parse_place(place).tls):
            raise ValueError('counts for TLS alone: write shared = "rediss://…", or leave it out')
        return file


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
