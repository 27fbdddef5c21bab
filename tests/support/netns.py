"""Machines that are not there: network namespaces with wires between them.

What a thread starts while it has `entered` a machine runs there, and the sockets that it makes are
that machine's; files are everybody's.  Ports are free, and addresses can be those of a manual.
It needs root, and changes nothing of the network outside.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from tests.support.needs import missing, need

_FOLDER = Path("/run/netns")  # where ip-netns(8) keeps them
_SWITCH = "switch"
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET, setns(2)
_libc = ctypes.CDLL(None, use_errno=True)


class Machine:
    """One of a `Network`."""

    def __init__(self, name: str) -> None:
        self.name = name

    @contextmanager
    def entered(self) -> Iterator[Self]:
        """This thread is there meanwhile."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _enter(_FOLDER / self.name)
            try:
                yield self
            finally:
                _enter(f"/proc/self/fd/{before}")
        finally:
            os.close(before)


class Network:
    """So many wires, each of which connects all machines that have an address on it."""

    def __init__(self, wires: int) -> None:
        need("ip", "nsenter", root=True)
        self._prefix = f"smtpproxy-{os.getpid()}"
        self._made: list[str] = []
        self._links = 0
        _forget_the_dead()
        try:
            self._switch = self._namespace(_SWITCH)
            for wire in range(wires):
                self._ip_in(self._switch, "link", "add", f"wire{wire}", "type", "bridge")
                self._ip_in(self._switch, "link", "set", f"wire{wire}", "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def machine(self, name: str, *addresses: Sequence[str]) -> Machine:
        """A new one: the addresses that it has on the first wire, on the second, and so on.

        They are written with their prefixes: "192.0.2.7/24".
        """
        there = self._namespace(name)
        self._ip_in(there, "link", "set", "lo", "up")
        for wire, on_it in enumerate(addresses):
            if on_it:
                self._connect(there, wire, on_it)
        return Machine(there)

    def close(self) -> None:
        """Take all of it away; to be called when nothing runs there any more."""
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)
        self._made.clear()

    def _connect(self, there: str, wire: int, addresses: Sequence[str]) -> None:
        self._links += 1
        plug, end = f"plug{self._links}", f"eth{wire}"
        of_there = ["peer", "name", end, "netns", there]
        self._ip_in(self._switch, "link", "add", plug, "type", "veth", *of_there)
        self._ip_in(self._switch, "link", "set", plug, "master", f"wire{wire}", "up")
        for address in addresses:
            at_once = ["nodad"] if ":" in address else []
            self._ip_in(there, "addr", "add", address, "dev", end, *at_once)
        self._ip_in(there, "link", "set", end, "up")

    def _namespace(self, name: str) -> str:
        full = f"{self._prefix}-{name}"
        self._made.append(full)
        _run("ip", "netns", "add", full)
        return full

    @staticmethod
    def _ip_in(there: str, *arguments: str) -> None:
        # `ip -n` would mount as well, which fails where / is no mount, as in a chroot.
        _run("nsenter", f"--net={_FOLDER / there}", "ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    if "not permitted" in done.stderr:
        missing(f"needs the right to make network namespaces: {done.stderr.strip()}")
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def _enter(path: Path | str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if _libc.setns(descriptor, _NEW_NETWORK):
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(descriptor)


def _forget_the_dead() -> None:
    """Take away what tests left that were killed themselves."""
    for path in _FOLDER.glob("smtpproxy-*-*"):
        pid = path.name.split("-")[1]
        if not Path("/proc", pid).exists():
            subprocess.run(["ip", "netns", "del", path.name], capture_output=True, timeout=20)
