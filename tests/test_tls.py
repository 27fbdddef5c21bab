"""TLS: real handshakes, in memory and under Twisted."""

from __future__ import annotations

import gc
import weakref
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from OpenSSL import SSL
from OpenSSL.crypto import X509
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from smtpproxy import tls
from smtpproxy.events import Tls
from smtpproxy.faults import Faults
from tests.support.certificates import Authority, Certificate, self_signed, sign_itself

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority):
    """The context of a server that is mx1.test."""
    return context_of(authority.certificate("mx1.test"))


@pytest.fixture(scope="module")
def client(authority):
    """The context of a client that trusts the authority."""
    return tls.client_context(authority.file)


def context_of(certificate: Certificate) -> SSL.Context:
    return tls.server_context(certificate.chain, certificate.key)


def move(sender: SSL.Connection, receiver: SSL.Connection) -> bool:
    """Carry over what one side has written; False when there was nothing."""
    try:
        receiver.bio_write(sender.bio_read(65536))
    except SSL.WantReadError:
        return False
    return True


def shake(*sides: SSL.Connection) -> None:
    """The whole handshake, in memory; raises SSL.Error as the side that fails does."""
    for _ in range(10):
        for side, other in (sides, sides[::-1]):
            try:
                side.do_handshake()
            except SSL.WantReadError:
                pass
            finally:
                while move(side, other):
                    pass
    for side in sides:
        side.do_handshake()


def handshake(server_context, client_context, host="mx1.test"):
    """A client and a server that have shaken hands."""
    connection = tls.client_connection(client_context, host)
    peer = tls.server_connection(server_context)
    shake(connection, peer)
    return connection, peer


def verdict(certificate: Certificate, ca: Path | None, host: str) -> str:
    connection, _ = handshake(context_of(certificate), tls.client_context(ca), host)
    return tls.verify(connection, host)


# who the server is


@pytest.mark.parametrize("host", ["mx1.test", "MX1.test", "mx1.test."])
def test_right_name(server, client, host):
    connection, _ = handshake(server, client, host)
    assert tls.verify(connection, host) == ""


def test_data_flows(server, client):
    connection, peer = handshake(server, client)
    connection.send(b"EHLO mx.example.net\r\n")
    move(connection, peer)
    assert peer.recv(100) == b"EHLO mx.example.net\r\n"


def test_wrong_name(authority, client):
    certificate = authority.certificate("a.test", "b.test")
    connection, _ = handshake(context_of(certificate), client)
    assert (
        tls.verify(connection, "mx1.test")
        == "name mx1.test does not match: certificate is for a.test, b.test"
    )
    assert tls.verify(connection, "b.test") == ""


def test_of_many_names_only_some_are_told(authority, client):
    certificate = authority.certificate(*(f"mx{n}.test" for n in range(2, 20)))
    connection, _ = handshake(context_of(certificate), client)
    reason = tls.verify(connection, "mx1.test")
    assert reason.endswith("is for mx2.test, mx3.test, mx4.test, mx5.test, mx6.test and 13 more")


def test_wildcard(authority, client):
    connection, _ = handshake(context_of(authority.certificate("*.example.com")), client)
    assert tls.verify(connection, "mx1.example.com") == ""
    assert "does not match" in tls.verify(connection, "mx1.sub.example.com")
    assert "does not match" in tls.verify(connection, "example.com")


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_address(authority, client, address):
    connection, peer = handshake(context_of(authority.certificate(address)), client, address)
    assert tls.verify(connection, address) == ""
    assert tls.verify(connection, "192.0.2.2").startswith("name 192.0.2.2 does not match")
    assert tls.describe(peer).server_name == "", "RFC 6066: no address in SNI"


def test_address_in_another_spelling(authority, client):
    connection, _ = handshake(context_of(authority.certificate("2001:db8::1")), client)
    assert tls.verify(connection, "2001:DB8:0::1") == ""


def test_name_does_not_stand_for_its_address(server, client):
    connection, _ = handshake(server, client)
    assert "does not match" in tls.verify(connection, "192.0.2.1")


def test_expired(authority):
    certificate = authority.expired("expired.test")
    assert verdict(certificate, authority.file, "expired.test") == "certificate has expired"


def test_not_yet_valid(authority):
    soon = datetime.now(UTC) + timedelta(days=1)
    certificate = authority.certificate(
        "soon.test", not_before=soon, not_after=soon + timedelta(days=1)
    )
    assert verdict(certificate, authority.file, "soon.test") == "certificate is not yet valid"


def test_self_signed(tmp_path, authority):
    certificate = self_signed(tmp_path, "mx1.test")
    assert verdict(certificate, authority.file, "mx1.test") == "self-signed certificate"
    assert verdict(certificate, certificate.chain, "mx1.test") == "", "named in tls_ca"


def test_untrusted(tmp_path, authority):
    certificate = Authority(tmp_path).certificate("mx1.test")
    expected = "certificate's issuer is not trusted"
    assert verdict(certificate, authority.file, "mx1.test") == expected
    assert verdict(certificate, None, "mx1.test") == expected, "the system's authorities"


def test_chain_with_an_intermediate(authority):
    certificate = authority.certificate("deep.test", intermediate=True)
    assert certificate.chain.read_text().count("BEGIN CERT") == 2
    assert verdict(certificate, authority.file, "deep.test") == ""


def test_chain_that_lacks_its_intermediate(authority):
    certificate = authority.certificate("short.test", intermediate=True)
    first, _ = x509.load_pem_x509_certificates(certificate.chain.read_bytes())
    certificate.chain.write_bytes(first.public_bytes(Encoding.PEM))
    reason = verdict(certificate, authority.file, "short.test")
    assert reason == "certificate's issuer is not trusted"


def test_name_with_underscore(tmp_path):
    certificate = self_signed(tmp_path, "mx_1.test")
    client = tls.client_context(certificate.chain)
    connection, peer = handshake(context_of(certificate), client, "mx_1.test")
    assert tls.verify(connection, "mx_1.test") == ""
    assert tls.describe(peer).server_name == "mx_1.test"


def test_internationalized_name_in_its_ascii_form(authority, client):
    certificate = authority.certificate("xn--bcher-kva.test")
    connection, peer = handshake(context_of(certificate), client, "xn--bcher-kva.test")
    assert tls.verify(connection, "xn--bcher-kva.test") == ""
    assert tls.describe(peer).server_name == "xn--bcher-kva.test"


@pytest.mark.parametrize(
    "host", ["", "bücher.test", "a" * 64 + ".test", "a.b" * 90, "mx1..test", "mx1.test\0", "mx 1"]
)
def test_what_cannot_be_a_name_is_not_sent_and_not_verified(server, client, host):
    connection, peer = handshake(server, client, host)
    assert tls.describe(peer).server_name == ""
    assert tls.verify(connection, host) != ""


@pytest.mark.parametrize(
    "names",
    [
        [],
        [x509.DNSName("mx1.test\r\n250 ok")],
        [x509.DNSName("*.*.test"), x509.DNSName("mx1.test")],
        [x509.RFC822Name("postmaster@mx1.test")],
        [x509.DNSName("n" * 20000)],
    ],
)
def test_odd_certificates_are_not_verified_and_told_in_one_short_line(tmp_path, names):
    certificate = sign_itself(tmp_path, names)
    reason = verdict(certificate, certificate.chain, "mx1.test")
    assert reason
    assert reason.isprintable() and reason.isascii() and len(reason) < 400


# whose verdict it is


def test_before_the_handshake_nothing_is_verified(client):
    connection = tls.client_connection(client, "mx1.test")
    assert tls.verify(connection, "mx1.test") == "certificate was not checked"


def test_connections_side_by_side_keep_their_own_verdicts(authority, server, client):
    expired = context_of(authority.expired("mx1.test"))
    pairs = [
        (tls.client_connection(client, "mx1.test"), tls.server_connection(context))
        for context in (server, expired, server, expired)
    ]
    for connection, peer in pairs:  # all half done at once
        connection.set_app_data(object())  # as Twisted does
        with pytest.raises(SSL.WantReadError):
            connection.do_handshake()
        move(connection, peer)
        with pytest.raises(SSL.WantReadError):
            peer.do_handshake()
    for connection, peer in reversed(pairs):
        shake(connection, peer)
    verdicts = [tls.verify(connection, "mx1.test") for connection, _ in pairs]
    assert verdicts == ["", "certificate has expired"] * 2


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("flaw", ["", "certificate has expired"])
def test_a_resumed_session_is_trusted_as_it_was_when_it_was_judged(authority, flaw, version):
    made = authority.expired("mx1.test") if flaw else authority.certificate("mx1.test")
    server, context = context_of(made), tls.client_context(authority.file)
    context.set_max_proto_version(version)
    first, peer = handshake(server, context)
    peer.send(b"220 mx1.test\r\n")
    move(peer, first)
    first.recv(100)  # in TLS 1.3 the ticket comes after the handshake
    assert (tls.verify(first, "mx1.test"), tls.resumed(first)) == (flaw, False)

    second = tls.client_connection(context, "mx1.test", session=first.get_session())
    shake(second, tls.server_connection(server))
    assert (tls.verify(second, "mx1.test"), tls.resumed(second)) == (flaw, True)
    assert tls.verify(second, "mx2.test") != "", "whatever it was that was judged"


def test_a_session_that_the_server_does_not_know_says_nothing_of_it(authority, server):
    """The whole handshake that it takes then has a verdict of its own."""
    context = tls.client_context(authority.file)
    first, peer = handshake(server, context)
    peer.send(b"220 mx1.test\r\n")
    move(peer, first)
    first.recv(100)
    second = tls.client_connection(context, "mx1.test", session=first.get_session())
    shake(second, tls.server_connection(context_of(authority.expired("mx1.test"))))
    assert not tls.resumed(second)
    assert tls.verify(second, "mx1.test") == "certificate has expired"


def test_connections_are_freed_without_the_collector(server, client):
    gc.disable()
    try:
        connection, peer = handshake(server, client)
        gone = [weakref.ref(connection), weakref.ref(peer)]
        del connection, peer
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


# versions and ciphers


def test_describe(server, client):
    connection, peer = handshake(server, client, "MX1.test.")
    seen = tls.describe(peer)
    assert (seen.version, seen.verified, seen.server_name) == ("TLSv1.3", False, "mx1.test")
    assert seen.cipher.startswith("TLS_")
    assert tls.describe(connection, verified=True) == Tls("TLSv1.3", seen.cipher, True, "mx1.test")


def test_tls_1_2_has_forward_secrecy(server, authority):
    context = tls.client_context(authority.file)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    _, peer = handshake(server, context)
    seen = tls.describe(peer)
    assert seen.version == "TLSv1.2"
    assert seen.cipher.startswith("ECDHE-") and "GCM" in seen.cipher


def old_context(method: int, version: int) -> SSL.Context:
    """A side that speaks this old version, and nothing newer."""
    context = SSL.Context(method)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    return context


OLD = pytest.mark.parametrize("version", [SSL.TLS1_VERSION, SSL.TLS1_1_VERSION])


def lenient(context: SSL.Context) -> SSL.Context:
    """Takes any cipher: then nothing but our own minimum refuses an old version."""
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    return context


def old(method: int, version: int) -> SSL.Context:
    """A side that speaks this old version, and nothing newer."""
    context = lenient(SSL.Context(method))
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    return context


@OLD
def test_old_clients_are_refused(authority, version):
    server = lenient(context_of(authority.certificate("mx1.test")))
    connection = tls.client_connection(old(SSL.TLS_CLIENT_METHOD, version), "mx1.test")
    with pytest.raises(SSL.Error, match=r"version|unsupported protocol"):
        shake(connection, tls.server_connection(server))


@OLD
def test_old_servers_are_refused(authority, version):
    certificate = authority.certificate("mx1.test")
    context = old(SSL.TLS_SERVER_METHOD, version)
    context.use_certificate_chain_file(str(certificate.chain))
    context.use_privatekey_file(str(certificate.key))
    client = lenient(tls.client_context(authority.file))
    with pytest.raises(SSL.Error, match=r"version|unsupported protocol"):
        shake(tls.client_connection(client, "mx1.test"), tls.server_connection(context))


@pytest.mark.parametrize("asking", ["client", "server"])
def test_no_renegotiation(server, authority, asking):
    context = tls.client_context(authority.file)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    connection, peer = handshake(server, context)
    side, other = (connection, peer) if asking == "client" else (peer, connection)
    try:
        side.renegotiate()
        side.do_handshake()
    except SSL.Error:
        pass
    move(side, other)
    with pytest.raises(SSL.Error):
        other.recv(1)
    assert other.total_renegotiations() == 0


# files


def faults(call, *args) -> list[str]:
    with pytest.raises(Faults) as caught:
        call(*args)
    return [str(fault) for fault in caught.value.faults]


@pytest.fixture
def pair(tmp_path, authority):
    """A certificate in files of its own, to be spoilt."""
    made = authority.certificate("mx1.test", intermediate=True)
    chain, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    chain.write_bytes(made.chain.read_bytes())
    key.write_bytes(made.key.read_bytes())
    return Certificate(chain, key, made.authority)


def test_certificate_and_key_in_one_file(pair, client):
    pair.chain.write_bytes(pair.key.read_bytes() + pair.chain.read_bytes())
    connection, _ = handshake(tls.server_context(pair.chain, pair.chain), client)
    assert tls.verify(connection, "mx1.test") == ""


def test_key_after_ec_parameters(tmp_path, client):
    made = self_signed(tmp_path, "mx1.test")
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    made.key.write_bytes(parameters + made.key.read_bytes())
    handshake(context_of(made), client)


def test_all_faults_of_both_files_at_once(tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    key.write_text("hello")
    assert faults(tls.server_context, cert, key) == [
        f"{cert}: there is no such file",
        f"{key}: holds no private key in PEM form",
    ]


def test_file_that_cannot_be_read(tmp_path):
    assert faults(tls.certificate_warnings, tmp_path) == [
        f"{tmp_path}: cannot be read: Is a directory"
    ]


def test_certificate_not_in_pem(pair):
    pair.chain.write_bytes(b"\x30\x82")
    assert faults(context_of, pair) == [f"{pair.chain}: holds no certificate in PEM form"]


def test_damaged_certificate(pair):
    pair.chain.write_bytes(pair.chain.read_bytes()[:300])
    assert faults(context_of, pair) == [f"{pair.chain}: a certificate in it is damaged"]


def test_damaged_key(pair):
    text = pair.key.read_bytes().replace(b"\n", b"\nAAAA", 1)
    pair.key.write_bytes(text)
    assert faults(context_of, pair) == [f"{pair.key}: the private key is damaged"]


def key_pem(encryption, form=PrivateFormat.PKCS8):
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, form, encryption)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_encrypted_key(pair, form):
    pair.key.write_bytes(key_pem(BestAvailableEncryption(b"secret"), form))
    assert faults(context_of, pair) == [
        f"{pair.key}: the private key is encrypted; it must be without a password"
    ]


def test_key_of_another_certificate(pair):
    pair.key.write_bytes(key_pem(NoEncryption()))
    assert faults(context_of, pair) == [
        f"{pair.key}: does not belong to the certificate in {pair.chain}"
    ]


def test_chain_in_the_wrong_order(pair):
    chain = x509.load_pem_x509_certificates(pair.chain.read_bytes())
    pair.chain.write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in reversed(chain)))
    assert faults(context_of, pair) == [
        f"{pair.chain}: the key in {pair.key} belongs to certificate 2, which must come first"
    ]


def test_certificate_warnings(authority, pair):
    assert tls.certificate_warnings(pair.chain) == ()
    expired = authority.expired("old.test")
    [warning] = tls.certificate_warnings(expired.chain)
    assert str(warning).startswith(f"{expired.chain}: the certificate has expired on 20")
    context_of(expired)  # and is served nevertheless
    early, late = datetime(1990, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)
    [*unripe] = tls.certificate_warnings(pair.chain, early)
    assert unripe and all("is not valid before" in warning.text for warning in unripe)
    texts = [warning.text for warning in tls.certificate_warnings(pair.chain, late)]
    assert texts[1].startswith("certificate 2 of the chain has expired on ")


def test_faults_of_authorities(tmp_path):
    missing, empty = tmp_path / "missing.pem", tmp_path / "empty.pem"
    empty.write_text("")
    assert faults(tls.client_context, missing) == [f"{missing}: there is no such file"]
    assert faults(tls.client_context, empty) == [f"{empty}: holds no certificate in PEM form"]
    assert faults(tls.client_context, tmp_path) == [
        f"{tmp_path}: holds no certificate under its hash; run: openssl rehash {tmp_path}"
    ]


def test_directory_of_authorities(tmp_path, authority, server):
    certificate = x509.load_pem_x509_certificate(authority.file.read_bytes())
    name = X509.from_cryptography(certificate).subject_name_hash()
    (tmp_path / f"{name:08x}.0").write_bytes(authority.file.read_bytes())
    connection, _ = handshake(server, tls.client_context(tmp_path))
    assert tls.verify(connection, "mx1.test") == ""


# under Twisted


@implementer(IHandshakeListener)
class Shaken(Protocol):
    """One side of a connection, which tells when its handshake is done."""

    transport: Any

    def __init__(self, creator=None) -> None:
        self.creator = creator
        self.done: Deferred[SSL.Connection] = Deferred()
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        if self.creator is not None:
            self.transport.startTLS(self.creator)

    def handshakeCompleted(self) -> None:
        self.done.callback(self.transport.getHandle())

    def connectionLost(self, reason=connectionDone) -> None:
        self.gone.callback(None)


class TlsUnderTwistedTest(TestCase):
    """`startTLS` with our creators, over loopback."""

    @inlineCallbacks
    def test_both_creators(self):
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        authority = Authority(Path(folder.name))
        context = context_of(authority.certificate("mx1.test"))
        server = Shaken(tls.ServerTls(context))
        listening = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = yield listening.listen(Factory.forProtocol(lambda: server))
        self.addCleanup(port.stopListening)
        client = Shaken(tls.ClientTls(tls.client_context(authority.file), "mx1.test"))
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        yield connectProtocol(endpoint, client)

        seen, connection = yield gatherResults([server.done, client.done])
        assert tls.describe(seen).server_name == "mx1.test"
        assert tls.verify(connection, "mx1.test") == ""
        assert "does not match" in tls.verify(connection, "mx2.test")

        client.transport.loseConnection()
        yield gatherResults([server.gone, client.gone])
