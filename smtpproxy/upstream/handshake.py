"""From a fresh connection to one that is ready for MAIL.

Greeting, EHLO, STARTTLS, EHLO, XCLIENT, EHLO: each may end it, with a different meaning
for the client (see `errors`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from OpenSSL import SSL

from smtpproxy import tls
from smtpproxy.mail import UNAVAILABLE, Client
from smtpproxy.smtp import xclient
from smtpproxy.smtp.commands import Hello, Plain, Verb
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.replies import Reply
from smtpproxy.upstream.connection import Connection
from smtpproxy.upstream.errors import Broken, ClientRefused, GreetingRefused, NotVerified

# Who the client is: asked for with True where its name counts, which may take a while.
Identify = Callable[[bool], Awaitable[Client]]


@dataclass(frozen=True, slots=True)
class Manners:
    """How we present ourselves: our name in EHLO, and the deadlines, in seconds."""

    domain: str
    tls_context: SSL.Context
    connect_time: float
    reply_time: float


class TlsFailed(Exception):
    """The TLS handshake failed, and need not have succeeded: the connection is lost for it."""


async def greet(connection: Connection, manners: Manners) -> Reply:
    """Take the greeting; raises `GreetingRefused` where it is none."""
    greeting = await connection.reply(manners.reply_time)
    if greeting.code != 220:
        raise GreetingRefused(greeting)
    return greeting


async def hello(connection: Connection, manners: Manners) -> None:
    """Say EHLO, or HELO where that is refused (RFC 5321 3.2), and learn the extensions."""
    reply = await connection.ask(Hello(manners.domain), manners.reply_time)
    if reply.success:
        connection.extensions = Extensions.of(reply)
        return
    if reply.permanent:
        reply = await connection.ask(Hello(manners.domain, esmtp=False), manners.reply_time)
    connection.extensions = Extensions()
    if not reply.success:
        raise GreetingRefused(reply)


async def secure(connection: Connection, manners: Manners) -> None:
    """STARTTLS where it is offered, then EHLO again.

    Raises `NotVerified` where the certificate must verify and does not, or cannot for want
    of TLS behind the offer; `TlsFailed` where it need not, and a new connection in clear may do.
    """
    if "STARTTLS" not in connection.extensions:
        return
    upstream = connection.upstream
    reply = await connection.ask(Plain(Verb.STARTTLS), manners.reply_time)
    if not reply.success:
        if upstream.tls_verify:
            raise NotVerified(f"it refused STARTTLS: {reply}")
        return
    creator = tls.ClientTls(manners.tls_context, upstream.host)
    try:
        session = await connection.start_tls(creator, manners.connect_time)
    except Broken as error:
        raise (NotVerified if upstream.tls_verify else TlsFailed)(str(error)) from error
    flaw = tls.verify(session, upstream.host)
    connection.tls = tls.describe(session, verified=not flaw)
    if flaw and upstream.tls_verify:
        raise NotVerified(flaw)
    await hello(connection, manners)


async def introduce(connection: Connection, identify: Identify, manners: Manners) -> None:
    """XCLIENT where it is offered, then the client's own EHLO or HELO.

    Raises `ClientRefused` where the upstream does not want that client.
    """
    if "XCLIENT" not in connection.extensions:
        return
    announced = {name.upper() for name in connection.extensions["XCLIENT"]}
    client = await identify("NAME" in announced)
    lines = xclient.commands(attributes(client), announced)
    if not lines:
        return
    for line in lines:
        connection.send_raw((Verb.XCLIENT, line))
        reply = await connection.reply(manners.reply_time)
        if 500 <= reply.code <= 504:  # it judges our command, not the client
            raise GreetingRefused(reply)
        if not reply.success:
            raise ClientRefused(reply)
    # The client's own words: what stands here is what the upstream takes for its HELO.
    reply = await connection.ask(Hello(client.helo, client.esmtp), manners.reply_time)
    if not reply.success:
        raise ClientRefused(reply)
    # After HELO nothing is announced any more: least of all PIPELINING.
    connection.extensions = Extensions.of(reply) if client.esmtp else Extensions()


def attributes(client: Client) -> dict[str, str]:
    """What XCLIENT can say of `client`, by attribute."""
    peer = client.peer
    said = {
        "NAME": client.name,
        "HELO": client.helo,
        "PROTO": client.protocol,
        "PORT": str(peer.port) if peer.address else UNAVAILABLE,
        "ADDR": _address(peer.address),
    }
    if client.login:
        said["LOGIN"] = client.login
    if peer.local_address:
        said["DESTADDR"] = _address(peer.local_address)
        said["DESTPORT"] = str(peer.local_port)
    return said


def _address(address: str) -> str:
    return f"IPV6:{address}" if ":" in address else address or UNAVAILABLE
