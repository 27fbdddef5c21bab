"""TLS: contexts, connections, and whether the peer is who it should be.

On pyOpenSSL itself, so that one connection serves on a socket, in memory and under a
Twisted transport (`ServerTls`, `ClientTls`) alike.

A handshake with an upstream never fails because of its certificate: OpenSSL judges the chain
while it runs, and keeps the verdict **with the TLS session**; `verify` adds the name and
says in words what is wrong.  So an upstream that need not be verified still gets TLS,
and its log line still says whether it could have been.
"""

from __future__ import annotations

import re
import socket as sockets
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from OpenSSL._util import lib
from service_identity import VerificationError
from service_identity.cryptography import (
    verify_certificate_hostname,
    verify_certificate_ip_address,
)
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from zope.interface import implementer

from smtpproxy.events import Tls
from smtpproxy.faults import Fault, Faults, unreadable
from smtpproxy.values import value

# For TLS 1.2, best first.  The plain RSA key exchange stays: a mail server that shares no
# cipher with us sends in clear, which is worse.
_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:DHE+AESGCM:AES:!aNULL:!eNULL:!PSK:!SRP:!DSS"

SOON = timedelta(days=14)  # before it expires, a certificate is warned of

_HOST_NAME = re.compile(r"(?!.{254})[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII | re.I)
_NAMES_SHOWN = 5
SERVERS = 256  # whose names are remembered to be sent, or to be those of a certificate

_Codes = SSL.X509VerificationCodes
_REASONS = {
    _Codes.ERR_UNABLE_TO_GET_ISSUER_CERT: "certificate's issuer is not known",
    _Codes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY: "certificate's issuer is not trusted",
    _Codes.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE: "certificate's issuer is not trusted",
    _Codes.ERR_CERT_SIGNATURE_FAILURE: "certificate's signature is wrong",
    _Codes.ERR_CERT_NOT_YET_VALID: "certificate is not yet valid",
    _Codes.ERR_CERT_HAS_EXPIRED: "certificate has expired",
    _Codes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT: "self-signed certificate",
    _Codes.ERR_SELF_SIGNED_CERT_IN_CHAIN: "self-signed certificate in the chain is not trusted",
    _Codes.ERR_INVALID_CA: "certificate's issuer is not an authority",
    _Codes.ERR_INVALID_PURPOSE: "certificate is not for a server",
    66: "certificate's key is too weak",  # X509_V_ERR_EE_KEY_TOO_SMALL, not in pyOpenSSL
    67: "certificate's issuer has too weak a key",  # X509_V_ERR_CA_KEY_TOO_SMALL
    68: "certificate's signature is too weak",  # X509_V_ERR_CA_MD_TOO_WEAK
}


def server_context(cert: Path, key: Path) -> SSL.Context:
    """For a listener: TLS 1.2 and later, with the chain in `cert`, the server's own first.

    Both files are PEM, and may be the same one.  Raises `Faults` with everything that is
    wrong with them.  A certificate that has expired is served: see `certificate_warnings`.
    """
    faults: list[Fault] = []
    chain: list[x509.Certificate] = []
    secret: PrivateKeyTypes | None = None
    try:
        chain = _certificates(cert)
    except Faults as found:
        faults += found.faults
    try:
        secret = _private_key(key)
    except Faults as found:
        faults += found.faults
    if faults or secret is None:
        raise Faults(faults)
    _match(cert, chain, key, secret)

    context = _context(SSL.TLS_SERVER_METHOD)
    # Resumption is by tickets alone; the cache would hold 20,000 sessions of TLS 1.2.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"smtpproxy")
    try:
        context.use_certificate(chain[0])
        for issuer in chain[1:]:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(secret)  # type: ignore[arg-type]  # TypeError for kinds not in TLS
        context.check_privatekey()
    except (SSL.Error, TypeError) as error:
        raise Faults([Fault(str(cert), f"OpenSSL does not take it: {_words(error)}")]) from None
    return context


def valid_until(cert: Path) -> datetime:
    """When the first certificate in `cert` expires; raises `Faults`."""
    return _certificates(cert)[0].not_valid_after_utc


def certificate_warnings(cert: Path, now: datetime | None = None) -> tuple[Fault, ...]:
    """What is wrong with the certificates in `cert`, or soon will be, though they can be served.

    Raises `Faults` where the file cannot be read.  `now` (UTC) is the present by default.
    """
    now = now or datetime.now(UTC)
    warnings = []
    for number, certificate in enumerate(_certificates(cert), 1):
        which = "the certificate" if number == 1 else f"certificate {number} of the chain"
        if certificate.not_valid_after_utc < now:
            text = f"{which} has expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        elif certificate.not_valid_before_utc > now:
            text = f"{which} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d}"
        elif (left := certificate.not_valid_after_utc - now) < SOON:
            day = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
            text = f"{which} expires on {day}, in {left.days} days: renew it"
        else:
            continue
        warnings.append(Fault(str(cert), text))
    return tuple(warnings)


def client_context(ca: Path | None) -> SSL.Context:
    """For connections to upstreams: TLS 1.2 and later, whether they must be verified or not.

    `ca` holds the trusted authorities: a PEM file, or a directory of them as `openssl
    rehash` leaves it; None means the system's.  Raises `Faults`.
    """
    context = _context(SSL.TLS_CLIENT_METHOD)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_verify(SSL.VERIFY_NONE)  # a chain is judged all the same, but decides nothing here
    if ca is None:
        context.set_default_verify_paths()
        return context
    try:
        if ca.is_dir():
            if not any(re.fullmatch(r"[0-9a-f]{8}\.\d+", entry.name) for entry in ca.iterdir()):
                hint = f"holds no certificate under its hash; run: openssl rehash {ca}"
                raise Faults([Fault(str(ca), hint)])
            context.load_verify_locations(None, str(ca))
        else:
            _certificates(ca)  # for its words
            context.load_verify_locations(str(ca))
    except OSError as error:
        raise Faults([Fault(str(ca), unreadable(error))]) from None
    except SSL.Error as error:
        raise Faults([Fault(str(ca), f"OpenSSL does not take it: {_words(error)}")]) from None
    return context


def server_connection(context: SSL.Context, socket: sockets.socket | None = None) -> SSL.Connection:
    """The server's side of a handshake to come, on `socket`, or in memory without one."""
    connection = SSL.Connection(context, socket)
    connection.set_accept_state()
    return connection


def client_connection(
    context: SSL.Context,
    host: str,
    socket: sockets.socket | None = None,
    session: SSL.Session | None = None,
) -> SSL.Connection:
    """The client's side, on `socket` or in memory; `context` is from `client_context`.

    `host` is sent to the server if it is a name in ASCII; not so an address (RFC 6066
    section 3), nor what cannot be a name.  `session`, of the same context, is offered to be
    resumed: what `verify` says of it then is what it said when the chain was judged.
    """
    connection = SSL.Connection(context, socket)
    if name := _server_name(host):
        connection.set_tlsext_host_name(name)
    if session is not None:
        connection.set_session(session)
    connection.set_connect_state()
    return connection


def verify(connection: SSL.Connection, host: str) -> str:
    """Why the server of a `client_connection` is not trusted to be `host`; "" when it is.

    To be asked once the handshake is done.  `host` is a name in ASCII, or an address.
    """
    # The first error, by OpenSSL's number; pyOpenSSL itself has no way to ask for it.
    if number := lib.SSL_get_verify_result(connection._ssl):
        return _REASONS.get(number, f"certificate's chain is not valid (OpenSSL error {number})")
    try:  # whatever cannot be understood in a stranger's certificate is not verified
        certificate = connection.get_peer_certificate(as_cryptography=True)
        if certificate is None:  # silence must not pass for trust
            return "certificate was not checked"
        return _mismatch(certificate, host.removesuffix("."))
    except Exception as error:
        return f"certificate cannot be understood: {_printable(str(error))}"


def resumed(connection: SSL.Connection) -> bool:
    """The handshake was not a whole one: it went on with a session of before."""
    return bool(lib.SSL_session_reused(connection._ssl))


def describe(connection: SSL.Connection, verified: bool = False) -> Tls:
    """The facts of a connection whose handshake is done.

    `server_name` is what the client asked for, as it came; OpenSSL bounds its length.
    """
    name = connection.get_servername() or b""
    return Tls(
        version=connection.get_protocol_version_name(),
        cipher=connection.get_cipher_name() or "",
        verified=verified,
        server_name=name.decode("ascii", "backslashreplace"),
    )


@implementer(IOpenSSLServerConnectionCreator)
@value
class ServerTls:
    """For `startTLS` of a transport, Twisted's or ours, that a client connected to."""

    context: SSL.Context

    def connection(self, socket: sockets.socket) -> SSL.Connection:
        return server_connection(self.context, socket)

    def serverConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return server_connection(self.context)


@implementer(IOpenSSLClientConnectionCreator)
@value
class ClientTls:
    """For `startTLS` of a transport, Twisted's or ours, connected to `host`.

    Once the handshake is done, `verify(transport.getHandle(), host)` tells who is there.
    """

    context: SSL.Context
    host: str
    session: SSL.Session | None = None  # to be resumed

    def connection(self, socket: sockets.socket) -> SSL.Connection:
        return client_connection(self.context, self.host, socket, self.session)

    def clientConnectionForTLS(self, tlsProtocol: object) -> SSL.Connection:
        return client_connection(self.context, self.host, session=self.session)


def _context(method: int) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_CIPHERS)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # 34 KB less for each idle connection
    context.set_options(
        SSL.OP_NO_COMPRESSION  # CRIME
        | SSL.OP_NO_RENEGOTIATION  # it could bring another certificate after `verify`
        | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    return context


@lru_cache(SERVERS)
def _server_name(host: str) -> bytes:
    """What is said to be looked for at `host`, or b""."""
    name = host.removesuffix(".")  # RFC 6066 section 3: without a trailing dot
    if _is_address(name) or not _HOST_NAME.fullmatch(name):
        return b""
    return name.lower().encode("ascii")


@lru_cache(SERVERS)
def _mismatch(certificate: x509.Certificate, host: str) -> str:
    """Why `certificate` is not for `host`, or ""."""
    try:
        if _is_address(host):
            verify_certificate_ip_address(certificate, host.partition("%")[0])
        else:
            verify_certificate_hostname(certificate, host)
    except VerificationError:
        names = _names(certificate)
        shown = ", ".join(names[:_NAMES_SHOWN])
        if len(names) > _NAMES_SHOWN:
            shown += f" and {len(names) - _NAMES_SHOWN} more"
        return f"name {_printable(host)} does not match: certificate is for {shown}"
    return ""


def _names(certificate: x509.Certificate) -> list[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    names = extension.value.get_values_for_type(x509.DNSName)
    addresses = extension.value.get_values_for_type(x509.IPAddress)
    return [_printable(str(name)) for name in (*names, *addresses)]


def _printable(text: str, size: int = 253) -> str:
    """A stranger's text, of at most `size` characters, none of which can end a line."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:size])


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _match(cert: Path, chain: list[x509.Certificate], key: Path, secret: PrivateKeyTypes) -> None:
    """Raise `Faults` unless `secret` belongs to the first certificate."""
    public = secret.public_key()
    try:
        owners = [n for n, c in enumerate(chain, 1) if c.public_key() == public]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Faults([Fault(str(cert), f"its key cannot be used: {error}")]) from None
    if not owners:
        raise Faults([Fault(str(key), f"does not belong to the certificate in {cert}")])
    if owners[0] != 1:
        text = f"the key in {key} belongs to certificate {owners[0]}, which must come first"
        raise Faults([Fault(str(cert), text)])


def _certificates(path: Path) -> list[x509.Certificate]:
    """All certificates in a PEM file; raises `Faults`."""
    text = _contents(path)
    if b"-----BEGIN CERTIFICATE-----" not in text:
        raise Faults([Fault(str(path), "holds no certificate in PEM form")])
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError:
        raise Faults([Fault(str(path), "a certificate in it is damaged")]) from None


def _private_key(path: Path) -> PrivateKeyTypes:
    """The first private key in a PEM file; raises `Faults`."""
    text = _contents(path)
    if not re.search(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----", text):
        raise Faults([Fault(str(path), "holds no private key in PEM form")])
    try:
        return load_pem_private_key(text, None)
    except TypeError:  # so it says that it wants a password
        hint = "the private key is encrypted; it must be without a password"
        raise Faults([Fault(str(path), hint)]) from None
    except (ValueError, UnsupportedAlgorithm):
        raise Faults([Fault(str(path), "the private key is damaged")]) from None


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Faults([Fault(str(path), unreadable(error))]) from None


def _words(error: Exception) -> str:
    """What OpenSSL said: its errors are lists of (library, function, reason)."""
    if isinstance(error, SSL.Error) and error.args and isinstance(error.args[0], list):
        return "; ".join(reason for _, _, reason in error.args[0])
    return str(error)
