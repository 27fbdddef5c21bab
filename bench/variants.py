"""smtpproxy in several set-ups: all switched on, large mappings, several workers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench import quota, rows
from bench.rivals import Rival, nginx, smtpproxy
from bench.workloads import DOMAINS, Workload
from tests.support.mariadb import DATABASE, PASSWORD, USER, MariaDb
from tests.support.processes import short_folder

REUSED = "upstream connections reused"
ALL_ON: Mapping[str, Any] = {"log": {"format": "json"}}
QUERY = "SELECT server, tls_verify FROM routes WHERE pattern = ?"


@contextmanager
def variants(workload: Workload, upstream: int, count: int) -> Iterator[list[Rival]]:
    """Those for this workload; `count`: the rows of the CSV file."""
    with ExitStack() as stack:
        if workload.variants == "all-on":
            # nginx is the measure of connections that are used again: in turn with them.
            yield [smtpproxy(), smtpproxy("all on (JSON log)", ALL_ON), reusing(), nginx()]
            return
        if workload.variants == "workers":
            yield _workers()
            return
        folder = stack.enter_context(short_folder())
        server = f"127.0.0.1:{upstream}"
        count = max(count, DOMAINS * rows.PER_DOMAIN)  # all that are asked for
        yield [
            smtpproxy(),
            smtpproxy(f"CSV of {count} rows", _csv(folder, server, count)),
            _mysql(stack, folder, server),
        ]


def reusing() -> Rival:
    """With connections to the upstream that are used again, and some made ahead."""
    kept = {"keep_idle": "5s", "keep_uses": 1000, "keep_connections": 100, "ready_connections": 20}
    return smtpproxy(REUSED, {"upstreams": {"ask_every": "0s", **kept}})


def _workers() -> list[Rival]:
    """1 and 2 workers, each with half of a core: clients and upstream need the rest."""
    why = quota.missing()
    return [smtpproxy(f"{n} workers", {"workers": n}, why, share=0.5) for n in (1, 2)]


def _csv(folder: Path, server: str, count: int) -> dict[str, Any]:
    file = folder / "mapping.csv"
    with file.open("w") as out:
        out.write(rows.HEADER)
        out.writelines(f"{rows.pattern(number)};{server};false\n" for number in range(count))
    return {"mappings": [{"type": "csv", "file": file}]}


def _mysql(stack: ExitStack, folder: Path, server: str) -> Rival:
    name = "MySQL"
    if not all(map(shutil.which, ("mariadbd", "mariadb-install-db", "mariadb"))):
        return smtpproxy(name, missing="MariaDB is not installed")
    mariadb = stack.enter_context(MariaDb(folder))
    patterns = [rows.pattern(number * rows.PER_DOMAIN) for number in range(DOMAINS)]
    for first in range(0, len(patterns), 10_000):
        mariadb.many(
            "INSERT INTO routes (pattern, server, tls_verify) VALUES (%s, %s, 0)",
            [(pattern, server) for pattern in patterns[first : first + 10_000]],
        )
    mapping = {
        "type": "mysql",
        "unix_socket": mariadb.socket,
        "user": USER,
        "password": PASSWORD,
        "database": DATABASE,
        "query": QUERY,
    }
    return smtpproxy(name, {"mappings": [mapping]})
