"""Who holds a port that the configuration wants, and is not smtpproxy?

    bin/python ports.py CONFIG PREFIX

Prints a line for each, and ends with 1 where there is one. What runs from below PREFIX is ours.
Only Linux's /proc is read: nothing is bound, stopped or connected to.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from smtpproxy.config import load

Host = IPv4Address | IPv6Address

_LISTEN = "0A"  # the state in /proc/net/tcp (proc(5))


@dataclass(frozen=True, slots=True)
class Listening:
    """A socket that somebody listens on."""

    host: Host
    port: int
    inode: str


def main(file: Path, prefix: str, proc: Path = Path("/proc")) -> int:
    wanted = [
        (ip_address(each.listen.host) if each.listen.host else None, each.listen.port)
        for each in load(file, os.environ).listeners
        if each.listen.port
    ]
    foreign = 0
    for taken in listening(proc):
        if not any(port == taken.port and same(host, taken.host) for host, port in wanted):
            continue
        owners = list(owners_of(taken.inode, proc))
        if any(f"{prefix}/" in command for _, _, command in owners):
            continue
        foreign = 1
        who = ", ".join(f"{name} (pid {pid})" for pid, name, _ in owners)
        print(f"port {taken.port} on {taken.host} is held by {who or 'a process not to be seen'}")
    return foreign


def same(wanted: Host | None, taken: Host) -> bool:
    """Whether nobody can have the one while somebody has the other; None is every address."""
    if wanted is None or taken.is_unspecified or wanted.is_unspecified:
        return True
    return wanted == taken


def listening(proc: Path) -> Iterator[Listening]:
    for name in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for line in (proc / "net" / name).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN:
                    host, _, port = fields[1].partition(":")
                    yield Listening(_host(host), int(port, 16), fields[9])


def _host(text: str) -> Host:
    """An address as it stands there: words of 32 bits, each in the machine's own order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    octets = struct.pack(f"={len(words)}I", *words)
    family = socket.AF_INET6 if len(words) == 4 else socket.AF_INET
    return ip_address(socket.inet_ntop(family, octets))


def owners_of(inode: str, proc: Path) -> Iterator[tuple[int, str, str]]:
    """Process id, name and command line of all that have this socket open."""
    for folder in sorted(proc.glob("[0-9]*"), key=lambda each: int(each.name)):
        with suppress(OSError):  # it has ended, or is not ours to look into
            if any(_links_to(each, f"socket:[{inode}]") for each in (folder / "fd").iterdir()):
                name = (folder / "comm").read_text().strip()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                yield int(folder.name), name, command.decode(errors="replace")


def _links_to(descriptor: Path, target: str) -> bool:
    with suppress(OSError):
        return os.readlink(descriptor) == target  # it is no path
    return False


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]))
