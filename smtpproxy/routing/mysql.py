"""Rows in MySQL or MariaDB."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import field
from typing import Any, NoReturn, TypeAlias

import pymysql
from pymysql import err
from pymysql.constants import CR
from pymysql.cursors import Cursor

from smtpproxy.faults import Fault, Faults, unreadable
from smtpproxy.routing.sql import MYSQL, keyed_query, keyless_query
from smtpproxy.threads import Wanted
from smtpproxy.values import value

Connection: TypeAlias = "pymysql.connections.Connection[Cursor]"

_MOST = 10_000  # rows of one answer: they are all read, whether they are needed or not

# What a server says, or pymysql for it, when it ends a connection: by a restart, by KILL
# (MariaDB 1927, MySQL 3169), or for having been idle (MySQL 4031).
_LOST = frozenset({0, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST, 1053, 1927, 3169, 4031})

# What to do about it, where the server's own words leave that open.
_HINTS = {
    1044: "the user may not use that database: GRANT SELECT ON it",
    1045: "check user and password",
    1049: "check the setting database",
    1054: "check the query",
    1064: "check the query",
    1142: "the user may not read that table: GRANT SELECT ON it",
    1146: "check the query and the setting database",
    CR.CR_CONN_HOST_ERROR: "is it running, and can it be reached from here?",
    CR.CR_SSL_CONNECTION_ERROR: "switch TLS on at the server, or tls off in the settings here",
}


@value
class MysqlServer:
    """Where a database is and how it is talked to.

    With `unix_socket`, `host` and `port` do not count, and there is no TLS.  With `tls`
    there is no connection without it; `tls_ca` is a file in PEM, "" for the system's
    authorities, and not read where the certificate need not verify.  `timeout` is in
    seconds: for a look-up, and for each wait for the server.
    """

    host: str = "localhost"
    port: int = 3306
    unix_socket: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    database: str = ""
    tls: bool = False
    tls_ca: str = ""
    tls_verify: bool = True
    timeout: float = 5.0

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.unix_socket or f'{host}:{self.port}'}/{self.database}"


class Mysql:
    """A `Database`: a server with the queries for it.

    Raises `ValueError` for a query without its one placeholder, and `Faults` for authorities
    that cannot be read.
    """

    def __init__(self, server: MysqlServer, query: str, upstreams_query: str = "") -> None:
        self.timeout = server.timeout
        self.query = keyed_query(query, MYSQL)
        self.upstreams_query = keyless_query(upstreams_query, MYSQL)
        self._server = server
        self._tls = _context(server) if server.tls and not server.unix_socket else None

    def __str__(self) -> str:
        return str(self._server)

    def connect(self) -> Connection:
        server = self._server
        private = server.unix_socket or (self._tls and server.tls_verify)
        return pymysql.connect(
            host=server.host,
            port=server.port,
            unix_socket=server.unix_socket or None,
            user=server.user,
            # Of a text, pymysql would take Latin-1.
            password=server.password.encode("utf-8", "surrogateescape"),
            database=server.database or None,
            charset="utf8mb4",
            autocommit=True,
            init_command=f"SET SESSION sql_select_limit = {_MOST}",
            connect_timeout=server.timeout,
            read_timeout=server.timeout,
            write_timeout=server.timeout,
            ssl=self._tls,
            ssl_disabled=self._tls is None,
            auth_plugin_map=None if private else _NEVER_IN_CLEAR,
            program_name="smtpproxy",
        )

    def close(self, connection: Connection) -> None:
        if connection.open:
            connection.close()

    def select(
        self, connection: Connection, query: str, key: str | None, most: int, wanted: Wanted
    ) -> tuple[Sequence[str], Sequence[Sequence[object]]]:
        with connection.cursor() as cursor:
            cursor.execute(query, None if key is None else (key,))
            columns = [column[0] for column in cursor.description or ()]
            return columns, cursor.fetchmany(most) if columns else ()

    def lost(self, error: Exception) -> bool:
        if isinstance(error.__context__, TimeoutError):  # it hangs: it would do so again
            return False
        code = error.args[0] if isinstance(error, err.Error) and error.args else None
        return code in _LOST or isinstance(error, err.InterfaceError | BrokenPipeError)

    def words(self, error: Exception) -> str:
        if isinstance(error.__context__, TimeoutError):
            return f"no answer within {self.timeout:g} s"
        match error.args:
            case (int(code), str(text)):
                hint = _HINTS.get(code)
                return f"{text} ({code})" + (f"; {hint}" if hint else "")
        return f"{type(error).__name__}: {error}"


def _context(server: MysqlServer) -> ssl.SSLContext:
    if not server.tls_verify:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        context = ssl.create_default_context(cafile=server.tls_ca or None)
    except OSError as error:  # SSLError is one
        missing = isinstance(error, FileNotFoundError)
        text = f"is no file of certificates in PEM: {error.strerror or error}"
        raise Faults([Fault(server.tls_ca, unreadable(error) if missing else text)]) from None
    # Python 3.13 sets it, and the certificates that MySQL makes for itself do not bear it.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


class _Refused:
    """What a server asks for that must not be sent for everyone to read."""

    def __init__(self, _: object) -> None:
        pass

    def authenticate(self, _: object) -> NoReturn:
        raise err.OperationalError(
            CR.CR_AUTH_PLUGIN_ERR,
            "the server wants the password in clear; that takes TLS that verifies",
        )


_NEVER_IN_CLEAR: dict[Any, Any] = {b"mysql_clear_password": _Refused, b"dialog": _Refused}
