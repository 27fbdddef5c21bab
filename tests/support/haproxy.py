"""A private HAProxy, which stands before a mail server and tells it of its clients."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.support.needs import missing
from tests.support.ports import free_port
from tests.support.processes import Process, wait_until

SOURCE = "127.0.0.5"  # the address that it connects from

_UNPACKED = Path(__file__).resolve().parents[2] / ".venv/haproxy/usr/sbin/haproxy"
_CONFIGURATION = """\
global
    nbthread 1
    maxconn 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
"""
_LISTENER = """\
listen {name}
    bind 127.0.0.1:{port} {accept}
    unique-id-format %ci:%cp
    server mail 127.0.0.1:{server} source {source} {options}
"""


class Haproxy(Process):
    """A running HAProxy before the server on a port: with a port of its own for each way.

    `ways` are the options behind `server`, such as `send-proxy`, by any name; `ports` has what
    clients connect to, by the same names.  With `accept_proxy`, each client must begin with a
    header itself.
    """

    def __init__(
        self, folder: Path, server: int, ways: Mapping[str, str], accept_proxy: bool = False
    ) -> None:
        self.ports = {name: free_port() for name in ways}
        file = folder / "haproxy.cfg"
        file.write_text(
            _CONFIGURATION
            + "".join(
                _LISTENER.format(
                    name=name,
                    port=port,
                    accept="accept-proxy" if accept_proxy else "",
                    server=server,
                    source=SOURCE,
                    options=ways[name],
                )
                for name, port in self.ports.items()
            )
        )
        super().__init__([program(), "-db", "-f", file], folder / "haproxy.log")
        try:
            wait_until(self._listens, 10, "HAProxy's sockets")
        except BaseException:
            self.stop()
            raise

    def _listens(self) -> bool:
        listening = Path("/proc/net/tcp").read_text()
        return all(f":{port:04X} 00000000:0000 0A" in listening for port in self.ports.values())


def program() -> str:
    """Its file: Debian's, unpacked for the tests, or the one that is installed."""
    found = str(_UNPACKED) if os.access(_UNPACKED, os.X_OK) else shutil.which("haproxy")
    if not found:
        missing("needs HAProxy's files in .venv/haproxy: as root, make deps")
    assert found
    return found
