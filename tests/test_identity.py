"""Who the client is, where an upstream is not told by XCLIENT: PROXY headers, `Received:`."""

from __future__ import annotations

import re
from email import message_from_bytes, policy
from email.utils import parsedate_to_datetime

import pytest
from twisted.internet.defer import Deferred

from smtpproxy import events
from smtpproxy.events import Refused, TransactionEnded, UpstreamFailed
from smtpproxy.listener.acquaintance import Acquaintance
from smtpproxy.mail import TEMPUNAVAIL, UNAVAILABLE, Client, Peer
from smtpproxy.relay import received_line
from smtpproxy.routing import Identity, Row, Tls
from smtpproxy.smtp.proxy_header import version1, version2
from smtpproxy.tasks import start
from tests.support.dialogue import (
    CLIENT,
    FIRST_RCPT,
    GREETING,
    NOW,
    ONE,
    REPLAYED,
    Settings,
    World,
    upstream,
    upstream_greets,
)

V6 = Peer("2001:db8::9", 40000, "2001:db8::1", 25)
UNIX = Peer("", 0, "", 0)
HEADERS = {
    Identity.PROXY1: version1,
    Identity.PROXY2: version2,
}


def started(identity: Identity, tls: Tls = Tls.MAY, **settings) -> World:
    to = upstream("192.0.2.1", tls=tls, identity=identity)
    return World({"example.com": to}, None, Settings(**settings)).play(GREETING)


def header(identity: Identity, peer: Peer = CLIENT) -> bytes:
    source, destination = (peer.address, peer.port), (peer.local_address, peer.local_port)
    return HEADERS[identity](source, destination)


def take(world: World, number: int, expected: bytes) -> None:
    """Upstream `number` was told just this."""
    said = world.upstream(number).said
    assert bytes(said) == expected
    said.clear()


def rcpt(world: World) -> None:
    """The client names a recipient; what is said upstream stays to be looked at."""
    world.client.deliver(b"MAIL FROM:<s@example.org>\r\n")
    world.play("S: 250 2.1.0 Ok")
    world.client.deliver(b"RCPT TO:<a@example.com>\r\n")
    world.clock.advance(0)


# The PROXY protocol

SPOKEN_AS_THE_CLIENT = """
    U1: 220 one.example.net ESMTP
    P1: EHLO client.example.com
"""


@pytest.mark.parametrize("identity", HEADERS)
@pytest.mark.parametrize("peer", [CLIENT, V6, UNIX], ids=["IPv4", "IPv6", "unix"])
def test_the_header_comes_before_everything(identity: Identity, peer: Peer) -> None:
    """Before the greeting, even: the upstream says none without it.  XCLIENT is not said."""
    world = started(identity, peer=peer)
    rcpt(world)
    take(world, 1, header(identity, peer))
    world.play(f"{SPOKEN_AS_THE_CLIENT}\nU1: 250-one\nU1: 250 XCLIENT ADDR\n{REPLAYED}")


def test_what_the_header_says() -> None:
    assert header(Identity.PROXY1) == b"PROXY TCP4 192.0.2.9 198.51.100.1 40000 25\r\n"


@pytest.mark.parametrize("identity", HEADERS)
def test_the_connection_in_clear_after_a_failed_handshake_has_it_too(identity: Identity) -> None:
    world = started(identity)
    rcpt(world)
    take(world, 1, header(identity))
    world.play(f"{SPOKEN_AS_THE_CLIENT}\nU1: 250-one\nU1: 250 STARTTLS\nP1: STARTTLS")
    world.upstream(1).deliver(b"220 go\r\n")
    world.upstream(1).lose()
    world.clock.advance(0)
    take(world, 2, header(identity))
    world.play("""
        U2: 220 one
        P2: EHLO client.example.com
        U2: 250-one
        U2: 250 STARTTLS
        P2: MAIL FROM:<s@example.org>
    """)


@pytest.mark.parametrize("identity", HEADERS)
def test_every_address_is_told(identity: Identity) -> None:
    to = upstream("a.test", "b.test", identity=identity)
    hosts = {"a.test": ["192.0.2.1"], "b.test": ["192.0.2.2"]}
    world = World({"example.com": to}, hosts, Settings()).play(GREETING)
    rcpt(world)
    take(world, 1, header(identity))
    world.upstream(1).deliver(b"421 busy\r\n")
    world.clock.advance(0)
    take(world, 2, header(identity))
    assert world.upstream(1).cut


@pytest.mark.parametrize("identity", HEADERS)
def test_a_connection_kept_between_transactions_is_told_once(identity: Identity) -> None:
    world = started(identity)
    rcpt(world)
    take(world, 1, header(identity))
    world.play(f"""
        {SPOKEN_AS_THE_CLIENT}
        U1: 250 one
        {REPLAYED}
        C: RSET
        P1: RSET
        U1: 250 reset
        S: 250 reset
        {FIRST_RCPT}
        {REPLAYED}
    """)
    assert len(world.upstreams) == 1


def test_a_shadow_is_told_as_well() -> None:
    """Its identity is that of its row."""
    shadow = upstream("192.0.2.7", identity=Identity.PROXY2)
    world = World({"example.com": Row(ONE, shadow=shadow)}, None, Settings()).play(GREETING)
    world.play(f"{FIRST_RCPT}\n{upstream_greets(1)}\nP1: MAIL FROM:<s@example.org>")
    world.play("U1: 250 fine\nP1: RCPT TO:<a@example.com>")
    world.upstream(1).deliver(b"250 fine\r\n")
    world.clock.advance(0)
    take(world, 2, header(Identity.PROXY2))
    world.shadows.stop()


# XCLIENT, and no mail without it

NO_XCLIENT = {"none": "SIZE", "without attributes": "XCLIENT", "none of ours": "XCLIENT TTL"}


@pytest.mark.parametrize("extension", NO_XCLIENT.values(), ids=NO_XCLIENT)
def test_where_xclient_is_required_nothing_goes_without(extension: str) -> None:
    world = started(Identity.XCLIENT).play(f"""
        {FIRST_RCPT}
        {upstream_greets(1, extension)}
        P1: QUIT
        S: 451 4.4.0 The server of this recipient does not know this proxy
        C: RSET
        S: 250 2.0.0 Ok
    """)
    (failed,) = world.said(UpstreamFailed)
    assert failed.reason == "it does not offer XCLIENT"
    assert world.said(Refused)[0].error == failed.reason


def test_where_xclient_is_required_and_offered() -> None:
    started(Identity.XCLIENT).play(f"""
        {FIRST_RCPT}
        {upstream_greets(1, "XCLIENT ADDR")}
        P1: XCLIENT ADDR=192.0.2.9
    """)


# Nothing


def test_none_is_told_where_none_is_to_be_told() -> None:
    started(Identity.NONE).play(f"""
        {FIRST_RCPT}
        {upstream_greets(1, "XCLIENT ADDR NAME")}
        {REPLAYED}
        C: DATA
        P1: DATA
        U1: 354 go
        S: 354 go
        C: Subject: x\\r\\n.
        P1: Subject: x
        P1: .
    """)


# The Received: line


def test_a_received_line_stands_in_front_of_the_content_and_is_counted_by_nobody() -> None:
    content = "Subject: x\r\n\r\none\r\n"
    world = World(
        {"example.com": upstream("192.0.2.1", identity=Identity.RECEIVED)},
        None,
        Settings(name="mail.example.com", max_message_bytes=len(content)),
    ).play(GREETING.replace("1000000", str(len(content))))
    world.play(f"""
        {FIRST_RCPT}
        {upstream_greets(1, "XCLIENT ADDR")}
        {REPLAYED}
        C: DATA
        P1: DATA
        U1: 354 go
        P1: Received: from client.example.com (mail.example.com [192.0.2.9])
        P1: \tby mx.example.net with ESMTP id 00000000000101;
        P1: \tFri, 20 Nov 2026 06:44:22 -0000
        S: 354 go
        C: Subject: x\\r\\n\\r\\none\\r\\n.
        P1: Subject: x
        P1:
        P1: one
        P1: .
        U1: 250 taken
        S: 250 taken
    """)
    (ended,) = world.said(TransactionEnded)
    assert ended.size == len(content)


def test_it_is_there_once_for_each_message() -> None:
    world = started(Identity.RECEIVED)
    for number in (1, 2):
        world.play(FIRST_RCPT + (upstream_greets(1) if number == 1 else "") + REPLAYED)
        world.play(f"""
            C: DATA
            P1: DATA
            U1: 354 go
            P1: Received: from client.example.com (unknown [192.0.2.9])
            P1: \tby mx.example.net with ESMTP id 0000000000010{number};
            P1: ...
            S: 354 go
            C: .
            P1: .
            U1: 250 taken
            S: 250 taken
        """)


def test_an_upstream_that_refuses_data_gets_none() -> None:
    started(Identity.RECEIVED).play(f"""
        {FIRST_RCPT}
        {upstream_greets(1)}
        {REPLAYED}
        C: DATA
        P1: DATA
        U1: 451 not now
        S: 451 not now
        C: NOOP
        P1: NOOP
    """)


def test_an_upstream_that_goes_at_its_354_is_no_invitation() -> None:
    started(Identity.RECEIVED).play(f"""
        {FIRST_RCPT}
        {upstream_greets(1)}
        {REPLAYED}
        C: DATA
        P1: DATA
        U1: 354 go\\r\\n552 too big
        P1 cut
        S: ...
        C: RSET
        S: 250 2.0.0 Ok
    """)


def line(client: Client, encrypted: bool = False) -> str:
    made = received_line(client, encrypted, "mx.example.net", "0123456789AB01", NOW)
    assert made.endswith(b"\r\n")
    first, *others = made.decode("ascii").removesuffix("\r\n").split("\r\n")
    assert first.startswith("Received: ")
    assert all(it.startswith("\t") for it in others), "a line of its own: another header"
    assert max(map(len, (first, *others))) < 998  # RFC 5322 2.1.1
    return " ".join(map(str.strip, (first, *others)))


# RFC 5321 4.4, as far as it is used: From-domain By-domain With ID ";" date-time
DOMAIN = r"[A-Za-z0-9._-]+"
LITERAL = r"\[(?:\d+\.\d+\.\d+\.\d+|IPv6:[0-9a-f:]+)\]"
STAMP = re.compile(
    rf"Received: from (?:{DOMAIN}|{LITERAL}) \((?:{DOMAIN} )?{LITERAL}\) by {DOMAIN}"
    rf" with E?SMTPS? id [0-9A-F]+; [A-Z][a-z]{{2}}, \d\d? [A-Z][a-z]{{2}} \d{{4}} [0-9:]{{8}}"
    r" [+-]\d{4}"
)
HELOS = ["mail.example.com", "[192.0.2.9]", "[IPv6:2001:db8::9]", "under_score.example.com"]


@pytest.mark.parametrize("helo", HELOS)
@pytest.mark.parametrize("name", [UNAVAILABLE, TEMPUNAVAIL, "mail.example.com"])
@pytest.mark.parametrize("peer", [CLIENT, V6])
@pytest.mark.parametrize(("encrypted", "esmtp"), [(True, True), (False, True), (True, False)])
def test_the_form_of_the_line(helo, name, peer, encrypted, esmtp) -> None:
    made = line(Client(peer, name, helo, esmtp), encrypted)
    assert STAMP.fullmatch(made), made
    words = {(True, True): "ESMTPS", (False, True): "ESMTP", (True, False): "SMTP"}
    assert f" with {words[encrypted, esmtp]} id " in made  # RFC 3848
    assert parsedate_to_datetime(made.partition("; ")[2]).timestamp() == NOW


def test_an_ipv6_client() -> None:
    assert " (unknown [IPv6:2001:db8::9]) " in line(Client(V6, helo="six.example.com"))


def test_a_client_on_a_unix_socket() -> None:
    made = line(Client(UNIX, helo="local.example.com"))
    assert made.startswith("Received: from local.example.com (unknown [unix socket]) by ")


HOSTILE = [
    "x) by evil.test (y",
    "x; Mon, 1 Jan 2001 00:00:00 +0000",
    'x"\\',
    "x\r\nBcc: all@example.com",
    "x\r\n\r\nbody",
    "a b\tc",
    "grün.example",
    "\udcff",
    "",
    "x" * 255,
    "=?utf-8?q?x?=",
    "<x@example.com>",
]


@pytest.mark.parametrize("said", HOSTILE)
@pytest.mark.parametrize("where", ["helo", "name"])
def test_what_a_peer_says_ends_nothing_and_begins_nothing(said: str, where: str) -> None:
    words = {"helo": "x.example.com", "name": UNAVAILABLE, where: said}
    client = Client(CLIENT, words["name"], words["helo"])
    made = line(client)
    parsed = message_from_bytes(
        received_line(client, False, "mx.example.net", "0123456789AB01", NOW) + b"\r\nbody\r\n",
        policy=policy.SMTP,
    )
    assert parsed.keys() == ["Received"]
    assert not parsed.defects
    assert made.count(";") == made.count("(") == made.count(")") == 1
    assert made.count(" by ") == 1
    assert re.fullmatch(r"Received: from \S+ \(\S+ \[\S+\]\) by .*", made), made


def test_after_starttls_the_word_is_esmtps_and_the_helo_the_second_one() -> None:
    world = started(Identity.RECEIVED)
    (session,) = world.sessions._running
    assert session.received("X01").startswith(b"Received: from client.example.com (")
    assert b" with ESMTP id " in session.received("X01")
    session.tls = events.Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    assert b" with ESMTPS id " in session.received("X01")


def test_who_asks_for_the_name_again_as_soon_as_it_is_known_is_told() -> None:
    """One upstream connection is chosen by it, and then told of it."""
    found: Deferred[str] = Deferred()

    async def reverse_name(address: str) -> str:
        return await found

    who = Acquaintance(CLIENT, reverse_name)

    async def ask() -> list[str]:
        return [(await who.identify(True)).name for _ in range(2)]

    asking = start(ask())
    found.callback("client.example.com")
    assert asking.result == ["client.example.com"] * 2
