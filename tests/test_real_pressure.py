"""A slow upstream slows the client down, and costs no memory."""

from __future__ import annotations

import socket

from tests.support.messages import OURS
from tests.support.proxy import Proxy, row
from tests.support.sink import Sink

MEGABYTE = 1_000_000
BLOCK = b"0123456789" * 9_999 + b"01234567\r\n"


def test_a_stalled_upstream_stalls_the_client(folder):
    limits = {"max_message_bytes": "200MiB"}
    with (
        Sink() as sink,
        Proxy(folder, [row("example.com", sink.server)], limits=limits) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as client,
        client.makefile("rb") as replies,
    ):
        replies.readline()
        for command, code in (
            (b"HELO client.example.net", b"250"),
            (b"MAIL FROM:<sender@example.net>", b"250"),
            (b"RCPT TO:<alice@example.com>", b"250"),
            (b"DATA", b"354"),
        ):
            client.sendall(command + b"\r\n")
            assert replies.readline().startswith(code)
        proxy.forget_peak()
        idle, _ = proxy.memory()
        client.sendall(OURS["empty body"])
        blocks, rest = send_while_taken(client, 100 * MEGABYTE)
        _, peak = proxy.memory()
        assert blocks * len(BLOCK) < 40 * MEGABYTE, "only sockets' buffers may fill"
        assert peak - idle < 2 * MEGABYTE

        sink.go()
        client.settimeout(20)
        client.sendall(rest + b".\r\n")
        assert replies.readline().startswith(b"250")
        assert sink.content == OURS["empty body"] + BLOCK * (blocks + 1) + b".\r\n"


def send_while_taken(client: socket.socket, most: int) -> tuple[int, bytes]:
    """Send blocks until one is not taken for a second: how many were, and the rest of that one."""
    client.settimeout(1)
    for blocks in range(most // len(BLOCK)):
        rest = memoryview(BLOCK)
        try:
            while rest:
                rest = rest[client.send(rest) :]
        except TimeoutError:
            return blocks, bytes(rest)
    raise AssertionError(f"{most} octets were taken for an upstream that reads nothing")
