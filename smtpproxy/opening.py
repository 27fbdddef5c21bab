"""Opening what a mapping's settings name: its file, its database or its web service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smtpproxy import config as settings
from smtpproxy.faults import Fault, Faults, unreadable
from smtpproxy.routing import CsvTable, KeyedMapping, Mapping, StaticMapping, parse_row
from smtpproxy.values import value
from smtpproxy.watched import Content, Signatures, WatchedFile, signature, signatures

if TYPE_CHECKING:
    from smtpproxy.deadlines import Deadlines
    from smtpproxy.routing.cache import CachedTable
    from smtpproxy.routing.database import DatabaseTable
    from smtpproxy.routing.http import HttpMapping


@value
class Loop:
    """What mappings wait with."""

    reactor: Any
    deadlines: Deadlines


@dataclass(slots=True, eq=False)
class Opened:
    """One mapping that is open, with what it consists of, and the settings it was made by.

    `marks` are the signatures of files that were read for it once: a password, authorities.
    """

    settings: settings.Mapping
    place: str
    marks: Signatures
    mapping: Any = None
    file: WatchedFile | None = None
    cache: CachedTable | None = None
    database: DatabaseTable[Any] | None = None
    service: HttpMapping | None = None

    def discard(self) -> None:
        """Give back the rows of a file, of a mapping that is stopped; to be called in a thread."""
        if self.file is not None:
            table, self.mapping.table = self.mapping.table, None
            table.discard()

    def stop(self) -> None:
        """Give up what is under way, and the connections."""
        if self.cache is not None:
            self.cache.stop()
        if self.database is not None:
            self.database.stop()
        if self.service is not None:
            self.service.close()


class Opener:
    """Makes a mapping of its settings, which are written at `place`.

    Raises `Faults`, or `ValueError` for what is wrong with the settings.
    """

    def __init__(self, warnings: list[Fault], loop: Callable[[], Loop], place: str) -> None:
        """`warnings` gets more of them."""
        self._warnings = warnings
        self._loop = loop
        self._place = place

    def open(self, mapping: settings.Mapping) -> Opened:
        self._opened = Opened(mapping, self._place, marks_of(mapping))
        self._opened.mapping = self._open(mapping)
        return self._opened

    def _open(self, mapping: settings.Mapping) -> Mapping:
        match mapping:
            case settings.StaticMapping():
                return StaticMapping(parse_row({"server": mapping.server, **_ways_of(mapping)}))
            case settings.CsvMapping():
                return self._csv(mapping)
            case settings.RegexMapping():
                return self._regex(mapping)
            case settings.MysqlMapping():
                return self._mysql(mapping)
            case settings.SqliteMapping():
                return self._sqlite(mapping)
            case settings.HttpMapping():
                return self._http(mapping)

    def _csv(self, mapping: settings.CsvMapping) -> Mapping:
        file = Path(mapping.file)
        seen = signature(file)
        table = CsvTable.load(file, mapping.file)
        opened = KeyedMapping(f"csv {mapping.file}", table, mapping.parent_domains)
        self._watch(opened, file, lambda: CsvTable.load(file, mapping.file), mapping, seen)
        if table.first_parent and not mapping.parent_domains:
            text = "a row for a parent domain does not count: set parent_domains = true"
            place = f"{mapping.file}:{table.first_parent}"
            self._warnings.append(Fault(place, text))
        return opened

    def _regex(self, mapping: settings.RegexMapping) -> Mapping:
        from smtpproxy.routing.regex import RegexMapping, RegexTable

        file = Path(mapping.file)
        seen = signature(file)
        table = RegexTable.load(file, mapping.file)
        opened = RegexMapping(f"regex {mapping.file}", table, mapping.timeout)
        self._watch(opened, file, lambda: RegexTable.load(file, mapping.file), mapping, seen)
        return opened

    def _watch(
        self,
        opened: Any,
        file: Path,
        load: Callable[[], Content],
        mapping: settings.CsvMapping | settings.RegexMapping,
        seen: Any,
    ) -> None:
        self._opened.file = WatchedFile(opened, file, load, mapping.max_shrink, seen)

    def _mysql(self, mapping: settings.MysqlMapping) -> Mapping:
        from smtpproxy.routing.mysql import Mysql, MysqlServer

        server = MysqlServer(
            host=mapping.host,
            port=mapping.port,
            unix_socket=mapping.unix_socket,
            user=mapping.user,
            password=_password(mapping),
            database=mapping.database,
            tls=mapping.tls,
            tls_ca=mapping.tls_ca,
            tls_verify=mapping.tls_verify,
            timeout=mapping.timeout,
        )
        database = Mysql(server, mapping.query, mapping.upstreams_query)
        return self._database(f"mysql {server}", database, mapping)

    def _sqlite(self, mapping: settings.SqliteMapping) -> Mapping:
        from smtpproxy.routing.sqlite import Sqlite

        file = Path(mapping.file)
        if not file.is_file():
            raise Faults([Fault(mapping.file, "there is no such file: make the database first")])
        database = Sqlite(file, mapping.query, mapping.upstreams_query, mapping.timeout)
        return self._database(f"sqlite {mapping.file}", database, mapping)

    def _database(
        self, name: str, database: Any, mapping: settings.MysqlMapping | settings.SqliteMapping
    ) -> Mapping:
        from smtpproxy.routing.cache import CachedTable
        from smtpproxy.routing.database import DatabaseTable

        loop = self._loop()
        table: DatabaseTable[Any] = DatabaseTable(
            database, loop.reactor, loop.deadlines, mapping.connections
        )
        cache = CachedTable(
            table,
            loop.reactor,
            mapping.cache_ttl,
            mapping.cache_negative_ttl,
            mapping.cache_size,
            mapping.stale_for,
        )
        self._opened.database, self._opened.cache = table, cache
        return KeyedMapping(name, cache, mapping.parent_domains)

    def _http(self, mapping: settings.HttpMapping) -> Mapping:
        from smtpproxy import tls
        from smtpproxy.routing.http import HttpMapping
        from smtpproxy.routing.http_json import JsonDialect
        from smtpproxy.routing.http_nginx import NginxDialect
        from smtpproxy.routing.http_url import check_headers, parse_url

        url = parse_url(mapping.url)
        check_headers(mapping.headers)
        dialect: JsonDialect | NginxDialect = JsonDialect()
        if mapping.protocol == "nginx":
            upstream = parse_row({"server": "localhost", **_ways_of(mapping)}).upstream
            dialect = NginxDialect(upstream.tls, upstream.identity)
        loop = self._loop()
        opened = HttpMapping(
            f"http {url}",
            url,
            dialect,
            loop.reactor,
            loop.deadlines,
            tls.client_context(Path(mapping.tls_ca) if mapping.tls_ca else None),
            mapping.headers,
            mapping.timeout,
            mapping.connections,
        )
        self._opened.service = opened
        return opened


def marks_of(mapping: settings.Mapping) -> Signatures:
    """What tells whether the files have changed that are read once for a mapping."""
    files = getattr(mapping, "password_file", ""), getattr(mapping, "tls_ca", "")
    return signatures(*(Path(file) for file in files if file))


def _ways_of(mapping: settings.StaticMapping | settings.HttpMapping) -> dict[str, str]:
    """How upstreams are talked to, as the columns of a row."""
    tls_verify = "" if mapping.tls else str(mapping.tls_verify).lower()
    return {"tls_verify": tls_verify, "tls": mapping.tls, "identity": mapping.identity}


def _password(mapping: settings.MysqlMapping) -> str:
    return password_in(mapping.password_file) if mapping.password_file else mapping.password


def password_in(file: str) -> str:
    """What a file holds that has a password and nothing else; raises `Faults`."""
    try:
        return Path(file).read_text().rstrip("\r\n")
    except OSError as error:
        raise Faults([Fault(file, unreadable(error))]) from None
    except UnicodeDecodeError:
        raise Faults([Fault(file, "cannot be read: is not UTF-8")]) from None
