"""Listening: addresses, Unix sockets, what is said where it cannot be, and our own addresses."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.protocol import Factory

from smtpproxy.config import Address
from smtpproxy.faults import Faults
from smtpproxy.sockets import bind, is_local, is_ourselves, listen_privately
from tests.support.ports import free_port

HAS_IPV6 = is_local("::1")


@pytest.fixture
def bound():
    """Binds, and closes all of it in the end."""
    opened: list[socket.socket] = []

    def bind_address(address: Address) -> list[socket.socket]:
        sockets = bind(address)
        opened.extend(sockets)
        return sockets

    yield bind_address
    for each in opened:
        each.close()


def refusal(address: Address) -> str:
    with pytest.raises(Faults) as caught:
        bind(address)
    (fault,) = caught.value.faults
    return str(fault)


def can_connect(family: socket.AddressFamily, address: object) -> bool:
    with closing(socket.socket(family)) as client:
        try:
            client.connect(address)  # type: ignore[arg-type]
        except OSError:
            return False
    return True


def test_one_address(bound) -> None:
    (listening,) = bound(Address("127.0.0.1", 0))
    assert not listening.getblocking()
    assert can_connect(socket.AF_INET, listening.getsockname())


@pytest.mark.skipif(not HAS_IPV6, reason="this host has no IPv6")
def test_all_addresses_of_both_families_have_one_port(bound) -> None:
    four, six = bound(Address("", 0))
    assert four.getsockname()[1] == six.getsockname()[1]
    assert can_connect(socket.AF_INET, ("127.0.0.1", four.getsockname()[1]))
    assert can_connect(socket.AF_INET6, ("::1", four.getsockname()[1]))


@pytest.mark.skipif(not HAS_IPV6, reason="this host has no IPv6")
def test_ipv6_leaves_the_port_of_ipv4_alone(bound) -> None:
    (six,) = bound(Address("::", 0))
    assert not can_connect(socket.AF_INET, ("127.0.0.1", six.getsockname()[1]))


@pytest.mark.parametrize("error", ["EAFNOSUPPORT", "EADDRNOTAVAIL"])
def test_a_host_without_ipv6_listens_to_what_it_has(bound, monkeypatch, error) -> None:
    import errno

    from smtpproxy import sockets

    whole = sockets._bind

    def without_ipv6(family, host, port):
        if family == socket.AF_INET6:
            raise OSError(getattr(errno, error), "no")
        return whole(family, host, port)

    monkeypatch.setattr(sockets, "_bind", without_ipv6)
    assert [each.family for each in bound(Address("", 0))] == [socket.AF_INET]
    assert refusal(Address("::1", 0)).startswith("[::1]:0: cannot listen: ")


def test_a_port_that_is_taken(bound) -> None:
    port = free_port()
    bound(Address("127.0.0.1", port))
    assert refusal(Address("127.0.0.1", port)) == (
        f"127.0.0.1:{port}: cannot listen: Address already in use; another program listens there "
        "(ss -ltnp shows which): stop it, or choose another port"
    )


def test_nothing_stays_bound_where_one_family_fails(bound) -> None:
    port = free_port("::1") if HAS_IPV6 else pytest.skip("this host has no IPv6")
    bound(Address("::", port))
    assert "Address already in use" in refusal(Address("", port))
    bound(Address("127.0.0.1", port))


def test_an_address_of_another_host() -> None:
    said = refusal(Address("192.0.2.1", 2525))
    assert said.endswith("; this host has no such address")


def test_a_port_that_needs_rights(monkeypatch) -> None:
    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", denied)
    said = refusal(Address("127.0.0.1", 25))
    assert said == (
        "127.0.0.1:25: cannot listen: Permission denied; a port below 1024 needs root or the "
        "capability CAP_NET_BIND_SERVICE"
    )


# Unix sockets


def test_a_unix_socket_is_for_every_local_user(bound, folder: Path) -> None:
    path = str(folder / "smtp")
    (listening,) = bound(Address(path=path))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o666
    assert not listening.getblocking()
    assert can_connect(socket.AF_UNIX, path)


def test_a_unix_socket_that_nobody_listens_to_is_replaced(bound, folder: Path) -> None:
    path = str(folder / "smtp")
    for each in bind(Address(path=path)):
        each.close()
    assert not can_connect(socket.AF_UNIX, path)
    bound(Address(path=path))
    assert can_connect(socket.AF_UNIX, path)


def test_a_unix_socket_in_use_is_left_alone(bound, folder: Path) -> None:
    path = str(folder / "smtp")
    bound(Address(path=path))
    assert "Address already in use" in refusal(Address(path=path))
    assert can_connect(socket.AF_UNIX, path)


def test_a_path_that_cannot_be_listened_at_privately(bound, folder: Path) -> None:
    path = folder / "control"
    bound(Address(path=str(path)))
    with pytest.raises(OSError, match="in use; another program listens there: perhaps another smt"):
        listen_privately(reactor, str(path), Factory())
    path.unlink()
    path.write_text("")
    with pytest.raises(OSError, match="in use; it is no socket: move it away, or choose another"):
        listen_privately(reactor, str(path), Factory())


def test_a_file_is_not_taken_for_a_unix_socket(folder: Path) -> None:
    path = folder / "mail.txt"
    path.write_text("precious")
    assert "Address already in use" in refusal(Address(path=str(path)))
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there(folder: Path) -> None:
    path = folder / "missing" / "smtp"
    assert "No such file or directory" in refusal(Address(path=str(path)))


# Ourselves


@pytest.mark.parametrize(
    ("listening", "address", "port", "ours"),
    [
        ("127.0.0.1", "127.0.0.1", 25, True),
        ("127.0.0.1", "127.0.0.1", 2525, False),
        ("127.0.0.1", "127.0.0.2", 25, False),
        ("0.0.0.0", "127.0.0.1", 25, True),
        ("0.0.0.0", "127.0.0.2", 25, True),  # the whole network is this host
        ("0.0.0.0", "192.0.2.1", 25, False),
        ("0.0.0.0", "::1", 25, False),
        ("::", "::1", 25, HAS_IPV6),
        ("::", "2001:db8::1", 25, False),
        ("::", "127.0.0.1", 25, False),
        ("::1", "::1", 25, True),
    ],
)
def test_ourselves(listening: str, address: str, port: int, ours: bool) -> None:
    assert is_ourselves([("198.51.100.1", 25), (listening, 25)], address, port) is ours


def test_our_own_unix_socket_by_each_of_its_names(folder: Path) -> None:
    own = folder / "run" / "smtp"
    own.parent.mkdir()
    (folder / "var").symlink_to("run")
    listening = [("127.0.0.1", 0), (str(own), 0)]
    assert is_ourselves(listening, str(own), 0)
    assert is_ourselves(listening, str(folder / "var" / "smtp"), 0)
    assert not is_ourselves(listening, str(folder / "run" / "lmtp"), 0)
    assert not is_ourselves(listening[:1], str(own), 0)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "0.0.0.0"),  # connects to this host
        ("0.0.0.0", "0.0.0.0"),
        ("::1", "::"),
        ("127.0.0.1", "::ffff:127.0.0.1"),
        ("2001:db8::1", "2001:DB8:0::1"),
    ],
)
def test_ourselves_by_another_name(host: str, address: str) -> None:
    assert is_ourselves([(host, 25)], address, 25)
