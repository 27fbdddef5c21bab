"""A folder that is the whole machine for one program, which stays there by chroot(2).

Debian's mail servers keep each other from being installed, and the paths and the users of some
are compiled in. So the files of their packages lie unpacked in .venv (see tests/install-parts),
and each server that a test starts gets a root of its own: these files, the libraries that they
need, and users of its own. Nothing of the machine's is changed. It needs root.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.needs import missing, need
from tests.support.processes import Process, greeting

_UNPACKED = Path(__file__).resolve().parents[2] / ".venv"
_LIBRARY = re.compile(r"(?:=> |^\s*)(/\S+) \(0x", re.MULTILINE)  # in the output of ldd(1)
_DEVICES = {"null": (1, 3), "urandom": (1, 9)}

SHELL = "/bin/sh"


class PrivateRoot:
    """The package's files in `folder`, and `users` with their numbers, who have no other home.

    `machine` names programs of the machine that are needed as well.
    """

    def __init__(
        self, folder: Path, package: str, users: Mapping[str, int], machine: Sequence[str] = ()
    ) -> None:
        need("chroot", "ldd", root=True)
        files = _UNPACKED / package
        if not files.is_dir():
            missing(f"needs {package}'s files in .venv/{package}: as root, make deps")
        self.path = folder
        shutil.copytree(files / "usr", folder / "usr", symlinks=True)
        for name in machine:
            self._libraries(self._take(Path(name)))
        for program in [*folder.glob("usr/*bin/*"), *folder.glob("usr/libexec/*/*")]:
            if not program.is_symlink():
                self._libraries(program)
        for name in ("dev", "etc", "proc", "run", "tmp", "var"):
            (folder / name).mkdir()
        (folder / "tmp").chmod(0o1777)
        (folder / "var/run").symlink_to("/run")
        for name, device in _DEVICES.items():
            os.mknod(folder / "dev" / name, stat.S_IFCHR, os.makedev(*device))
            (folder / "dev" / name).chmod(0o666)
        for name, number in {"root": 0, **users}.items():
            self.write("/etc/passwd", f"{name}:x:{number}:{number}::/:{SHELL}\n")
            self.write("/etc/group", f"{name}:x:{number}:\n")
        self.write("/etc/hosts", "127.0.0.1 localhost\n")
        self.write("/etc/resolv.conf", "nameserver 127.0.0.1\n")

    def file(self, path: str) -> Path:
        """What is called `path` in this root."""
        return self.path / path.lstrip("/")

    def write(self, path: str, text: str) -> None:
        """Put more text into a file."""
        self.file(path).parent.mkdir(parents=True, exist_ok=True)
        with self.file(path).open("a") as file:
            file.write(text)

    def make(self, path: str, owner: int = 0, mode: int = 0o755) -> Path:
        """A folder, with those above it."""
        folder = self.file(path)
        folder.mkdir(parents=True)
        os.chown(folder, owner, owner)
        folder.chmod(mode)
        return folder

    def start(self, *arguments: str) -> Process:
        """Start a program of this root; what it says goes to /output there."""
        return Process(["chroot", self.path, *arguments], self.file("/output"))

    def run(self, *arguments: str) -> str:
        """What a program of this root says, which must succeed."""
        done = subprocess.run(
            ["chroot", self.path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=20,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout}"
        return done.stdout

    def _libraries(self, program: Path) -> None:
        """Copy the libraries of a program to where they lie on the machine."""
        done = subprocess.run(["ldd", program], capture_output=True, text=True, timeout=20)
        if "not found" in done.stdout:
            missing(f"{program.name} needs libraries: as root, make deps\n{done.stdout}")
        for found in _LIBRARY.finditer(done.stdout):
            if not self.file(found[1]).exists():
                self._take(Path(found[1]))

    def _take(self, path: Path) -> Path:
        copy = self.file(str(path))
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        return copy


class RootedServer:
    """A mail server in a root of its own, which takes mail on `port` of loopback.

    It delivers to maildirs in `mail`, a folder each, called by the whole address. `log` is where it
    says what it does, if not on its output. It is given mail to send by `submission.submit`.
    """

    def __init__(
        self, root: PrivateRoot, port: int, mail: Path, log: Path | None, *command: str
    ) -> None:
        self.root = root
        self.port = port
        self.server = f"127.0.0.1:{port}"
        self._mail = mail
        self._log = log
        self._command = command
        self.start()

    def start(self) -> None:
        """Start it, again after `stop` or `kill`."""
        command = self._command
        self._process = self.root.start(*command)
        self.log = self._log or self._process.log
        try:
            self._process.wait_for(lambda: greeting(self.port).startswith(b"220"), f"{command}")
        except AssertionError:
            self.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        """End all of its processes at once, as a power cut would; its queue stays."""
        self._process.stop(signal.SIGKILL)

    @property
    def group(self) -> int:
        """The process group of all of its processes."""
        return self._process.pid

    def delivered(self, mailbox: str) -> list[bytes]:
        """The messages that lie in a mailbox, in no order; lines end in LF.

        Each begins with fields that the server wrote.
        """
        return [path.read_bytes() for path in (self._mail / mailbox).glob("new/*")]

    def empty(self, mailbox: str) -> None:
        for path in (self._mail / mailbox).glob("new/*"):
            path.unlink()
