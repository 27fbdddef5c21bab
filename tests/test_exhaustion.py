"""The real proxy where the system has nothing left: it goes on or says why, and recovers."""

from __future__ import annotations

import os
import re
import resource
import select
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from textwrap import dedent

import pytest
from twisted.internet.task import Clock
from twisted.names import dns

from smtpproxy import descriptors, steady
from smtpproxy.logs.writer import BACKLOG
from tests.support.mail_server import MailServer
from tests.support.name_server import NameServer
from tests.support.proxy import Proxy, row
from tests.support.tls import Client

MAIL = "MAIL FROM:<s@example.org>"
RCPT = "RCPT TO:<a@example.com>"
DATE = r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d "  # that each line of the log begins with


@pytest.fixture
def server() -> Iterator[MailServer]:
    with MailServer("mx.test") as it:
        yield it


BALANCER = "127.0.0.2"


def greeted(proxy: Proxy, address: str = "") -> Client:
    """A client that has said EHLO, behind a load balancer where it has this address."""
    client = Client(proxy.port, BALANCER if address else "127.0.0.1")
    if address:
        client.socket.sendall(f"PROXY TCP4 {address} 198.51.100.1 40000 25\r\n".encode())
    assert client.hear().startswith("220")
    assert client.ask("EHLO client.example.com").startswith("250")
    return client


def deliver(client: Client, recipient: str = "a@example.com") -> str:
    """The reply to a message, or to the first command that is refused."""
    reply = ""
    for command in (MAIL, f"RCPT TO:<{recipient}>", "DATA", "Subject: x\r\n\r\nhello\r\n."):
        reply = client.ask(command)
        if reply[0] > "3":
            break
    return reply


def begins_with(folder: Path, code: str) -> dict[str, str]:
    """What has Python begin with this, in the environment."""
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def cpu(pid: int) -> float:
    """Seconds that a process has had of a processor (proc(5), stat)."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


# Descriptors


def open_files(proxy: Proxy) -> set[int]:
    return set(map(int, os.listdir(f"/proc/{proxy.pid}/fd")))


def next_file(proxy: Proxy) -> int:
    """The number that it will give the next one: the lowest that is free."""
    there = open_files(proxy)
    return next(number for number in count() if number not in there)


def allow_files(proxy: Proxy, most: int) -> None:
    """Let the running proxy open files with lower numbers only."""
    _, hard = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE, (most, hard))


def is_greeted(client: Client, seconds: float) -> bool:
    """Within so much time."""
    ready, _, _ = select.select([client.socket], [], [], seconds)
    return bool(ready) and client.hear().startswith("220")


FILES = 80
FEW = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({FILES}, {FILES}))\n"


def test_more_clients_than_descriptors(tmp_path: Path, server: MailServer) -> None:
    """Who is let in is served; the others wait at no cost, and are served when it is possible."""
    more = begins_with(tmp_path, FEW)
    with ExitStack() as ending:
        proxy = ending.enter_context(
            Proxy(tmp_path, [row("example.com", server.server)], more=more)
        )
        inside = []
        while is_greeted(client := ending.enter_context(Client(proxy.port)), 1):
            inside.append(client)
            assert client.ask("EHLO client.example.com").startswith("250")
            client.ask(MAIL)
            assert client.ask(RCPT) == "250 mx.test"  # over one more connection
        assert FILES / 4 < len(inside) < FILES / descriptors.EACH
        waiting = [client, *(ending.enter_context(Client(proxy.port)) for _ in range(10))]
        proxy.wait_for(lambda: "no connections accepted for now: " in proxy.output, "the log")
        spent, since = cpu(proxy.pid), time.monotonic()
        assert not is_greeted(client, 1.5)  # longer than it rests
        assert cpu(proxy.pid) - spent < (time.monotonic() - since) / 5, "it turns in circles"
        assert next_file(proxy) < FILES - 5, "nothing is left"

        for each in inside:
            assert each.ask("DATA").startswith("354")
            assert each.ask("Subject: x\r\n\r\nhello\r\n.") == "250 taken by mx.test"
            each.close()
        assert all(is_greeted(each, 10) for each in waiting)
        proxy.wait_for(lambda: "connections are accepted again" in proxy.output, "the log")
        assert proxy.output.count("no connections accepted for now") == 1
        assert "Traceback" not in proxy.output
    assert len(server.messages) == len(inside)


def test_no_descriptor_for_an_upstream(tmp_path: Path, server: MailServer) -> None:
    """The client is to try again; that is no fault of the upstream's, and is soon over."""
    with Proxy(tmp_path, [row("example.com", server.server)]) as proxy:
        client = greeted(proxy)
        client.ask(MAIL)
        allow_files(proxy, next_file(proxy))
        with Client(proxy.port) as other:
            for _ in range(5):
                reply = "451 4.4.1 The server of this recipient is not reachable"
                assert client.ask(RCPT) == reply
            assert not is_greeted(other, 0.1)
            allow_files(proxy, 1000)
            client.ask("RSET")
            assert deliver(client) == "250 taken by mx.test"
            assert is_greeted(other, 10)
        assert "Too many open files" in proxy.output
        assert " is down" not in proxy.output
        assert "Traceback" not in proxy.output


def test_it_opens_as_many_files_as_it_may(tmp_path: Path) -> None:
    """And says where that is too few for the clients that it is to take."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with Proxy(tmp_path, [], limits={"max_connections": hard}) as proxy:
            allowed = resource.prlimit(proxy.pid, resource.RLIMIT_NOFILE)
            assert allowed == (min(hard, descriptors.MOST), hard)
            proxy.wait_for(lambda: f"no more than {allowed[0] // 2} clients" in proxy.output, "it")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert descriptors.shortage(hard // 2 if hard > 0 else 1000) == ""
    assert descriptors.sessions(10) == 10


# The log


def limit_files(proxy: Proxy, octets: int) -> None:
    """Let no file of the running proxy grow beyond so much: as a full disk does it."""
    _, hard = resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(proxy.pid, resource.RLIMIT_FSIZE, (octets, hard))


def test_a_log_that_cannot_grow(tmp_path: Path, server: MailServer) -> None:
    """Mail flows on; what is lost is counted, and said as soon as there is room."""
    log = tmp_path / "mail.log"
    rows = [row("example.com", server.server)]
    limits = {"max_errors": 100_000, "max_recipients": 100_000, "max_commands": 100_000}
    with Proxy(tmp_path, rows, log={"file": str(log)}, limits=limits) as proxy:
        client = greeted(proxy)
        assert deliver(client).startswith("250")
        limit_files(proxy, log.stat().st_size + 100)  # within a line
        client.ask(MAIL)
        refused = f"RCPT TO:<{'x' * 60}@{'y' * 60}.{'z' * 60}.test>\r\n".encode() * 100
        memory = proxy.memory()[0]
        for _ in range(2 * BACKLOG // 40_000):
            client.socket.sendall(refused)
            assert {client.hear() for _ in range(100)} == {"550 5.7.1 Relay access denied"}
        client.ask("RSET")
        assert deliver(client).startswith("250")
        assert proxy.memory()[0] < memory + 8 * BACKLOG
        assert "log lines were lost" not in log.read_text()

        limit_files(proxy, resource.RLIM_INFINITY)
        lost = re.compile(r" warning: (\d+) log lines were lost: File too large\n")
        proxy.wait_for(lambda: lost.search(log.read_text()), "the line that says so")
        client.ask("RSET")
        assert deliver(client).startswith("250")
        proxy.wait_for(lambda: lost.split(log.read_text())[2].count("status=sent") == 1, "the log")
        lines = log.read_text().splitlines()
        dates = [[it.start() for it in re.finditer(DATE, line)] for line in lines]
        assert all(it == [0] for it in dates), "a line is torn"
        match = lost.search(log.read_text())
        assert match is not None
        kept = sum("NOQUEUE: reject" in line for line in lines)
        assert 0 < kept < int(match[1])
    assert len(server.messages) == 3


def test_a_log_on_a_full_disk_from_the_beginning(tmp_path: Path, server: MailServer) -> None:
    rows = [row("example.com", server.server)]
    with Proxy(tmp_path, rows, log={"file": "/dev/full"}) as proxy:
        assert deliver(greeted(proxy)).startswith("250")
        assert proxy.stop() == 0


# DNS


def pointer(name: str) -> dns.Record_PTR:
    return dns.Record_PTR(name.encode())


def test_dns_that_is_dead(tmp_path: Path) -> None:
    """It delays mail by its own deadline at most, and is asked again soon."""
    extensions = ("XCLIENT NAME ADDR PORT PROTO HELO",)
    with NameServer() as names, MailServer("mx.test", extensions=extensions) as server:
        port = server.server.partition(":")[2]
        rows = [row("example.com", server.server)]
        rows += [row(name, f"mx:{name}:{port}") for name in ("example.net", "example.org")]
        with Proxy(
            tmp_path,
            rows,
            dns={"reverse": True, "servers": [names.address], "timeout": "1s"},
            listener={"proxy_from": [BALANCER]},
        ) as proxy:
            since = time.monotonic()
            client = greeted(proxy, "192.0.2.7")
            assert time.monotonic() - since < 0.9, "the greeting waits for DNS"
            assert deliver(client) == "250 taken by mx.test"
            assert 0.9 < time.monotonic() - since < 3
            assert "NAME=[TEMPUNAVAIL]" in told(server)

            since = time.monotonic()
            reply = deliver(client, "a@example.net")
            assert reply == "451 4.4.1 The server of this recipient is not reachable"
            assert 0.9 < time.monotonic() - since < 3
            why = "example.net: no answer within 1 s"
            proxy.wait_for(lambda: why in proxy.output, "the log")

            names.records = {
                ("8.2.0.192.in-addr.arpa", dns.PTR): pointer("client.example.com"),
                ("client.example.com", dns.A): dns.Record_A("192.0.2.8"),
                ("example.org", dns.MX): dns.Record_MX(10, b"localhost"),
            }
            other = greeted(proxy, "192.0.2.8")
            assert deliver(other) == "250 taken by mx.test"
            assert "NAME=client.example.com" in told(server)
            assert deliver(other, "a@example.org") == "250 taken by mx.test"
            assert "Traceback" not in proxy.output


def told(server: MailServer) -> str:
    """The last XCLIENT."""
    return [line for line in server.said if line.startswith("XCLIENT")][-1]


# The clock

JUMPS = """
    import os, time

    real = time.time

    def time_of_day():
        try:
            with open(os.environ["JUMP"]) as file:
                return real() + float(file.read() or 0)
        except OSError:
            return real()

    time.time = time_of_day
"""


def test_the_time_of_day_may_jump(tmp_path: Path, server: MailServer) -> None:
    """Deadlines do not go by it; only the log does, and ids never come twice."""
    jump = tmp_path / "jump"
    more = {"JUMP": str(jump), **begins_with(tmp_path, dedent(JUMPS))}
    times = {"client_command": "3s"}
    rows = [row("example.com", server.server)]
    with Proxy(tmp_path, rows, more=more, timeouts=times) as proxy:
        client = greeted(proxy)
        for seconds in (-3600, 86400, 0, -86400):
            since = time.monotonic()
            jump.write_text(str(seconds))
            assert deliver(client) == "250 taken by mx.test"
            assert time.monotonic() - since < 2
        assert client.hear() == "421 4.4.2 Timeout, closing the connection"
        assert 2.5 < time.monotonic() - since < 6
        assert deliver(greeted(proxy)) == "250 taken by mx.test"
        proxy.wait_for(lambda: proxy.output.count("status=sent") == 5, "the log")
        names = re.findall(r" ([0-9A-F]{14}): .*status=sent", proxy.output)
        assert len(set(names)) == 5
        assert names == sorted(names)


def test_a_reactor_that_has_begun_already() -> None:
    """What it is to call keeps its distance."""
    called: list[str] = []
    reactor = Clock()
    reactor.callLater(5, called.append, "soon")
    reactor.callLater(50, called.append, "later")
    steady.make_steady(reactor)
    steady.make_steady(reactor)
    assert reactor.seconds is steady.seconds
    distances = [call.getTime() - steady.seconds() for call in reactor.getDelayedCalls()]
    assert distances == pytest.approx([5, 50], abs=1)
    for call in reactor.getDelayedCalls():
        call.reset(7)
        assert call.getTime() - steady.seconds() == pytest.approx(7, abs=1)
