"""From a fresh connection to one that is ready for MAIL.

Greeting, EHLO, STARTTLS, EHLO, XCLIENT, EHLO: each may end it, with a different meaning
for the client (see `errors`).  To an LMTP server LHLO is said in place of each EHLO.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import field, replace

from OpenSSL import SSL

from smtpproxy import tls
from smtpproxy.mail import UNAVAILABLE, Client, Peer
from smtpproxy.routing import Identity, Tls
from smtpproxy.smtp import proxy_header, xclient
from smtpproxy.smtp.commands import Hello, Plain, Verb
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.replies import Reply
from smtpproxy.tap import UNHEARD, Tap
from smtpproxy.upstream.connection import Connection
from smtpproxy.upstream.errors import (
    Broken,
    ClientRefused,
    GreetingRefused,
    NotEncrypted,
    NotIntroduced,
    NotVerified,
)
from smtpproxy.upstream.resumable import Resumable
from smtpproxy.values import value

_AUTO, _UNENCRYPTED = Identity.AUTO, Tls.NONE  # see `smtp.client`


@value
class Caller:
    """Who an upstream is to be told of: the addresses at once, the rest when it is asked for.

    `identify` is asked with True where the client's name counts, which may take a while.
    `session` is the name of the client's session, "" for none, and `tap` who may listen to it.
    """

    peer: Peer
    identify: Callable[[bool], Awaitable[Client]]
    session: str = ""
    tap: Tap = field(default=UNHEARD, compare=False)

    def as_it_is(self, client: Client) -> Caller:
        """The caller that goes on to be `client`, whatever the session's may say later."""

        async def identify(with_name: bool) -> Client:
            now = await self.identify(with_name)
            # XCLIENT makes another peer: then the name is that of another client.
            return replace(client, name=now.name) if now.peer is client.peer else client

        return replace(self, identify=identify)


@value
class Manners:
    """How we present ourselves: our name in EHLO, and the deadlines, in seconds."""

    domain: str
    tls_context: SSL.Context
    connect_time: float
    reply_time: float
    resumable: Resumable = field(default_factory=Resumable)


class TlsFailed(Exception):
    """The TLS handshake failed, and need not have succeeded: the connection is lost for it."""


class NotResumed(Exception):
    """The TLS handshake failed, but was none that begins at the beginning: a new connection may do.

    It says nothing about clear text, which may be out of the question.
    """


async def announce(connection: Connection, caller: Caller, manners: Manners) -> Manners:
    """The PROXY protocol's header, where the upstream is to get one: before anything else.

    Gives the manners to go on with: behind the header, it is the client that says EHLO.
    """
    identity = connection.upstream.identity
    if not identity.prefaced:
        return manners
    peer = caller.peer
    ends = (peer.address, peer.port), (peer.local_address, peer.local_port)
    header = proxy_header.version1 if identity is Identity.PROXY1 else proxy_header.version2
    connection.preface(header(*ends))
    connection.told = await caller.identify(False)
    return replace(manners, domain=connection.told.helo)


async def greet(connection: Connection, manners: Manners) -> Reply:
    """Take the greeting; raises `GreetingRefused` where it is none."""
    greeting = await connection.reply(manners.reply_time)
    if greeting.code != 220:
        raise GreetingRefused(greeting)
    return greeting


async def hello(connection: Connection, manners: Manners) -> None:
    """Say EHLO, or HELO where that is refused (RFC 5321 3.2), and learn the extensions.

    LMTP has LHLO for both (RFC 2033 section 4.1).
    """
    reply = await connection.ask(_hello(connection, manners.domain), manners.reply_time)
    if reply.success:
        connection.extensions = Extensions.of(reply)
        return
    if reply.permanent and not connection.server.lmtp:
        reply = await connection.ask(Hello(manners.domain, Verb.HELO), manners.reply_time)
    connection.extensions = Extensions()
    if not reply.success:
        raise GreetingRefused(reply)


def _hello(connection: Connection, name: str, esmtp: bool = True) -> Hello:
    """`name` introduced as the server wants it, which with LMTP leaves no choice."""
    if connection.server.lmtp:
        return Hello(name, Verb.LHLO)
    return Hello(name, Verb.EHLO if esmtp else Verb.HELO)


async def secure(connection: Connection, manners: Manners, resume: bool = True) -> None:
    """STARTTLS where it is offered, then EHLO again; on a Unix socket only where it must be.

    `resume`: a TLS session of before, where there is one.

    Raises `NotVerified` where the certificate must verify and does not, or cannot for want
    of TLS behind the offer, `NotEncrypted` where there must be TLS and is none; `TlsFailed` where
    that need not be, and a new connection in clear may do; `NotResumed` where one may do that
    resumes nothing.
    """
    wanted = connection.upstream.tls
    # What goes through a Unix socket stays on this host, and no certificate is for a path.
    if wanted is _UNENCRYPTED or (connection.server.path and not wanted.required):
        return
    if "STARTTLS" not in connection.extensions:
        if wanted.required:
            raise NotEncrypted("it does not offer STARTTLS")
        return
    reply = await connection.ask(Plain(Verb.STARTTLS), manners.reply_time)
    if reply.code == 421:  # it closes, and takes nothing in clear either
        raise GreetingRefused(reply)
    if not reply.success:
        if wanted is Tls.MAY:
            return
        raise _without_tls(wanted)(f"it refused STARTTLS: {reply}")
    host = connection.server.host
    party = connection.server, connection.address, wanted
    known = manners.resumable.find(party, connection.seconds()) if resume else None
    creator = tls.ClientTls(manners.tls_context, host, known)
    try:
        secured = await connection.start_tls(creator, manners.connect_time)
    except BaseException as error:
        if known is not None:  # also where the time for all of it is over before the handshake's
            manners.resumable.refuse(party, connection.seconds())
        if not isinstance(error, Broken):
            raise
        if known is not None:
            raise NotResumed(str(error)) from error
        raise _without_tls(wanted)(str(error)) from error
    flaw = tls.verify(secured, host)
    connection.tls = tls.describe(secured, verified=not flaw)
    if flaw and wanted.verified:
        raise NotVerified(flaw)
    await hello(connection, manners)
    if not tls.resumed(secured):  # what resumes it comes after the handshake (RFC 8446 4.6.1)
        manners.resumable.keep(party, secured.get_session(), connection.seconds())


def _without_tls(wanted: Tls) -> type[Exception]:
    """What TLS that was offered and is not to be had means."""
    if wanted.verified:
        return NotVerified
    return NotEncrypted if wanted.required else TlsFailed


def wants_introduction(connection: Connection) -> bool:
    """Is the upstream told by XCLIENT who the client is, or must it be?"""
    identity = connection.upstream.identity
    if identity is _AUTO:
        return "XCLIENT" in connection.extensions
    return identity is Identity.XCLIENT


async def introduce(connection: Connection, caller: Caller, manners: Manners) -> None:
    """XCLIENT where it is offered, then the client's own EHLO or HELO, or its name in LHLO.

    Raises `ClientRefused` where the upstream does not want that client, `NotIntroduced`
    where it does not take XCLIENT and must.
    """
    if not wants_introduction(connection):
        return
    if "XCLIENT" not in connection.extensions:
        raise NotIntroduced
    announced = {name.upper() for name in connection.extensions["XCLIENT"]}
    client = await caller.identify("NAME" in announced)
    said = attributes(client)
    if connection.told is not None:  # what was said of the one before must not stay
        said = {**dict.fromkeys(("LOGIN", "DESTADDR", "DESTPORT"), UNAVAILABLE), **said}
    if caller.session:
        said["SESSION"] = caller.session
    lines = xclient.commands(said, announced)
    if not lines:
        if connection.upstream.identity is Identity.XCLIENT:
            raise NotIntroduced
        return
    connection.told = client
    connection.traced = caller.session if "SESSION" in announced else ""
    for line in lines:
        connection.send_raw((Verb.XCLIENT, line))
        reply = await connection.reply(manners.reply_time)
        if 500 <= reply.code <= 504:  # it judges our command, not the client
            raise GreetingRefused(reply)
        if not reply.success:
            raise ClientRefused(reply, connection)
    # The client's own words: what stands here is what the upstream takes for its HELO.
    hello = _hello(connection, client.helo, client.esmtp)
    reply = await connection.ask(hello, manners.reply_time)
    if not reply.success:
        raise ClientRefused(reply, connection)
    # After HELO nothing is announced any more: least of all PIPELINING.
    connection.extensions = Extensions.of(reply) if hello.esmtp else Extensions()


def attributes(client: Client) -> dict[str, str]:
    """What XCLIENT can say of `client`, by attribute."""
    peer = client.peer
    said = {
        "NAME": client.name,
        "HELO": client.helo,
        "PROTO": client.protocol,
        "PORT": str(peer.port) if peer.port else UNAVAILABLE,
        "ADDR": _address(peer.address),
    }
    if client.login:
        said["LOGIN"] = client.login
    if peer.local_address:
        said["DESTADDR"] = _address(peer.local_address)
        said["DESTPORT"] = str(peer.local_port) if peer.local_port else UNAVAILABLE
    return said


def _address(address: str) -> str:
    return f"IPV6:{address}" if ":" in address else address or UNAVAILABLE
