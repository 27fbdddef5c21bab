"""The servers behind the proxy: started, killed, frozen, and asked what they have."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from soak.ledger import Ledger
from soak.mailboxes import Mailboxes, of_ours, of_server
from soak.plans import MAILBOXES
from soak.serving import Options
from tests.support import exim, postfix
from tests.support.certificates import Certificate
from tests.support.layers import ROOT
from tests.support.ports import free_port
from tests.support.processes import DidNotHappen, Process, greeting

MODERN = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "CHUNKING", "PRDR", "SIZE 100000000")
PLAIN = ("8BITMIME",)


class Server(Protocol):
    """A server that runs, whoever wrote it."""

    @property
    def group(self) -> int: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def stop(self) -> None: ...


class Ours:
    """A `soak.server`."""

    def __init__(self, options: Options, log: Path) -> None:
        self._options = options
        self._log = log
        self._process: Process | None = None
        self.start()

    @property
    def group(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        options = json.dumps(asdict(self._options))
        command = [sys.executable, "-m", "soak.server", options]
        self._process = Process(command, self._log)
        if not self._options.proxy:  # that one greets no one who says nothing
            self._process.wait_for(lambda: greeting(self._options.port), self._options.name)

    def kill(self) -> None:
        if self._process is not None:
            self._process.stop(signal.SIGKILL)

    stop = kill


class Upstream:
    """A server with its mailboxes.  `row`: how a mapping names it, and says who the client is."""

    def __init__(
        self,
        name: str,
        row: str,
        server: Server,
        mailboxes: Mailboxes,
        log: Path,
        queue: Callable[[], int] = lambda: 0,
    ) -> None:
        self.name = name
        self.row = row
        self.log = log
        self.up = True
        self.frozen = False
        self._server = server
        self._mailboxes = mailboxes
        self._queue = queue

    def kill(self) -> None:
        self.up = False
        self._server.kill()

    def start(self) -> None:
        """Start it again; one that is still on its way out is waited for."""
        for attempt in range(5):
            try:
                self._server.start()
            except DidNotHappen:
                if attempt == 4:
                    raise
            else:
                self.up = True
                return

    def freeze(self) -> None:
        os.killpg(self._server.group, signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        with suppress(ProcessLookupError):
            os.killpg(self._server.group, signal.SIGCONT)

    def stop(self) -> None:
        if self.frozen:
            self.thaw()
        if self.up:
            self.up = False
            self._server.stop()

    def collect(self, ledger: Ledger) -> int:
        """Take what it has out of its mailboxes; how many messages there were."""
        return self._mailboxes.collect(ledger)

    def waiting(self) -> int:
        """Messages in its queue."""
        return self._queue()


def missing() -> str:
    """Why there can be no real servers, "" where there can."""
    if os.getuid() != 0:
        return "needs root"
    needed = {"postfix": shutil.which("postfix"), "exim": (ROOT / ".venv/exim").is_dir()}
    absent = [name for name, there in needed.items() if not there]
    return f"needs {' and '.join(absent)}: make deps" if absent else ""


def real_postfix(name: str, folder: Path, certificate: Certificate) -> Upstream:
    settings = postfix.Settings(MAILBOXES, hostname=f"{name}.test", certificate=certificate)
    server = postfix.Postfix(folder, settings)
    mailboxes = Mailboxes(name, folder / "mail", "*/new/*", of_server(named=True), folder / "wrong")

    def queue() -> int:
        # A file becomes executable when it is whole; others were never acknowledged.
        files = (
            path
            for each in ("incoming", "active", "deferred", "maildrop")
            for path in (server.spool / each).glob("**/*")
        )
        return sum(path.is_file() and bool(path.stat().st_mode & 0o100) for path in files)

    return Upstream(name, f"{server.server};auto", server, mailboxes, server.log, queue)


def real_exim(name: str, folder: Path) -> Upstream:
    server = exim.Exim(folder, exim.Settings(MAILBOXES, hostname=f"{name}.test"))
    mailboxes = Mailboxes(
        name, server.root.file("/mail"), "*/new/*", of_server(named=False), folder / "wrong"
    )

    def queue() -> int:
        return len([*server.root.file("/var/spool/exim4/input").glob("**/*-H")])

    return Upstream(name, f"{server.server};auto", server, mailboxes, server.log, queue)


def ours(
    name: str,
    folder: Path,
    *,
    seed: int,
    whims: float,
    certificate: Certificate | None = None,
    offer: tuple[str, ...] = MODERN,
    lmtp: bool = False,
    identity: str = "auto",
) -> Upstream:
    """A `soak.server`: `identity` as in a row; "auto" is XCLIENT here."""
    options = Options(
        name=f"{name}.test",
        port=free_port(),
        folder=str(folder / "mail"),
        seed=f"{seed}/{name}",
        whims=whims,
        offer=offer,
        lmtp=lmtp,
        xclient=identity == "auto",
        proxy=identity == "proxy2",
        chain=str(certificate.chain) if certificate else "",
        key=str(certificate.key) if certificate else "",
    )
    server = Ours(options, folder / "log")
    read = of_ours(trace=identity == "received")
    mailboxes = Mailboxes(name, folder / "mail", "new/*", read, folder / "wrong")
    row = f"{'lmtp:' if lmtp else ''}127.0.0.1:{options.port};{identity}"
    return Upstream(name, row, server, mailboxes, folder / "log")
