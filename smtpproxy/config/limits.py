"""The settings that bound what is waited for, and what is taken."""

from __future__ import annotations

from pydantic import ValidationInfo, field_validator

from smtpproxy.config.table import Table, setting
from smtpproxy.config.types import (
    CommandSize,
    Count,
    CountOrZero,
    Duration,
    FileName,
    Ipv4Prefix,
    Ipv6Prefix,
    Size,
    StoreUrl,
    Trusted,
)
from smtpproxy.store import parse_place


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
