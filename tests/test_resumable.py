"""Which TLS sessions are resumed: handshakes with an upstream in memory, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import coroutine
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.defer import CancelledError

from smtpproxy import tls
from smtpproxy.routing import Server, Tls, Upstream
from smtpproxy.smtp.commands import Verb
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.replies import Reply
from smtpproxy.upstream.errors import Broken, NotVerified
from smtpproxy.upstream.handshake import Manners, NotResumed, secure
from smtpproxy.upstream.resumable import LIFE, MOST, Resumable
from tests.support.certificates import Authority, Certificate
from tests.test_tls import context_of, move, shake


class FakeConnection:
    """As `upstream.Connection`: it has said EHLO to a server that holds `context`, or hangs up."""

    def __init__(self, context: SSL.Context | None, wish: Tls, now: float) -> None:
        self.server = Server("mx1.test")
        self.address = "192.0.2.1"
        self.upstream = Upstream((self.server,), wish)
        self.extensions = Extensions({"STARTTLS": ()})
        self.seconds: Callable[[], float] = lambda: now
        self._context = context

    async def ask(self, command: Any, seconds: float) -> Reply:
        if command.verb is Verb.EHLO:
            self._peer.send(b"250 mx1.test\r\n")
            move(self._peer, self.secured)
            self.secured.recv(100)
        return Reply(220 if command.verb is Verb.STARTTLS else 250, (b"ok",))

    async def start_tls(self, creator: tls.ClientTls, seconds: float) -> SSL.Connection:
        if self._context is None:
            raise Broken("TLS handshake: it hangs up")
        self.secured = creator.clientConnectionForTLS(None)
        self._peer = tls.server_connection(self._context)
        shake(self.secured, self._peer)
        return self.secured


class World:
    """One generation, and the server that it connects to."""

    def __init__(self, authority: Authority, certificate: Certificate) -> None:
        self.context: SSL.Context | None = context_of(certificate)
        self.manners = Manners("mx.example.net", tls.client_context(authority.file), 1.0, 1.0)

    def connects(self, wish: Tls = Tls.VERIFY, at: float = 0.0, resume: bool = True) -> bool:
        """At that time; was the TLS session resumed?"""
        connection = FakeConnection(self.context, wish, at)
        with pytest.raises(StopIteration):  # nothing is waited for
            secure(connection, self.manners, resume).send(None)  # type: ignore[arg-type]
        connection.secured.shutdown()  # to OpenSSL, the session is spoilt without
        return tls.resumed(connection.secured)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def world(authority) -> World:
    return World(authority, authority.certificate("mx1.test"))


def test_the_verdict_on_a_certificate_is_not_older_for_having_been_used(world) -> None:
    connections = [world.connects(at=part * LIFE) for part in (0, 0.5, 0.9, 1, 1.5, 2)]
    assert connections == [False, True, True, False, True, False]


def test_who_has_the_certificate_verified_goes_on_with_no_session_of_others(world) -> None:
    assert [world.connects(wish) for wish in (Tls.MAY, Tls.VERIFY)] == [False, False]
    assert [world.connects(wish) for wish in (Tls.MAY, Tls.VERIFY)] == [True, True]


def test_no_session_outlives_the_authorities_that_its_certificate_was_judged_by(world) -> None:
    world.connects()
    world.manners = Manners("mx.example.net", tls.client_context(None), 1.0, 1.0)
    with pytest.raises(NotVerified, match="issuer is not trusted"):
        world.connects()


def test_a_session_that_did_not_verify_where_it_had_to_is_not_kept(authority) -> None:
    world = World(authority, authority.expired("mx1.test"))
    for _ in range(2):
        with pytest.raises(NotVerified, match="expired"):
            world.connects()
    world.context = context_of(authority.certificate("mx1.test"))
    assert not world.connects()


def test_where_resuming_fails_nothing_is_resumed_for_a_while(world) -> None:
    assert [world.connects(at=at) for at in (0, 1)] == [False, True]
    context, world.context = world.context, None
    with pytest.raises(NotResumed, match="hangs up"):
        world.connects(at=2)
    with pytest.raises(NotVerified, match="hangs up"):
        world.connects(at=2)
    world.context = context
    resumed = [world.connects(at=at) for at in (3, 4, 2 + LIFE, 3 + LIFE)]
    assert resumed == [False, False, False, True]


def test_nothing_is_resumed_where_nothing_is_to_be(world) -> None:
    world.connects()
    assert not world.connects(resume=False)


ONE, OTHER = Server("mx1.test"), Server("mx2.test")


@pytest.fixture
def session() -> SSL.Session:
    """Of a handshake that was never held; `Resumable` looks into none."""
    return SSL.Session()


def test_a_session_is_for_the_same_server_address_and_wishes_and_not_for_long(session) -> None:
    resumable = Resumable()
    party = (ONE, "192.0.2.1", Tls.VERIFY)
    resumable.keep(party, session, 100.0)
    assert resumable.find(party, 100.0 + LIFE - 1) is session
    assert resumable.find(party, 100.0 + LIFE) is None
    for another in (
        (OTHER, "192.0.2.1", Tls.VERIFY),
        (Server("mx1.test", 26), "192.0.2.1", Tls.VERIFY),
        (ONE, "192.0.2.2", Tls.VERIFY),
        (ONE, "192.0.2.1", Tls.MAY),
    ):
        assert resumable.find(another, 100.0) is None


def test_where_resuming_has_failed_it_is_not_tried_for_a_while(session) -> None:
    resumable = Resumable()
    party = (ONE, "192.0.2.1", Tls.MAY)
    resumable.keep(party, session, 0.0)
    resumable.refuse(party, 1.0)
    resumable.keep(party, session, 2.0)
    assert resumable.find(party, 2.0) is None
    resumable.keep(party, session, 1.0 + LIFE)
    assert resumable.find(party, 1.0 + LIFE) is session


def test_of_more_servers_than_that_the_oldest_session_goes(session) -> None:
    resumable = Resumable()
    parties = [(ONE, f"192.0.2.{n}", Tls.MAY) for n in range(MOST + 1)]
    for party in parties[:-1]:
        resumable.keep(party, session, 0.0)
    resumable.keep(parties[0], session, 1.0)  # the newest again
    resumable.keep(parties[-1], session, 2.0)
    kept = [resumable.find(party, 3.0) is not None for party in parties]
    assert kept == [True, False] + [True] * (MOST - 1)


class StallingConnection(FakeConnection):
    """Nothing comes of a handshake."""

    async def start_tls(self, creator: tls.ClientTls, seconds: float) -> SSL.Connection:
        await stall()
        raise AssertionError


@coroutine
def stall() -> Iterator[None]:
    yield


def test_a_session_over_which_the_time_for_all_ran_out_is_not_offered_again(world) -> None:
    assert [world.connects(), world.connects()] == [False, True]
    connection = StallingConnection(world.context, Tls.VERIFY, 0.0)
    handshake = secure(connection, world.manners)  # type: ignore[arg-type]
    handshake.send(None)
    with pytest.raises(CancelledError):
        handshake.throw(CancelledError())
    assert not world.connects()
