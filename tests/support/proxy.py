"""smtpproxy itself, as a child process: `twistd -n smtpproxy --config FILE`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
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


class Proxy(Process):
    """A running smtpproxy that listens on one free port, and with `lmtp` for LMTP on another.

    `rows` are those of its CSV mapping, in `file`, and have `columns`. `settings` are laid over a
    configuration that asks no DNS, and no upstream before there is mail for it, with the names of
    smtpproxy.toml: `Proxy(folder, rows, limits={"max_errors": 3})`. Among them may be `mappings`,
    of which that file need not be one. `extensions` are those of its SMTP listener. The control
    socket is `control` in `folder`.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[str],
        certificate: Certificate | None = None,
        columns: str = COLUMNS,
        lmtp: bool = False,
        extensions: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.port = free_port()
        listener: dict[str, Any] = {
            "listen": f"127.0.0.1:{self.port}",
            "extensions": extensions,
        }
        if certificate is not None:
            listener |= {"tls_cert": certificate.chain, "tls_key": certificate.key}
        listeners = [listener]
        if lmtp:
            self.lmtp_port = free_port()
            listeners.append({"listen": f"127.0.0.1:{self.lmtp_port}", "protocol": "lmtp"})
        self.file = folder / "mapping.csv"
        self.control = folder / "control"
        self.file.write_text(csv(rows, columns))
        configuration: dict[str, Any] = {
            "domain": DOMAIN,
            "recipient_delimiter": "+",
            "listeners": listeners,
            "mappings": [{"type": "csv", "file": "mapping.csv"}],
            "dns": {"reverse": False},
            "control": "control",
            "upstreams": {"ask_every": "0s"},
            **settings,
        }
        file = folder / "smtpproxy.toml"
        file.write_text("".join(f"{key} = {toml(item)}\n" for key, item in configuration.items()))
        super().__init__(
            [TWISTD, "-n", "--pidfile=", "smtpproxy", "--config", file], folder / "proxy.log"
        )
        try:
            self.wait_for(lambda: greeting(self.port).startswith(b"220"), "the proxy's greeting")
        except DidNotHappen:
            self.stop()
            raise
