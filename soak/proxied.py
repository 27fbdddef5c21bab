"""The proxy, which can be restarted, and its mapping, whose rows move."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from bench.accounts import children
from soak.plans import DOMAINS, MAILBOXES
from soak.upstreams import Upstream
from tests.support.certificates import Authority, Certificate
from tests.support.processes import Process, greeting
from tests.support.proxy import TWISTD, Proxy, csv

COLUMNS = "pattern;server;identity;tls_verify"
_TIMES = {
    "client_command": "20s",
    "client_data": "20s",
    "upstream_connect": "5s",
    "upstream_reply": "10s",
    "upstream_final": "15s",
    "recipient": "20s",
    "drain": "10s",
}
STOPPING = 30.0  # seconds, more than `drain`


class Routes:
    """The rows.  Each domain stays with its `homes`; the later half of its boxes moves."""

    def __init__(self, upstreams: Sequence[Upstream], homes: Sequence[Sequence[Upstream]]) -> None:
        self._upstreams = upstreams
        self._homes = dict(zip(DOMAINS, homes, strict=True))
        self._moved = {
            box: upstreams[n % len(upstreams)]
            for n, box in enumerate(MAILBOXES)
            if int(box[3 : box.index("@")]) >= len(MAILBOXES) // len(DOMAINS) // 2
        }

    @property
    def homes(self) -> dict[str, tuple[str, ...]]:
        """The upstreams of each box that is never moved."""
        return {
            box: tuple(each.name for each in self._homes[box.partition("@")[2]])
            for box in MAILBOXES
            if box not in self._moved
        }

    def move(self, rng: Random) -> None:
        """Some boxes are from now on at another upstream."""
        for box in rng.sample(sorted(self._moved), rng.randint(1, 8)):
            self._moved[box] = rng.choice(self._upstreams)

    def rows(self) -> list[str]:
        rows = [f"{box};{upstream.row};false" for box, upstream in self._moved.items()]
        for domain, homes in self._homes.items():
            servers = ",".join(each.row.partition(";")[0] for each in homes)
            rows.append(f"{domain};{servers};{homes[0].row.partition(';')[2]};false")
        return rows


class Proxied(Proxy):
    """A running smtpproxy with these routes."""

    def __init__(self, folder: Path, routes: Routes, workers: int = 1) -> None:
        self._routes = routes
        self._workers = workers
        self._folder = folder
        self._starts = 0
        self._certificate = certificate = self._new_certificate()
        super().__init__(
            folder,
            routes.rows(),
            certificate,
            COLUMNS,
            lmtp=True,
            workers=workers,
            timeouts=_TIMES,
            log={"format": "json"},
            upstreams={"ask_every": "20s", "ready_connections": 1},
        )
        self._wait_for_all()

    @property
    def workers(self) -> list[int]:
        """Their processes; none where it has only itself."""
        return children(self.pid) if self._workers > 1 else []

    def _wait_for_all(self) -> None:
        started = f"started, with {self._workers} workers"
        if self._workers > 1:
            count = self._starts = self._starts + 1
            self.wait_for(lambda: self.output.count(started) == count, "all workers")

    def renew(self) -> None:
        """Put a new certificate in the place of the old one; for a moment the key is another's."""
        new = self._new_certificate()
        new.key.replace(self._certificate.key)
        new.chain.replace(self._certificate.chain)

    def _new_certificate(self) -> Certificate:
        folder = Path(tempfile.mkdtemp(prefix="certificate-", dir=self._folder))
        return Authority(folder).certificate("mx.test")

    def write_rows(self) -> None:
        """Put a new file in the place of the old one, in one step."""
        new = self.file.with_name("new.csv")
        new.write_text(csv(self._routes.rows(), COLUMNS))
        new.replace(self.file)

    def end(self) -> str | None:
        """Stop it as an administrator does; what was wrong with that."""
        status = self.stop(seconds=STOPPING)
        return None if status in (0, -signal.SIGTERM) else f"the proxy ended with {status}"

    def restart(self) -> str | None:
        """Stop it and start it again; what was wrong with that."""
        fault = self.end()
        file = self._folder / "smtpproxy.toml"
        command: list[str | Path] = [TWISTD, "-n", "--pidfile=", "smtpproxy", "--config", file]
        Process.__init__(self, command, self.log)
        self.wait_for(lambda: greeting(self.port).startswith(b"220"), "the proxy's greeting")
        self._wait_for_all()
        return fault
