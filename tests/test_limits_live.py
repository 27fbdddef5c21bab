"""Limits of a running proxy: what the configuration says is what is kept."""

from __future__ import annotations

import socket
from dataclasses import fields
from pathlib import Path
from typing import Any

from smtpproxy.config import Limits
from smtpproxy.limits import connection_limits, session_limits
from tests.support.ports import free_port
from tests.support.proxy import Proxy, row

USED_ELSEWHERE = {"max_message_bytes", "max_header_bytes", "max_recipients"}  # by `Relaying`
USED_ELSEWHERE |= {"shared", "shared_password_file", "shared_tls_ca"}  # by `Sharing`


def test_each_setting_reaches_its_place() -> None:
    names = Limits.model_fields.keys() - USED_ELSEWHERE - {"exempt"}
    values: dict[str, Any] = {name: number for number, name in enumerate(sorted(names), 1)}
    values["max_command_bytes"] = 512  # at least
    limits = Limits(**values, exempt=("203.0.113.0/24",))
    of_clients, of_session = connection_limits(limits), session_limits(limits)
    found = {it.name: getattr(of_clients, it.name) for it in fields(of_clients)}
    found |= {it.name: getattr(of_session, it.name) for it in fields(of_session)}
    assert "203.0.113.1" in found.pop("exempt")
    assert sorted(found.values()) == sorted(values.values())
    assert (found["per_address"], found["waiting"]) == (
        values["max_connections_per_address"],
        values["max_waiting"],
    )


def test_they_are_kept(tmp_path: Path) -> None:
    limits = {
        "exempt": [],
        "max_connections_per_address": 2,
        "max_errors": 2,
        "max_command_bytes": 600,
        "max_session_messages": 1,
    }
    proxy = Proxy(tmp_path, [row("example.com", f"127.0.0.1:{free_port()}")], limits=limits)
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as one:
        file = one.makefile("rwb")

        def says(line: bytes) -> bytes:
            file.write(line + b"\r\n")
            file.flush()
            while (reply := file.readline())[3:4] == b"-":
                pass
            return reply

        try:
            assert file.readline().startswith(b"220 ")
            assert says(b"HELO x").startswith(b"250 ")
            with socket.create_connection(("127.0.0.1", proxy.port), 10) as two:
                assert two.recv(100).startswith(b"220 ")
                with socket.create_connection(("127.0.0.1", proxy.port), 10) as three:
                    assert three.recv(100) == (
                        b"421 4.7.0 Too many connections from your address\r\n"
                    )
            assert says(b"NOOP " + b"x" * 600) == b"500 5.5.2 Line too long\r\n"
            assert says(b"MAIL FROM:<>").startswith(b"250 ")
            assert says(b"RSET").startswith(b"250 ")
            assert says(b"MAIL FROM:<>") == (
                b"421 4.7.0 Too many messages in one session; connect again\r\n"
            )
        finally:
            proxy.stop()
    assert "Too many connections from your address; proto=" in (tmp_path / "proxy.log").read_text()
