"""Sockets that systemd has bound: they are there before the program, and after it."""

from __future__ import annotations

import os
import smtplib
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from smtpproxy.activation import Sockets, given
from smtpproxy.config import Address
from smtpproxy.faults import Faults
from smtpproxy.request import request
from smtpproxy.sockets import is_local
from tests.support.mail_server import MailServer
from tests.support.processes import greeting
from tests.support.proxy import Proxy, row

PATIENCE = 20.0  # seconds


@pytest.fixture
def three() -> Iterator[int]:
    """The first of three descriptors side by side, which are free for a test to fill."""
    first = 200
    yield first
    for each in range(first, first + 3):
        try:
            os.close(each)
        except OSError:
            continue


def variables(names: str | None, number: int, pid: int = 0) -> dict[str, str]:
    found = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(number), "PATH": "/bin"}
    return found if names is None else {**found, "LISTEN_FDNAMES": names}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("mx:lmtp:mx", {"mx": [200, 202], "lmtp": [201]}),
        ("mx", {"mx": [200], "unknown": [201, 202]}),
        (None, {"unknown": [200, 201, 202]}),
    ],
)
def test_they_are_found_by_their_names(three: int, names: str | None, found) -> None:
    with open(os.devnull) as nothing:
        for each in range(three, three + 3):
            os.dup2(nothing.fileno(), each)
    assert given(variables(names, 3), three) == found
    assert not os.get_inheritable(three), "a child would have it, too"


def test_those_of_another_process_are_left_alone() -> None:
    assert given(variables("mx", 3, pid=1)) == {}
    assert given({}) == {}


def bound(name: str, sockets: dict[str, list[int]]) -> list[socket.socket]:
    return list(Sockets(sockets).bind(Address(name=name)))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_socket_is_adopted_without_blocking_and_again(host: str) -> None:
    if not is_local(host):
        pytest.skip("this host has no IPv6")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listening:
        for _ in range(2):
            (adopted,) = bound("mx", {"mx": [listening.fileno()]})
            with closing(adopted):
                assert not adopted.getblocking()
                assert adopted.family == family
                assert adopted.getsockname() == listening.getsockname()


def test_what_is_no_listening_socket_is_a_fault(folder: Path) -> None:
    with (
        socket.socket() as deaf,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        (folder / "file").open("w") as file,
    ):
        for each in (deaf, datagrams, file):
            with pytest.raises(Faults, match=r"systemd:mx: cannot listen: .*sock"):
                bound("mx", {"mx": [each.fileno()]})


def test_a_name_that_was_not_passed() -> None:
    with pytest.raises(Faults, match=r"has passed no socket of this name, but lmtp, mx$"):
        bound("smtp", {"mx": [3], "lmtp": [4]})
    with pytest.raises(Faults, match="has passed no sockets: have it start smtpproxy with"):
        bound("smtp", {})


def test_other_addresses_are_bound_here() -> None:
    (listening,) = Sockets({}).bind(Address("127.0.0.1", 0))
    with closing(listening):
        assert listening.getsockname()[0] == "127.0.0.1"


# The running program


def test_nobody_is_refused_while_the_program_is_restarted(folder: Path) -> None:
    """Who comes between two of them waits, and is greeted by the second; so at a Unix socket."""
    path = str(folder / "smtp")
    with (
        MailServer("one") as one,
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
    ):
        unix.bind(path)
        unix.listen()
        port = tcp.getsockname()[1]
        sockets = {"mx.socket": tcp, "local": unix}

        def proxy() -> Proxy:
            listeners = [{"listen": f"systemd:{name}"} for name in sockets]
            return Proxy(
                folder, [row("*", one.server)], port=port, given=sockets, listeners=listeners
            )

        with proxy() as first:
            assert f"listening on 127.0.0.1:{port}\n" in first.output
            assert f"listening on unix:{path}\n" in first.output
            assert first.stop() == 0
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as early,
            socket.socket(socket.AF_UNIX) as local,
        ):
            local.settimeout(PATIENCE)
            local.connect(path)
            with proxy():
                for client in (early, local):
                    assert client.recv(512).startswith(b"220 ")


def test_one_socket_for_all_of_ipv4_and_ipv6(folder: Path) -> None:
    """As systemd makes it of a port: clients of IPv4 are seen as such, and so is a loop."""
    if not is_local("::1"):
        pytest.skip("this host has no IPv6")
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as tcp:
        port = tcp.getsockname()[1]
        with (
            Proxy(
                folder,
                [row("*", f"127.0.0.1:{port}")],
                port=port,
                given={"mx": tcp},
                listeners=[{"listen": "systemd:mx"}],
            ) as proxy,
            smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client,
        ):
            client.ehlo()
            client.mail("s@example.org")
            assert client.rcpt("a@example.com")[0] == 554
    assert "[127.0.0.1]" in proxy.output
    assert "::ffff:" not in proxy.output


def ticks(proxy: Proxy) -> int:
    """Hundredths of a second that it has computed (proc(5))."""
    fields = Path(f"/proc/{proxy.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_socket_that_is_given_up_and_taken_again(folder: Path) -> None:
    """Nothing is left of it in between that would keep the program busy."""
    with (
        MailServer("one") as one,
        socket.create_server(("127.0.0.1", 0)) as tcp,
    ):
        port = tcp.getsockname()[1]
        with Proxy(folder, [row("*", one.server)], given={"mx": tcp}) as proxy:
            own = f"127.0.0.1:{proxy.port}"
            both = [{"listen": own}, {"listen": "systemd:mx"}]
            for listeners in (both, both[:1], both):
                proxy.configure(listeners=listeners)
                assert request(proxy.control, "reload", PATIENCE)["taken"]
                with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
                    if len(listeners) == 1:
                        before = ticks(proxy)
                        client.settimeout(0.5)
                        with pytest.raises(TimeoutError):
                            client.recv(1)
                        assert ticks(proxy) - before < 25, "busy with nothing"
            assert greeting(port).startswith(b"220 ")
