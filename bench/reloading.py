"""The running proxy takes a changed CSV file while sessions run: how long do they wait?

`python -m bench.reloading ROWS RELOADS` does it and says the figures as JSON.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path

from bench import rows
from bench.accounts import held
from bench.figures import Figure, say
from bench.sessions import NOOPS, Client, mail_to
from tests.support.ports import free_port
from tests.support.processes import Process, greeting, short_folder
from tests.support.proxy import DOMAIN, TWISTD, toml

GOAL = 50.0  # ms that a session may wait for a reload


def measure(count: int, reloads: int) -> list[Figure]:
    """Replace a file of `count` rows so many times by another."""
    sink_port = free_port()
    with short_folder() as folder:
        file = folder / "mapping.csv"
        rows.write(file, count, f"127.0.0.1:{sink_port}")
        with _sink(folder, sink_port), _Proxy(folder) as proxy:
            return _measure(proxy, file, count, reloads, f"127.0.0.1:{sink_port}")


def _measure(proxy: _Proxy, file: Path, count: int, reloads: int, sink: str) -> list[Figure]:
    noops = Client(proxy.port, NOOPS)
    mails = Client(proxy.port, mail_to(rows.pattern(2)))
    memory = [held(proxy.pid)[0]]
    spans: list[tuple[float, float]] = []
    quiet: list[tuple[float, float]] = []
    with noops, mails:
        for number in range(reloads):
            rows.write(file.with_name("next.csv"), count, sink, moved=(number + 1) % 2)
            time.sleep(1.0)
            start = time.monotonic()
            time.sleep(spans[-1][1] - spans[-1][0] if spans else 3.0)
            quiet.append((start, time.monotonic()))
            start = time.monotonic()
            file.with_name("next.csv").replace(file)
            proxy.wait_for_reload()
            spans.append((start, time.monotonic()))
            memory.append(held(proxy.pid)[0])
    ms = [
        (f"csv: longest wait for a reply to {what}, {when}", client, where, goal)
        for client, what in ((noops, "NOOP"), (mails, "any command of a mail"))
        for when, where, goal in (("no reload", quiet, None), ("during a reload", spans, GOAL))
    ]
    return [
        Figure(name, "ms", tuple(client.worst(*span) * 1000 for span in where), goal)
        for name, client, where, goal in ms
    ] + [
        Figure(
            "csv: a reload, from the change to the last of it", "s", tuple(b - a for a, b in spans)
        ),
        Figure("csv: memory of the proxy before any reload", "MB", (memory[0] / 1e6,)),
        Figure("csv: the same at rest after each", "MB", tuple(m / 1e6 for m in memory[1:])),
        Figure("csv: the same at most", "MB", (held(proxy.pid)[1] / 1e6,)),
    ]


def _sink(folder: Path, port: int) -> Process:
    user = ["-u", "nobody"] if os.getuid() == 0 else []
    sink = Process(["smtp-sink", *user, "-c", f"127.0.0.1:{port}", "100"], folder / "sink.log")
    sink.wait_for(lambda: greeting(port), "smtp-sink")
    return sink


class _Proxy(Process):
    """One with the mapping that is there already."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        settings = {
            "domain": DOMAIN,
            "listeners": [{"listen": f"127.0.0.1:{self.port}"}],
            "mappings": [{"type": "csv", "file": "mapping.csv"}],
            "dns": {"reverse": False},
            "limits": {},
        }
        file = folder / "smtpproxy.toml"
        file.write_text("".join(f"{key} = {toml(item)}\n" for key, item in settings.items()))
        command: list[str | Path] = [TWISTD, "-n", "--pidfile=", "smtpproxy", "--config", file]
        super().__init__(command, folder / "proxy.log")
        self._lines = self.log.open()
        self.wait_for(lambda: " started" in self._lines.read(), "the proxy", 120)

    def wait_for_reload(self) -> None:
        self.wait_for(lambda: " rows in force" in self._lines.read(), "the reload", 120)


if __name__ == "__main__":
    gc.disable()  # a client that collects garbage is no measure
    say(measure(int(sys.argv[1]), int(sys.argv[2])))
