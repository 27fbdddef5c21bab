"""How connections end: what was answered is heard, by real clients over real sockets."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.proxy import Proxy, row
from tests.support.sink import Sink

MESSAGE = b"Subject: hello\r\n\r\nbody\r\n.\r\n"


@contextmanager
def inside_the_content(port: int) -> Iterator[tuple[socket.socket, list[bytes]]]:
    """A client that has had its 354; what it hears from then on, line by line, as it is asked."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as client,
        client.makefile("rb") as replies,
    ):
        replies.readline()
        for command in (
            b"HELO client.example.net",
            b"MAIL FROM:<sender@example.net>",
            b"RCPT TO:<alice@example.com>",
            b"DATA",
        ):
            client.sendall(command + b"\r\n")
            assert replies.readline()[:1] in b"23"
        yield client, replies  # type: ignore[misc]


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stop_waits_for_the_answer_and_the_client_hears_it(folder, signals: int) -> None:
    """A client that is not told sends the message again, and the recipient has it twice."""
    with (
        Sink() as sink,
        Proxy(folder, [row("example.com", sink.server)]) as proxy,
        inside_the_content(proxy.port) as (client, replies),
    ):
        client.sendall(MESSAGE)
        proxy.wait_for(lambda: sink.waiting, "the message at the upstream")
        os.kill(proxy.pid, signal.SIGTERM)
        proxy.wait_for(lambda: "stopping: 1 session" in proxy.output, "the stop")
        if signals == 2:
            os.kill(proxy.pid, signal.SIGTERM)
            assert replies.read().startswith(b"421 4.3.2 ")
        else:
            sink.go()
            assert replies.readline().startswith(b"250 2.0.0 Ok")
            assert replies.readline().startswith(b"421 4.3.2 ")
            assert replies.read() == b""
        proxy.wait_for(lambda: not proxy.running, "its end")
        assert "Traceback" not in proxy.output


def test_an_idle_client_hears_of_the_stop(folder) -> None:
    with (
        Proxy(folder, [row("example.com", "127.0.0.1:9")]) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as client,
        client.makefile("rb") as replies,
    ):
        assert replies.readline().startswith(b"220 ")
        os.kill(proxy.pid, signal.SIGTERM)
        assert replies.read().startswith(b"421 4.3.2 ")


def test_a_client_that_has_said_all_hears_all_answers(folder) -> None:
    """As `nc -N` does: it closes its half once everything is sent."""
    with (
        Sink() as sink,
        Proxy(folder, [row("example.com", sink.server)]) as proxy,
        inside_the_content(proxy.port) as (client, replies),
    ):
        client.sendall(MESSAGE + b"QUIT\r\n")
        client.shutdown(socket.SHUT_WR)
        proxy.wait_for(lambda: sink.waiting, "the message at the upstream")
        sink.go()
        assert replies.readline().startswith(b"250 2.0.0 Ok")
        assert replies.readline()[:1] == b"2"
        assert replies.read() == b""


def test_a_client_that_closes_its_half_inside_the_content_is_gone(folder) -> None:
    with (
        Sink() as sink,
        Proxy(folder, [row("example.com", sink.server)]) as proxy,
        inside_the_content(proxy.port) as (client, replies),
    ):
        client.sendall(MESSAGE[:-3])
        client.shutdown(socket.SHUT_WR)
        assert replies.read() == b""
        sink.go()
        proxy.wait_for(lambda: sink.ended, "the end of the upstream's session")
        assert not sink.content.endswith(b".\r\n")


def test_a_log_that_nobody_reads_stops_no_mail(folder) -> None:
    """It is a pipe that blocks when it is full, as standard output may be."""
    pipe = folder / "log"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with Proxy(folder, [row("example.com", "127.0.0.1:9")], log={"file": pipe}) as proxy:
            for _ in range(400):
                with (
                    socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as client,
                    client.makefile("rb") as replies,
                ):
                    assert replies.readline().startswith(b"220 ")
                    client.sendall(b"HELO " + b"x" * 200 + b"\r\nQUIT\r\n")
                    assert replies.readline().startswith(b"250 ")
            assert proxy.stop() == 0, "it had to be killed"
    finally:
        os.close(reading)
