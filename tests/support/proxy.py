"""smtpproxy itself, as a child process: `twistd -n --pidfile= smtpproxy --config FILE`."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.support.certificates import Certificate
from tests.support.ports import free_port
from tests.support.processes import DidNotHappen, Process, greeting

TWISTD = Path(sys.executable).with_name("twistd")
DOMAIN = "mx.example.net"
COLUMNS = "pattern;server;tls_verify"


def toml(value: Any) -> str:
    """A value as TOML text on one line; a mapping becomes an inline table."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str | Path):
        return json.dumps(str(value))
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def row(pattern: str, server: str, verify: bool = False) -> str:
    """One row of a CSV mapping."""
    return f"{pattern};{server};{json.dumps(verify)}"


def csv(rows: Sequence[str], columns: str = COLUMNS) -> str:
    """The text of a file of rows."""
    return "\n".join([columns, *rows, ""])


_ACTIVATE = """
import os, sys
names, descriptors, command = sys.argv[1], sys.argv[2].split(","), sys.argv[3:]
held = [os.dup2(int(each), 100 + n) for n, each in enumerate(descriptors)]
for n, each in enumerate(held):
    os.dup2(each, 3 + n)
    os.close(each)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(held))}
os.environ["LISTEN_FDNAMES"] = names
os.execv(command[0], command)
"""


def activated(descriptors: Mapping[str, int]) -> list[str | Path]:
    """What to put before a command, so that it is started as systemd does it, with sockets."""
    numbers = ",".join(map(str, descriptors.values()))
    return [sys.executable, "-c", _ACTIVATE, ":".join(descriptors), numbers]


class Proxy(Process):
    """A running smtpproxy that listens on one free port, and with `lmtp` for LMTP on another.

    `rows` are those of its CSV mapping, in `file`, and have `columns`. `settings` are laid over a
    configuration that asks no DNS, and no upstream before there is mail for it, with the names of
    smtpproxy.toml: `Proxy(folder, rows, limits={"max_errors": 3})`. Among them may be `mappings`,
    of which that file need not be one. `extensions` are those of its SMTP listener, and `listener`
    has more of its settings. The control socket is `control` in `folder`. `given` are sockets that
    it gets as from systemd, by name, and `more` variables of its environment.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[str],
        certificate: Certificate | None = None,
        columns: str = COLUMNS,
        lmtp: bool = False,
        extensions: Sequence[str] = (),
        listener: Mapping[str, Any] = MappingProxyType({}),
        port: int = 0,
        given: Mapping[str, socket.socket] = MappingProxyType({}),
        more: Mapping[str, str] = MappingProxyType({}),
        **settings: Any,
    ) -> None:
        self.port = port or free_port()
        smtp: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.port}",
            "extensions": extensions,
            **listener,
        }
        if certificate is not None:
            smtp |= {"tls_cert": certificate.chain, "tls_key": certificate.key}
        listeners = [smtp]
        if lmtp:
            self.lmtp_port = free_port()
            listeners.append({"listen": f"127.0.0.1:{self.lmtp_port}", "protocol": "lmtp"})
        self.file = folder / "mapping.csv"
        self.control = folder / "control"
        self.file.write_text(csv(rows, columns))
        self.configuration: dict[str, Any] = {
            "domain": DOMAIN,
            "recipient_delimiter": "+",
            "listeners": listeners,
            "mappings": [{"type": "csv", "file": "mapping.csv"}],
            "dns": {"reverse": False},
            "control": "control",
            "upstreams": {"ask_every": "0s"},
            **settings,
        }
        self.settings_file = folder / "smtpproxy.toml"
        self.configure()
        command: list[str | Path] = [TWISTD, "-n", "--pidfile=", "smtpproxy"]
        command += ["--config", self.settings_file]
        descriptors = {name: each.fileno() for name, each in given.items()}
        if given:
            command = [*activated(descriptors), *command]
        super().__init__(command, folder / "proxy.log", more, tuple(descriptors.values()))
        try:
            self.wait_for(lambda: greeting(self.port).startswith(b"220"), "the proxy's greeting")
        except DidNotHappen:
            self.stop()
            raise

    def configure(self, **settings: Any) -> None:
        """Write the configuration, with these settings laid over it from now on."""
        self.configuration |= settings
        lines = (f"{key} = {toml(item)}\n" for key, item in self.configuration.items())
        self.settings_file.write_text("".join(lines))
