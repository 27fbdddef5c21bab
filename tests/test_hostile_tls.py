"""TLS and those who mean harm by it, on both sides of the running proxy, over real sockets."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import pytest
from OpenSSL import SSL

from smtpproxy import tls
from tests.support.certificates import Authority, Certificate
from tests.support.mail_server import MailServer
from tests.support.processes import short_folder
from tests.support.proxy import Proxy, row
from tests.support.records import ALERT, DATA, HANDSHAKE, KEY_UPDATE, Forger, Secrets
from tests.support.sockets import Listening, Turning, pair, transport

TIME = 20.0  # seconds for anything here
HANDSHAKE_TIME, COMMAND_TIME = 1, 2  # seconds that the proxy gives a client
READY = b"220 2.0.0 Ready to start TLS\r\n"
EVIL = b"EHLO evil.example.org\r\nMAIL FROM:<evil@example.org>\r\nRCPT TO:<a@example.com>\r\n"
# The beginning of a ClientHello: a record of 512 octets, of which no more come.
HALF_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(range(32))


@pytest.fixture(scope="module")
def upstream() -> Iterator[MailServer]:
    with MailServer("one") as server:
        yield server


@pytest.fixture(scope="module")
def proxy(proxy_certificate: Certificate, upstream: MailServer) -> Iterator[Proxy]:
    times = {"upstream_connect": f"{HANDSHAKE_TIME}s", "client_command": f"{COMMAND_TIME}s"}
    rows = [row("example.com", upstream.server)]
    with short_folder() as folder, Proxy(folder, rows, proxy_certificate, timeouts=times) as it:
        yield it
        with Client(it) as client:  # it still takes mail
            assert client.ask(b"MAIL FROM:<s@example.org>") == b"250 2.1.0 Ok\r\n"
            assert client.ask(b"RCPT TO:<a@example.com>") == b"250 one\r\n"
        assert "Traceback" not in it.output
    assert not any("evil" in line for line in upstream.said)


class Client:
    """A client on its own socket, in clear, that has said EHLO."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._from = len(proxy.output)
        self.socket = socket.create_connection(("127.0.0.1", proxy.port), timeout=TIME)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        assert self.hear().startswith(b"220 ")
        assert self.ask(b"EHLO client.example.net").startswith(b"250-")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def hear(self) -> bytes:
        """A whole reply."""
        said = b""
        while not re.search(rb"(?:\A|\n)\d{3} [^\n]*\n\Z", said):
            octets = self.socket.recv(1000)
            assert octets, said
            said += octets
        return said

    def ask(self, line: bytes) -> bytes:
        self.socket.sendall(line + b"\r\n")
        return self.hear()

    def start_tls(self, behind: bytes = b"") -> None:
        """`behind` is sent in one segment with the command; the handshake is the caller's."""
        assert self.ask(b"STARTTLS\r\n" + behind) == READY

    def shake_hands(self, newest: int = SSL.TLS1_3_VERSION) -> tuple[SSL.Connection, Secrets]:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(newest)
        secrets = Secrets(context)
        connection = SSL.Connection(context, self.socket)
        connection.set_connect_state()
        self.socket.settimeout(None)  # pyOpenSSL knows sockets that block, or that do not
        connection.do_handshake()
        return connection, secrets

    def rest(self) -> bytes:
        """All that comes until the connection ends."""
        self.socket.settimeout(TIME)
        said = bytearray()
        with suppress(ConnectionResetError):
            while octets := self.socket.recv(4096):
                said += octets
        return bytes(said)

    def logged(self, pattern: str) -> None:
        """Wait for a line that was logged since it connected."""
        self._proxy.wait_for(lambda: re.search(pattern, self._proxy.output[self._from :]), pattern)


# Clients, before the handshake is done


@pytest.mark.parametrize("behind", [EVIL, b"STARTTLS\r\n", b"NOO", EVIL[:-1]])
def test_plaintext_behind_starttls_is_not_obeyed(proxy: Proxy, behind: bytes) -> None:
    with Client(proxy) as client:
        client.start_tls(behind)
        connection, _ = client.shake_hands()
        connection.sendall(b"P\r\nRCPT TO:<a@example.com>\r\nMAIL FROM:<s@example.org>\r\n")
        said = b""
        while said.count(b"\n") < 3:
            said += connection.recv(1000)
        codes = [line[:9] for line in said.splitlines()]
        assert codes == [b"500 5.5.2", b"503 5.5.1", b"503 5.5.1"]


def test_tls_is_started_once(proxy: Proxy) -> None:
    with Client(proxy) as client:
        client.start_tls()
        connection, _ = client.shake_hands()
        connection.sendall(b"EHLO client.example.net\r\n")
        assert b"STARTTLS" not in connection.recv(1000)
        connection.sendall(b"STARTTLS\r\n")
        assert connection.recv(1000) == b"503 5.5.1 TLS is active already\r\n"


# What is sent in place of a handshake, and what ends it.
NO_HANDSHAKE = {
    "commands": (EVIL * 3, "wrong version number"),
    "zeros": (bytes(100), "wrong version number"),
    "warnings": (bytes.fromhex("15030300020164") * 200, "unexpected message"),
    "records of nothing": (bytes.fromhex("1603010000") * 200, "record too small"),
    "data of nothing": (bytes.fromhex("1703030000") * 200, "unexpected message"),
    "a record too long": (bytes.fromhex("160301ffff") + bytes(65535), "too long|length"),
    "no ClientHello": (bytes.fromhex("1603010004") + b"\x02\0\0\0", "unexpected message"),
    "a ClientHello of 16 MB": (bytes.fromhex("1603014000") + b"\1\xff\xff\xff" + bytes(16380), "."),
}


@pytest.mark.parametrize(("sent", "why"), NO_HANDSHAKE.values(), ids=NO_HANDSHAKE)
def test_garbage_in_the_handshake_ends_the_connection_at_once(
    proxy: Proxy, sent: bytes, why: str
) -> None:
    with Client(proxy) as client:
        client.start_tls()
        with suppress(ConnectionError):
            client.socket.sendall(sent)
        assert re.fullmatch(rb"(?:\x15\x03.\x00\x02\x02.)?", client.rest(), re.DOTALL), "an alert"
        client.logged(f"lost connection after STARTTLS from .*: .*(?:{why})")


def test_a_handshake_has_a_deadline(proxy: Proxy) -> None:
    """However it is drawn out: half a ClientHello and silence, or an octet now and then."""
    with Client(proxy) as silent, Client(proxy) as slow:
        for client in (silent, slow):
            client.start_tls()
        silent.socket.sendall(HALF_HELLO)
        slow.socket.settimeout(HANDSHAKE_TIME / 20)
        with suppress(ConnectionError):
            for octet in HALF_HELLO + bytes(400):
                slow.socket.sendall(bytes([octet]))
                with suppress(TimeoutError):
                    assert slow.socket.recv(1) == b""
                    break
        for client in (silent, slow):
            assert client.rest() == b"", "nothing in clear"
        pattern = f"timeout after STARTTLS from .*: not done within {HANDSHAKE_TIME} s"
        silent.logged(rf"(?s){pattern}.*{pattern}")


def test_a_client_that_speaks_tls_at_once(proxy: Proxy) -> None:
    """It gets replies that it does not understand, and no longer than the deadline of a command."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=TIME) as client:
        client.sendall(HALF_HELLO + b"\n" + bytes(300))
        said = b"".join(iter(lambda: client.recv(1000), b""))
    lines = [line[:9] for line in said.splitlines()]
    assert lines == [b"220 mx.ex", b"500 5.5.2", b"500 5.5.2", b"421 4.4.2"]


def test_old_versions_are_refused(proxy: Proxy) -> None:
    with Client(proxy) as client:
        client.start_tls()
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_VERSION)
        context.set_max_proto_version(SSL.TLS1_1_VERSION)
        context.set_cipher_list(b"ALL:@SECLEVEL=0")
        connection = SSL.Connection(context, client.socket)
        connection.set_connect_state()
        client.socket.settimeout(None)
        with pytest.raises(SSL.Error, match="protocol version"):
            connection.do_handshake()
        client.logged("lost connection after STARTTLS from .*: unsupported protocol")


# Clients, after it


def test_keys_are_not_negotiated_again(proxy: Proxy) -> None:
    with Client(proxy) as client:
        client.start_tls()
        connection, _ = client.shake_hands(SSL.TLS1_2_VERSION)
        connection.renegotiate()
        with pytest.raises(SSL.Error, match="no renegotiation"):
            connection.do_handshake()
        client.logged("lost connection after STARTTLS from .*: tls alert handshake failure")


@pytest.mark.parametrize("newest", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_plaintext_inside_tls(proxy: Proxy, newest: int) -> None:
    with Client(proxy) as client:
        client.start_tls()
        client.shake_hands(newest)
        client.socket.sendall(EVIL)
        assert b"250" not in client.rest()
        client.logged("lost connection after STARTTLS from .*: (wrong version|bad record)")


def empty_records(client: Client) -> Iterator[bytes]:
    forger = Forger(*client.shake_hands(SSL.TLS1_2_VERSION))
    while True:
        yield forger.seal(DATA, b"")


def warnings(client: Client) -> Iterator[bytes]:
    forger = Forger(*client.shake_hands(SSL.TLS1_2_VERSION))
    while True:
        yield forger.seal(ALERT, b"\x01\x5a")  # user_canceled


FLOODS: dict[str, tuple[Callable[[Client], Iterator[bytes]], str]] = {
    "empty records": (empty_records, "record too small"),
    "warnings": (warnings, "too many warn alerts"),
}


@pytest.mark.parametrize(("flood", "why"), FLOODS.values(), ids=FLOODS)
def test_a_flood_of_what_means_nothing_ends_the_connection(
    proxy: Proxy, flood: Callable[[Client], Iterator[bytes]], why: str
) -> None:
    with Client(proxy) as client:
        client.start_tls()
        records = flood(client)
        with suppress(ConnectionError):
            client.socket.sendall(b"".join(next(records) for _ in range(200)))
        client.rest()
        client.logged(f"lost connection after STARTTLS from .*: .*{why}")


class Forged:
    """A transport of ours that has shaken hands, and a client that sends it what it likes."""

    def __init__(self, certificate: Certificate) -> None:
        self.turning = Turning()
        self.here, self.there = pair("tcp")
        self.there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.session = Listening()
        transport(self.here, self.session, self.turning.poll)
        context = tls.server_context(certificate.chain, certificate.key)
        self.session.do("startTLS", tls.ServerTls(context))
        client = SSL.Context(SSL.TLS_CLIENT_METHOD)
        secrets = Secrets(client)
        self.connection = SSL.Connection(client, self.there)
        self.connection.set_connect_state()
        while not self.session.secured:
            with suppress(SSL.WantReadError):
                self.connection.do_handshake()
            self.turning.turn()
        self._forger = Forger(self.connection, secrets)

    def send(self, kind: int, content: bytes, new_keys: bool = False) -> None:
        self.there.sendall(self._forger.seal(kind, content))
        if new_keys:
            self._forger.change_keys()


@pytest.fixture
def forged(proxy_certificate: Certificate) -> Iterator[Forged]:
    it = Forged(proxy_certificate)
    yield it
    it.session.do("abortConnection")
    it.turning.turn()
    it.there.close()


def test_a_flood_of_new_keys_leaves_the_others_their_turn(forged: Forged) -> None:
    """OpenSSL would go on reading for as long as they come, and nobody else would be served."""
    for _ in range(1000):
        forged.send(HANDSHAKE, KEY_UPDATE, new_keys=True)
    forged.send(DATA, b"QUIT\r\n")
    there = len(forged.here.recv(1 << 20, socket.MSG_PEEK))
    forged.turning.poll.doRead()
    assert len(forged.here.recv(1 << 20, socket.MSG_PEEK)) > there // 2
    forged.turning.until(lambda: forged.session.received)
    assert forged.session.received == b"QUIT\r\n"


def test_half_a_message_about_keys_holds_up_what_is_said_and_loses_nothing(forged: Forged) -> None:
    turning, session = forged.turning, forged.session
    forged.send(HANDSHAKE, KEY_UPDATE[:4])
    turning.turn()
    session.do("write", b"250 ok\r\n")
    turning.turn()
    assert turning.idle, "it does not turn in vain"
    with pytest.raises(SSL.WantReadError):
        forged.connection.recv(100)
    forged.send(HANDSHAKE, KEY_UPDATE[4:], new_keys=True)
    forged.send(DATA, b"QUIT\r\n")
    turning.until(lambda: session.received)
    assert forged.connection.recv(100) == b"250 ok\r\n"
    assert session.received == b"QUIT\r\n"
    assert not session.ends


# Upstreams


class Hostile:
    """An upstream that offers STARTTLS, and on its first connection does `evil` behind its 220.

    Others are served in clear, however often TLS is asked for.  `said` are the commands in clear.
    """

    def __init__(self, evil: Callable[[socket.socket], object]) -> None:
        self.said: list[tuple[int, bytes]] = []  # the connection, the line
        self._evil = evil
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.server = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        number = 0
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                connection.settimeout(TIME)
                number += 1
                threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with suppress(OSError, SSL.Error), connection, connection.makefile("rb") as lines:
            connection.sendall(b"220 one ESMTP\r\n")
            for line in lines:
                self.said.append((number, line))
                if line.startswith(b"STARTTLS"):
                    if number == 1:
                        self._evil(connection)
                        return
                    connection.sendall(b"454 4.7.0 not now\r\n")
                elif line.startswith(b"EHLO"):
                    connection.sendall(b"250-one\r\n250 STARTTLS\r\n")
                else:
                    connection.sendall(b"250 heard in clear\r\n")


def injects(connection: socket.socket) -> None:
    connection.sendall(b"220 go\r\n250-injected\r\n250 injected\r\n250 injected\r\n")
    connection.recv(1)


def injects_half_a_line(connection: socket.socket) -> None:
    connection.sendall(b"220 go\r\n250 inj")
    connection.recv(1)


def injects_later(connection: socket.socket) -> None:
    connection.sendall(b"220 go\r\n")
    connection.recv(1)  # the ClientHello has begun
    connection.sendall(b"250 injected\r\n" * 3)
    connection.recv(10_000)


def says_nothing(connection: socket.socket) -> None:
    connection.sendall(b"220 go\r\n")
    while connection.recv(1000):
        pass


def sends_records_of_nothing(connection: socket.socket) -> None:
    connection.sendall(b"220 go\r\n")
    connection.sendall(bytes.fromhex("1603030000") * 200)
    connection.recv(10_000)


UNVERIFIED = b"451 4.7.5 The server of this recipient cannot be verified\r\n"
UNREACHABLE = b"451 4.4.1 The server of this recipient is not reachable\r\n"
IN_CLEAR = b"250 heard in clear\r\n"  # on another connection
INJECTED = "plaintext after the reply to STARTTLS"
FAILED = "TLS handshake: "

# What the client is told where the certificate must verify, where it need not, and what is logged.
EVILS = {
    "segment": (injects, UNREACHABLE, UNREACHABLE, INJECTED),
    "half": (injects_half_a_line, UNREACHABLE, UNREACHABLE, INJECTED),
    "later": (injects_later, UNVERIFIED, IN_CLEAR, FAILED),
    "silence": (says_nothing, UNVERIFIED, IN_CLEAR, f"{FAILED}not done within {HANDSHAKE_TIME} s"),
    "nothing": (sends_records_of_nothing, UNVERIFIED, IN_CLEAR, FAILED),
}


@pytest.fixture(scope="module")
def hostile() -> Iterator[tuple[Proxy, dict[str, Hostile]]]:
    """A proxy, and each upstream by its domain: once with and once without verification."""
    with ExitStack() as stack:
        found = {
            f"{name}.{kind}.test": stack.enter_context(Hostile(evil))
            for name, (evil, *_) in EVILS.items()
            for kind in ("verified", "any")
        }
        rows = [row(name, it.server, ".verified." in name) for name, it in found.items()]
        times = {"upstream_connect": f"{HANDSHAKE_TIME}s"}
        proxy = Proxy(stack.enter_context(short_folder()), rows, timeouts=times)
        yield stack.enter_context(proxy), found
        assert "Traceback" not in proxy.output


@pytest.mark.parametrize("name", EVILS)
@pytest.mark.parametrize("kind", ["verified", "any"])
def test_an_upstream_behind_its_220(
    hostile: tuple[Proxy, dict[str, Hostile]], name: str, kind: str
) -> None:
    """Nothing of it is believed: a fresh connection in clear, or none where it must be verified."""
    proxy, upstreams = hostile
    domain = f"{name}.{kind}.test"
    _, verified, unverified, why = EVILS[name]
    with Client(proxy) as client:
        assert client.ask(b"MAIL FROM:<s@example.org>").startswith(b"250 ")
        answer = client.ask(b"RCPT TO:<a@%s>" % domain.encode())
        assert answer == (verified if kind == "verified" else unverified)
        if answer[:1] != b"2":
            client.logged(why)
    mails = [number for number, line in upstreams[domain].said if line.startswith(b"MAIL")]
    assert mails == ([2] if answer == IN_CLEAR else [])


def test_an_upstream_that_wants_new_keys_gets_none(folder: Path, authority: Authority) -> None:
    """They could come with another certificate than the one that was verified."""
    certificate = authority.certificate("127.0.0.1")
    ends: list[str] = []

    def renegotiates(plain: socket.socket) -> None:
        plain.sendall(b"220 go\r\n")
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)
        context.use_certificate_chain_file(str(certificate.chain))
        context.use_privatekey_file(str(certificate.key))
        connection = SSL.Connection(context, plain)
        connection.set_accept_state()
        plain.settimeout(None)
        connection.do_handshake()
        assert connection.recv(1000).startswith(b"EHLO")
        connection.sendall(b"250 one\r\n")
        assert connection.recv(1000).startswith(b"MAIL")
        connection.renegotiate()
        connection.do_handshake()  # asks for it
        try:
            connection.sendall(b"250 ok\r\n")
            while connection.total_renegotiations() < 1 or connection.renegotiate_pending():
                connection.recv(1000)
            ends.append("new keys")
        except SSL.Error as error:
            ends.append(str(error))
            raise

    with Hostile(renegotiates) as upstream:
        rows = [row("example.com", upstream.server, verify=True)]
        with Proxy(folder, rows, tls_ca=authority.file) as proxy, Client(proxy) as client:
            client.ask(b"MAIL FROM:<s@example.org>")
            assert client.ask(b"RCPT TO:<a@example.com>").startswith(b"451 ")
            assert "Traceback" not in proxy.output
    assert len(ends) == 1 and "no renegotiation" in ends[0]


def test_no_context_of_ours_takes_new_keys(proxy_certificate: Certificate) -> None:
    for context in (
        tls.server_context(proxy_certificate.chain, proxy_certificate.key),
        tls.client_context(None),
    ):
        assert context.set_options(0) & ssl.OP_NO_RENEGOTIATION
