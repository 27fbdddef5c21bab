"""The chain of mappings that a configuration names, opened, and what keeps it running."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smtpproxy import config as settings
from smtpproxy.config import Config
from smtpproxy.faults import Fault, Faults
from smtpproxy.routing import (
    CsvTable,
    KeyedMapping,
    LookupFailed,
    Mapping,
    Router,
    StaticMapping,
    parse_row,
)
from smtpproxy.watched import Content, WatchedFile, signature

if TYPE_CHECKING:
    from smtpproxy.deadlines import Deadlines
    from smtpproxy.routing.cache import CachedTable
    from smtpproxy.routing.database import DatabaseTable
    from smtpproxy.routing.http import HttpMapping


@dataclass(frozen=True, slots=True)
class Loop:
    """What mappings wait with."""

    reactor: Any
    deadlines: Deadlines


@dataclass(slots=True)
class Chain:
    """The router, and those of its mappings that are more than a table in memory.

    `databases` are by the place of their settings; `failing` are the places of those that did
    not answer when they were asked last.  `warnings` are of what can be served, and is likely
    not meant so.
    """

    router: Router = field(default_factory=lambda: Router((), "", ""))
    files: list[WatchedFile] = field(default_factory=list)
    caches: list[CachedTable] = field(default_factory=list)
    databases: dict[str, DatabaseTable[Any]] = field(default_factory=dict)
    services: list[HttpMapping] = field(default_factory=list)
    failing: set[str] = field(default_factory=set)
    warnings: list[Fault] = field(default_factory=list)
    stopped: bool = False

    async def check(self, loop: Callable[[], Loop], seconds: float) -> list[Fault]:
        """Ask the databases whether they would answer, each within `seconds`; what is wrong."""
        from smtpproxy.deadlines import TimedOut

        faults = []
        for place, database in self.databases.items():
            try:
                await loop().deadlines.limit(database.check(), seconds)
            except (LookupFailed, TimedOut) as error:
                faults.append(Fault(place, str(error)))
        return faults

    async def refresh(self, told: Callable[[bool, str], object]) -> None:
        """Ask the databases whether they answer, and learn their upstreams anew.

        What fails is as it was.  `told` hears when one begins to fail (False), and when it
        answers again (True), with words.
        """
        for place, database in self.databases.items():
            try:
                await database.check()
            except LookupFailed as error:
                if not self.stopped and place not in self.failing:
                    self.failing.add(place)
                    told(False, f"{place}: {error}")
            else:
                if place in self.failing:
                    self.failing.remove(place)
                    told(True, f"{place}: the database answers again")

    def forget(self) -> None:
        """Ask databases again, whatever caches hold."""
        for cache in self.caches:
            cache.expire()

    def stop(self) -> None:
        self.stopped = True
        for cache in self.caches:
            cache.stop()
        for database in self.databases.values():
            database.stop()
        for service in self.services:
            service.close()


def open_chain(config: Config, loop: Callable[[], Loop]) -> Chain:
    """The mappings of `config`; raises `Faults` with all that is wrong in any of them.

    `loop` is called when a mapping needs it: reading files needs none.
    """
    chain = Chain()
    mappings: list[Mapping] = []
    faults: list[Fault] = []
    for number, mapping in enumerate(config.mappings):
        place = config.place("mappings", number)
        try:
            mappings.append(_Opener(chain, loop, place).open(mapping))
        except Faults as error:
            faults += error.faults
        except ValueError as error:
            faults.append(Fault(place, str(error)))
    if faults:
        chain.stop()
        raise Faults(faults)
    chain.router = Router(mappings, config.recipient_delimiter, config.domain)
    return chain


class _Opener:
    """Makes a mapping of its settings, which are written at `place`.

    Raises `Faults`, or `ValueError` for what is wrong with the settings.
    """

    def __init__(self, chain: Chain, loop: Callable[[], Loop], place: str) -> None:
        self._chain = chain
        self._loop = loop
        self._place = place

    def open(self, mapping: settings.Mapping) -> Mapping:
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
            self._chain.warnings.append(Fault(place, text))
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
        self._chain.files.append(WatchedFile(opened, file, load, mapping.max_shrink, seen))

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
        self._chain.databases[self._place] = table
        self._chain.caches.append(cache)
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
        self._chain.services.append(opened)
        return opened


def _ways_of(mapping: settings.StaticMapping | settings.HttpMapping) -> dict[str, str]:
    """How upstreams are talked to, as the columns of a row."""
    tls_verify = "" if mapping.tls else str(mapping.tls_verify).lower()
    return {"tls_verify": tls_verify, "tls": mapping.tls, "identity": mapping.identity}


def _password(mapping: settings.MysqlMapping) -> str:
    if not mapping.password_file:
        return mapping.password
    try:
        return Path(mapping.password_file).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is not UTF-8"
        raise Faults([Fault(mapping.password_file, f"cannot be read: {why}")]) from None
