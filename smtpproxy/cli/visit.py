"""A connection to an upstream that remembers what was said on it."""

from __future__ import annotations

from contextlib import suppress

from cryptography import x509
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from smtpproxy import tls
from smtpproxy.deadlines import Deadlines, TimedOut, Waiter
from smtpproxy.events import Tls
from smtpproxy.smtp.errors import ProtocolError
from smtpproxy.smtp.replies import Reply, ReplyReader
from smtpproxy.stream import Disconnected, Stream
from smtpproxy.values import value

_FAREWELL = 1.0  # seconds that a server has to close after QUIT


@value
class Said:
    """A command, "" for none, and the reply to it."""

    command: str
    reply: Reply


@value
class Prefaced:
    """A header of the PROXY protocol was sent, in this version."""

    version: int


@value
class Secured:
    """A TLS handshake that was completed; `flaw` says why the certificate does not verify."""

    tls: Tls
    certificate: str
    flaw: str


@value
class NotSecured:
    """A TLS handshake that failed."""

    reason: str


Heard = Prefaced | Said | Secured | NotSecured


class Visit(Stream):
    """A stream to `host`; `heard` is what happened, in its order.

    For a handshake, in which a command waits for the reply to the one before it.
    """

    def __init__(self, deadlines: Deadlines, host: str) -> None:
        super().__init__(deadlines)
        self.heard: list[Heard] = []
        self._host = host
        self._command = ""
        self._replies = ReplyReader()
        self._over = Waiter(deadlines)  # beside who says QUIT, and waits with the stream's own

    def write(self, data: bytes) -> None:
        if self.heard:
            self._command = data.decode("utf-8", "backslashreplace").removesuffix("\r\n")
        else:  # nothing else is said before the greeting
            self.heard.append(Prefaced(1 if data.startswith(b"PROXY ") else 2))
        super().write(data)

    def dataReceived(self, data: bytes) -> None:
        self._replies.feed(data)
        with suppress(ProtocolError):  # the connection finds it too, and says so
            while reply := self._replies.next_reply():
                self.heard.append(Said(self._command, reply))
                self._command = ""
        super().dataReceived(data)

    async def start_tls(self, creator: object, seconds: float) -> SSL.Connection:
        self._replies.clear()
        try:
            session = await super().start_tls(creator, seconds)
        except (Disconnected, TimedOut) as error:
            self.heard.append(NotSecured(str(error)))
            raise
        flaw = tls.verify(session, self._host)
        secured = Secured(tls.describe(session, verified=not flaw), _certificate(session), flaw)
        self.heard.append(secured)
        return session

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._over.fire()

    async def end(self) -> None:
        """Wait until the connection is closed, not for long."""
        if self.lost:
            return
        try:
            await self._over.wait(_FAREWELL)
        except TimedOut:
            self.abort()
            await self._over.wait(_FAREWELL)


def _certificate(session: SSL.Connection) -> str:
    """Whom the server's certificate is for, who issued it, and until when it is valid."""
    try:  # it may hold anything
        certificate = session.get_peer_certificate(as_cryptography=True)
        if certificate is None:
            return "none"
        names = ", ".join(_names(certificate)) or "nobody"
        until = f"{certificate.not_valid_after_utc:%Y-%m-%d}"
        return f"for {names}; issued by {_name(certificate.issuer)}; valid until {until}"
    except Exception as error:
        return f"cannot be understood: {error}"


def _names(certificate: x509.Certificate) -> list[str]:
    """Its host names and addresses; where it has none, its subject's name, which counts nothing."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [f"{_name(certificate.subject)} (as a subject, which does not count)"]
    names = found.get_values_for_type(x509.DNSName)
    return [*names, *map(str, found.get_values_for_type(x509.IPAddress))]


def _name(name: x509.Name) -> str:
    common = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(common[0].value) if common else name.rfc4514_string()
