"""A private MariaDB: a server on loopback, with data, a socket and a log of its own.

It needs no root, and nothing of the system's databases is touched.
"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pymysql

from tests.support.needs import need
from tests.support.ports import free_port
from tests.support.processes import Process

DATABASE = "smtpproxy"
USER = "smtpproxy"
PASSWORD = "a secret % of 'ours' \\ and \u20ac"

SCHEMA = Path(__file__).resolve().parents[2] / "etc" / "mysql-schema.sql"

_SIZES = ("--innodb-buffer-pool-size=16M", "--innodb-log-file-size=4M")


class MariaDb:
    """A running MariaDB in `folder`, which must be one of `processes.short_folder`.

    It has the tables of etc/mysql-schema.sql, and the user of that file, who may read
    them. `options` are further ones of mariadbd(8).
    """

    def __init__(self, folder: Path, *options: str | Path) -> None:
        need("mariadbd", "mariadb-install-db", "mariadb")
        self.port = free_port()
        self.socket = folder / "my.sock"
        self._folder = folder
        self._options = options
        self._user = pwd.getpwuid(os.getuid()).pw_name
        self._install()
        self.start()
        try:
            self._set_up()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> MariaDb:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, *options: str | Path) -> None:
        """Start it; with `options`, with those in place of the ones it was made with."""
        self._process = Process(
            [
                "mariadbd",
                "--no-defaults",
                f"--datadir={self._folder}/data",
                f"--socket={self.socket}",
                f"--pid-file={self._folder}/my.pid",
                f"--port={self.port}",
                "--bind-address=127.0.0.1",
                "--skip-name-resolve",
                "--skip-log-bin",
                "--innodb-flush-log-at-trx-commit=0",
                "--performance-schema=OFF",
                f"--user={self._user}",
                *_SIZES,
                *(options or self._options),
            ],
            self._folder / "log",
        )
        try:
            self._process.wait_for(self._answers, "MariaDB to answer")
        except AssertionError:
            self.stop()
            raise

    def stop(self) -> None:
        self._process.stop()

    def hang(self) -> None:
        """Stop it from doing anything, with its connections open, until `go_on`."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def connection(self, database: str | None = DATABASE) -> pymysql.connections.Connection:
        """One as root."""
        return pymysql.connect(
            unix_socket=str(self.socket),
            user="root",
            database=database,
            autocommit=True,
            charset="utf8mb4",
        )

    def sql(self, statement: str, *values: object, database: str | None = DATABASE) -> list[tuple]:
        """The rows of one statement, made as root; with `values`, for each `%s` in it."""
        with self.connection(database) as connection, connection.cursor() as cursor:
            cursor.execute(statement, values or None)
            return list(cursor.fetchall())

    def many(self, statement: str, rows: Sequence[tuple]) -> None:
        """One statement with each of `rows`."""
        with self.connection() as connection, connection.cursor() as cursor:
            cursor.executemany(statement, rows)

    def connections(self) -> list[int]:
        """The ids of the user's connections, to be killed."""
        found = self.sql("SELECT id FROM information_schema.processlist WHERE user = %s", USER)
        return [number for (number,) in found]

    def kill_connections(self) -> int:
        """End the user's connections; gives how many there were."""
        numbers = self.connections()
        for number in numbers:
            self.sql(f"KILL {number}")
        return len(numbers)

    def _answers(self) -> bool:
        try:
            return bool(self.sql("SELECT 1", database=None))
        except pymysql.err.OperationalError:
            return False

    def _install(self) -> None:
        done = subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                f"--datadir={self._folder}/data",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
                f"--user={self._user}",
                *_SIZES,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout

    def _set_up(self) -> None:
        """The schema, by the command that its first lines name."""
        with SCHEMA.open() as schema:
            subprocess.run(
                ["mariadb", "--no-defaults", "--skip-ssl", "-uroot", f"--socket={self.socket}"],
                stdin=schema,
                check=True,
                timeout=20,
            )
        self.sql(f"ALTER USER '{USER}'@'%%' IDENTIFIED BY %s", PASSWORD)
