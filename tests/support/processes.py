"""Programs that a test starts, and waiting for what they do."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

T = TypeVar("T")


class DidNotHappen(AssertionError):
    """What was waited for did not come in time, or cannot come any more."""


def wait_until(look: Callable[[], T | None], seconds: float, what: str) -> T:
    """The first true value that `look` gives; raises `DidNotHappen` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            raise DidNotHappen(f"waited {seconds:g} s for {what}")
        time.sleep(0.01)


def greeting(port: int, host: str = "127.0.0.1") -> bytes:
    """The first bytes that the server on this port says, b"" when there is none."""
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            return connection.recv(512)
    except OSError:
        return b""


def tail(path: Path, lines: int = 30) -> str:
    """The end of a log, for the text of a failure."""
    if not path.exists():
        return f"({path} does not exist)"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short path that every user may enter, taken away afterwards.

    pytest's own folders are long (a Unix socket's path is at most 107 bytes) and private
    (Postfix, MariaDB and others run as users of their own).
    """
    folder = Path(tempfile.mkdtemp(prefix="sp-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Process:
    """A child process whose output goes to a file.

    `stop` ends it and everything it started: it has a process group of its own.  `more` are
    variables of its environment; `descriptors` stay open in it.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        log: Path,
        more: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> None:
        self.log = log
        self.name = Path(arguments[0]).name
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                # A setting from where the tests run is no part of a test.
                env={k: v for k, v in os.environ.items() if not k.startswith("SMTPPROXY_")}
                | dict(more or {}),
                pass_fds=descriptors,
                start_new_session=True,
            )
        self.pid = self._child.pid

    @property
    def output(self) -> str:
        """All that it wrote so far."""
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def wait_for(self, look: Callable[[], T | None], what: str, seconds: float = 20) -> T:
        """As `wait_until`, but it gives up at once when the process ends, and shows its output."""

        def look_while_running() -> T | None:
            found = look()
            if not found and not self.running:
                raise DidNotHappen(f"{self.name} ended with {self._child.returncode}")
            return found

        try:
            return wait_until(look_while_running, seconds, what)
        except DidNotHappen as failure:
            raise DidNotHappen(f"{failure}; the end of its output:\n{tail(self.log)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM, seconds: float = 20) -> int:
        """End it, and give its exit status; what is still there after `seconds` is killed."""
        if self.running:
            self._child.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        return self._child.wait()

    def memory(self) -> tuple[int, int]:
        """Octets of memory in use now, and at most since the start or `forget_peak`."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        sizes = dict(line.split(":", 1) for line in status.splitlines())
        now, most = (int(sizes[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        return now, most

    def forget_peak(self) -> None:
        """Count the peak of memory from now on (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
