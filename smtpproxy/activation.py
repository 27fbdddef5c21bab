"""Sockets that systemd has bound, and keeps while the program is restarted (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from smtpproxy.config import Address
from smtpproxy.faults import Fault, Faults
from smtpproxy.sockets import bind

FIRST = 3  # descriptor
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")

Given = Mapping[str, Sequence[int]]  # descriptors, by the name that systemd has for them


def environment() -> Mapping[str, str]:
    """The variables that this process was started with.

    Twisted takes those of the sockets out of `os.environ` as soon as it imports its endpoints.
    """
    try:
        lines = Path("/proc/self/environ").read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return os.environ
    return {name: value for name, _, value in (each.partition("=") for each in lines.split("\0"))}


def given(environ: Mapping[str, str], first: int = FIRST) -> Given:
    """What was passed to this process, which is not passed on."""
    pid, number, names = (environ.get(each, "") for each in _VARIABLES)
    found: dict[str, list[int]] = {}
    if pid == str(os.getpid()) and number.isdigit():
        named = names.split(":") if names else []
        for place in range(int(number)):
            name = named[place] if place < len(named) else "unknown"
            os.set_inheritable(first + place, False)
            found.setdefault(name, []).append(first + place)
    return found


class Sockets:
    """Sockets for the addresses of listeners: bound here, or given by systemd."""

    def __init__(self, given: Given) -> None:
        self._given = given

    def bind(self, address: Address) -> Sequence[socket.socket]:
        """Those that listen there, and do not block; raises `Faults`.

        One that was given can be had again: what is closed is a second descriptor of it.
        """
        if not address.name:
            return bind(address)
        descriptors = self._given.get(address.name, ())
        if not descriptors:
            raise Faults([Fault(str(address), self._missing())])
        sockets: list[socket.socket] = []
        try:
            for each in descriptors:
                sockets.append(_adopted(each))
        except (OSError, ValueError) as error:
            for other in sockets:
                other.close()
            why = getattr(error, "strerror", None) or error
            raise Faults([Fault(str(address), f"cannot listen: {why}")]) from None
        return sockets

    def _missing(self) -> str:
        if not self._given:
            return (
                "systemd has passed no sockets: have it start smtpproxy with a .socket unit, "
                'or write where to listen, as in ":25"'
            )
        return f"systemd has passed no socket of this name, but {', '.join(sorted(self._given))}"


def _adopted(descriptor: int) -> socket.socket:
    """Raises OSError, or ValueError where it does not listen for streams."""
    adopted = socket.socket(fileno=os.dup(descriptor))
    listens = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if adopted.type != socket.SOCK_STREAM or not listens:
        adopted.close()
        raise ValueError("it is no stream socket that listens: Accept=no and ListenStream= are so")
    adopted.setblocking(False)
    return adopted
