"""A private Redis on a Unix socket and a free port: Debian's, unpacked for the tests."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Self

from tests.support.certificates import Certificate
from tests.support.needs import missing
from tests.support.ports import free_port
from tests.support.processes import Process

_UNPACKED = Path(__file__).resolve().parents[2] / ".venv/redis/usr/bin"


class Redis:
    """A running server in `folder`, one of `processes.short_folder`; nothing is kept of its data.

    `password` is what clients must give, and `certificate` is for TLS on `tls_port`.
    """

    def __init__(
        self,
        folder: Path,
        password: str = "",
        certificate: Certificate | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.port = port or free_port()
        self.socket = folder / "redis.sock"
        self.unix = f"unix:{self.socket}"
        self._folder = folder
        self._password = password
        # The program is a server by the name that it is called by.
        program = folder / "redis-server"
        program.symlink_to(_program())
        self._command: list[str | Path] = [program, "--bind", host, "--port", str(self.port)]
        self._command += ["--unixsocket", self.socket, "--dir", folder, "--save", ""]
        if password:
            self._command += ["--requirepass", password]
        if certificate is not None:
            self.tls_port = free_port()
            self._command += ["--tls-port", str(self.tls_port), "--tls-auth-clients", "no"]
            self._command += ["--tls-cert-file", certificate.chain]
            self._command += ["--tls-key-file", certificate.key]
            self._command += ["--tls-ca-cert-file", certificate.authority]
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, again after `kill`; what it knew is gone."""
        self._process = Process(self._command, self._folder / "redis.log")
        try:
            self._process.wait_for(self._answers, "Redis to answer")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        if self._process.running:
            self.go_on()
        self._process.stop()

    def kill(self) -> None:
        self._process.stop(signal.SIGKILL)

    def hang(self) -> None:
        """Stop it from doing anything, with its connections open, until `go_on`."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def say(self, *command: str) -> str:
        """What redis-cli(1) prints for a command."""
        login = ["--no-auth-warning", "-a", self._password] if self._password else []
        done = subprocess.run(
            [_UNPACKED / "redis-cli", "-s", self.socket, *login, *command],
            capture_output=True,
            text=True,
            timeout=10,
        )
        return done.stdout.strip()

    def _answers(self) -> bool:
        return self.say("PING") == "PONG"


def _program() -> Path:
    """Debian's, which is in the package of the tools under another name."""
    found = _UNPACKED / "redis-check-rdb"
    if not os.access(found, os.X_OK):
        missing("needs Redis' files in .venv/redis: as root, make deps")
    return found
