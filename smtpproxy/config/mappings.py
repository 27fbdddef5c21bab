"""The settings of mappings, a table for each kind."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from smtpproxy.config.table import Table, needed, setting
from smtpproxy.config.types import (
    Count,
    Duration,
    DurationOrZero,
    FileName,
    Flag,
    HttpHeaders,
    HttpUrl,
    MysqlQuery,
    MysqlUpstreamsQuery,
    Port,
    Present,
    PresentFile,
    Servers,
    Share,
    SqliteQuery,
    SqliteUpstreamsQuery,
)

TlsWay = Literal["", "none", "may", "encrypt", "verify"]
IdentityWay = Literal["auto", "xclient", "proxy1", "proxy2", "received", "none"]

# What several kinds have.

_TYPE = "The kind of mapping."
_FILE_OF_ROWS = 'file = "mapping.csv"'
_PARENT_DOMAINS = setting(
    "Whether rows for the domains in a domain (.example.org) are looked for.", False
)
_MAX_SHRINK = setting(
    "A changed file that would drop more than this part of the rows is not taken while the "
    'program runs; "100%" = take any.',
    "50%",
)
_TLS_VERIFY = setting("Whether the certificate must verify where the upstream offers TLS.", True)
_TLS = setting(
    'In place of tls_verify: "none" (never TLS), "may" (where it is offered), "encrypt" (always) '
    'or "verify" (always, and the certificate must verify); "" = as tls_verify says.',
    "",
)
_IDENTITY = setting(
    'How the upstream is told who the client is: "auto" (XCLIENT where it is offered), "xclient" '
    '(no mail without it), "proxy1" or "proxy2" (the PROXY protocol), "received" (a line in the '
    'message) or "none".',
    "auto",
)
_QUERY = "The query for one key, which takes the place of the ? in it."
_A_QUERY = 'query = "SELECT server, tls_verify FROM routes WHERE pattern = ?"'
_UPSTREAMS_QUERY = setting(
    'A query for all upstreams, with the same columns and no ?, so that they are known early; "" = '
    "none.",
    "",
)
_LOOKUP_TIMEOUT = setting("How long a look-up may take in all.", "5s")
_CONNECTIONS = setting("The most connections at once.", 4)
_CACHE_TTL = setting('How long a row is remembered; "0s" = not.', "60s")
_CACHE_NEGATIVE_TTL = setting('How long it is remembered that there is no row; "0s" = not.', "30s")
_CACHE_SIZE = setting("The most keys remembered.", 50_000)
_STALE_FOR = setting(
    "How much longer a row that is remembered counts while the database fails; "
    '"0s" = not: clients are told 451.',
    "0s",
)


class CsvMapping(Table):
    """Upstreams from a CSV file."""

    type: Literal["csv"] = needed(_TYPE, 'type = "csv"')
    file: PresentFile = needed("The file of rows.", _FILE_OF_ROWS)
    parent_domains: Flag = _PARENT_DOMAINS
    max_shrink: Share = _MAX_SHRINK


class RegexMapping(Table):
    """Upstreams from a file of regular expressions."""

    type: Literal["regex"] = needed(_TYPE, 'type = "regex"')
    file: PresentFile = needed("The file of rows.", 'file = "patterns.csv"')
    timeout: Duration = setting(
        "What all expressions together may take of the processor's time for one look-up.", "10ms"
    )
    max_shrink: Share = _MAX_SHRINK


class MysqlMapping(Table):
    """Upstreams from a table of MySQL or MariaDB."""

    type: Literal["mysql"] = needed(_TYPE, 'type = "mysql"')
    host: Present = setting("The host of the database.", "localhost")
    port: Port = setting("Its port.", 3306)
    unix_socket: FileName = setting('Its Unix socket, in place of host and port; "" = none.', "")
    user: Present = setting("The user to log in as.", "smtpproxy")
    password: str = setting('The password of that user; "" = none.', "", secret=True)
    password_file: FileName = setting(
        'In place of password: a file that holds it and nothing else; "" = none.', ""
    )
    database: Present = needed("The database.", 'database = "smtpproxy"')
    tls: Flag = setting("Whether there must be TLS to the database.", False)
    tls_ca: FileName = setting(
        "File with the authorities that its certificate is verified against, in PEM; "
        '"" = those of the system.',
        "",
    )
    tls_verify: Flag = setting("Whether its certificate must verify.", True)
    query: MysqlQuery = needed(_QUERY, _A_QUERY)
    upstreams_query: MysqlUpstreamsQuery = _UPSTREAMS_QUERY
    parent_domains: Flag = _PARENT_DOMAINS
    timeout: Duration = _LOOKUP_TIMEOUT
    connections: Count = _CONNECTIONS
    cache_ttl: DurationOrZero = _CACHE_TTL
    cache_negative_ttl: DurationOrZero = _CACHE_NEGATIVE_TTL
    cache_size: Count = _CACHE_SIZE
    stale_for: DurationOrZero = _STALE_FOR

    @field_validator("password_file")
    @classmethod
    def _one_password(cls, file: str, info: ValidationInfo) -> str:
        if file and info.data.get("password"):
            raise ValueError("stands beside password: leave one of the two out")
        return file

    @field_validator("tls_ca")
    @classmethod
    def _of_tls(cls, file: str, info: ValidationInfo) -> str:
        if file and not info.data.get("tls", True):
            raise ValueError("counts for TLS alone: add tls = true, or leave it out")
        return file


class SqliteMapping(Table):
    """Upstreams from a table of SQLite."""

    type: Literal["sqlite"] = needed(_TYPE, 'type = "sqlite"')
    file: PresentFile = needed("The file of the database.", 'file = "routes.db"')
    query: SqliteQuery = needed(_QUERY, _A_QUERY)
    upstreams_query: SqliteUpstreamsQuery = _UPSTREAMS_QUERY
    parent_domains: Flag = _PARENT_DOMAINS
    timeout: Duration = _LOOKUP_TIMEOUT
    connections: Count = _CONNECTIONS
    cache_ttl: DurationOrZero = _CACHE_TTL
    cache_negative_ttl: DurationOrZero = _CACHE_NEGATIVE_TTL
    cache_size: Count = _CACHE_SIZE
    stale_for: DurationOrZero = _STALE_FOR


class HttpMapping(Table):
    """Upstreams from a web service."""

    type: Literal["http"] = needed(_TYPE, 'type = "http"')
    url: HttpUrl = needed(
        "Where to ask: http:// or https://.", 'url = "http://127.0.0.1:8080/route"', secret=True
    )
    protocol: Literal["json", "nginx"] = setting(
        'The form of question and answer: "json", or "nginx" as for its auth_http.', "json"
    )
    headers: HttpHeaders = setting(
        'Headers added to every request: { X-Auth-Key = "secret" }.', {}, secret=True
    )
    tls_ca: FileName = setting(
        "File with the authorities that the certificate of an https service is verified against, "
        'in PEM; "" = those of the system.',
        "",
    )
    timeout: Duration = _LOOKUP_TIMEOUT
    connections: Count = setting("The most look-ups under way at once.", 10)
    tls_verify: Flag = setting(
        'For "nginx": whether the certificate must verify where an upstream offers TLS.', True
    )
    tls: TlsWay = setting(
        'For "nginx": as in a row, in place of tls_verify; "" = as that says.', ""
    )
    identity: IdentityWay = setting('For "nginx": as in a row.', "auto")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = {"tls_verify", "tls", "identity"} & self.model_fields_set
        changed = [name for name in sorted(ways) if getattr(self, name) not in (True, "", "auto")]
        if self.protocol == "json" and changed:
            raise ValueError(
                f'{changed[0]} is for protocol = "nginx": with "json" the service says it'
            )
        _check_ways(self)
        return self


class StaticMapping(Table):
    """One upstream for every recipient."""

    type: Literal["static"] = needed(_TYPE, 'type = "static"')
    server: Servers = needed(
        "The upstream: host, host:port, [IPv6] or [IPv6]:port, the port being 25 by default; "
        "unix:/path; either with lmtp: in front, the port then being 24; mx:domain; several with "
        "commas between them.",
        'server = "mail.example.com"',
    )
    tls_verify: Flag = _TLS_VERIFY
    tls: TlsWay = _TLS
    identity: IdentityWay = _IDENTITY

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        _check_ways(self)
        return self


Mapping = Annotated[
    CsvMapping | RegexMapping | MysqlMapping | SqliteMapping | HttpMapping | StaticMapping,
    Field(discriminator="type"),
]

KINDS = ("csv", "regex", "mysql", "sqlite", "http", "static")


def _check_ways(mapping: StaticMapping | HttpMapping) -> None:
    if mapping.tls and "tls_verify" in mapping.model_fields_set:
        raise ValueError("tls stands beside tls_verify: leave one of the two out")
