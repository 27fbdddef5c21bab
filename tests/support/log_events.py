"""One event of every kind that the log knows, and of every shape a line can have."""

from __future__ import annotations

from dataclasses import replace

from smtpproxy.events import (
    Connected,
    Disconnected,
    Event,
    Introduced,
    NotIntroduced,
    Refused,
    ShadowAnswered,
    Side,
    Tls,
    TlsStarted,
    TransactionEnded,
    UpstreamFailed,
)
from smtpproxy.mail import Client, Peer
from smtpproxy.smtp.replies import Reply

SESSION = "643F2A9C01D4"
PEER = Peer("192.0.2.7", 4711, "198.51.100.1", 25)
CLIENT = Client(PEER, name="mail.example.com", helo="mail.example.com")
STRANGER = Client(replace(PEER, address="192.0.2.66"), helo="friend")
TLS = Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384")
UNKNOWN = Reply(550, (b"5.1.1 <nobody@example.net>: Recipient address rejected: User unknown",))

SENT = TransactionEnded(
    SESSION,
    SESSION + "01",
    CLIENT,
    TLS,
    "alice@example.com",
    ("bob@example.net",),
    "mx1.example.net:25",
    "203.0.113.9",
    replace(TLS, verified=True),
    Reply(250, (b"2.0.0 Ok: queued as 4F1A2B3C",)),
    Side.NONE,
    48213,
    {"lookup": 0.001, "connect": 0.021, "envelope": 0.004, "content": 0.01, "final": 0.03},
)
DEFERRED = replace(
    SENT,
    transaction=SESSION + "02",
    sender="",
    recipients=("bob@example.net", "carol@example.net"),
    reply=Reply(451, (b"4.4.2 Upstream connection lost",)),
    by=Side.UPSTREAM,
    error="connection lost inside the content",
)
BOUNCED = replace(
    SENT,
    transaction=SESSION + "03",
    reply=Reply(550, (b"5.7.1 Message refused",)),
    by=Side.UPSTREAM,
    error="message refused",
)
IN_DOUBT = replace(
    SENT,
    transaction=SESSION + "04",
    reply=Reply(451, (b"4.4.2 No answer from upstream",)),
    by=Side.UPSTREAM,
    error="no answer to the final dot",
    in_doubt=True,
)
DUPLICATE = replace(SENT, transaction=SESSION + "05", duplicate=True)
TURNED = Reply(
    451,
    (
        b"4.3.0 The server of this recipient suddenly refuses nearly all mail; try later: "
        b"550 5.1.1 <bob@example.net>: no such user",
    ),
)
FORWARDED = replace(
    SENT,
    transaction=SESSION + "06",
    forwarded={"NAME": "mail.example.org", "ADDR": "203.0.113.7", "IDENT": "4F1A2B3C"},
)
BALANCER = replace(PEER, address="192.0.2.5", port=40000)
FRONTED = replace(CLIENT, peer=replace(PEER, via="192.0.2.5"))
LEFT = Disconnected(
    SESSION,
    CLIENT,
    0.213,
    {"EHLO": (2, 2), "STARTTLS": (1, 1), "MAIL": (1, 1), "RCPT": (1, 2), "QUIT": (1, 1)},
)

AGREES = ShadowAnswered(
    SESSION,
    CLIENT,
    "bob@example.net",
    "new.example.net:25",
    Reply(250, (b"2.1.5 Ok",)),
    Reply(250, (b"2.1.5 Recipient Ok",)),
)
DIFFERS = replace(
    AGREES,
    recipient="carol@example.net",
    shadow="new1.example.net:25*3,[2001:db8::25]:2525*1",
    shadow_reply=Reply(550, (b"5.1.1 <carol@example.net>: no such user",)),
)

SAMPLES: tuple[Event, ...] = (
    Connected(SESSION, CLIENT),
    Connected(SESSION, FRONTED),
    NotIntroduced(SESSION, BALANCER, "it begins with something else"),
    NotIntroduced(SESSION, BALANCER, "lost connection", silent=True),
    Introduced(SESSION, FRONTED),
    TlsStarted(SESSION, CLIENT, TLS),
    TlsStarted(SESSION, CLIENT, replace(TLS, verified=True, server_name="mx.example.net")),
    Refused(SESSION, STRANGER, "CONNECT", Reply(421, (b"4.7.0 Too many connections",)), Side.PROXY),
    Refused(
        SESSION,
        CLIENT,
        "RCPT",
        UNKNOWN,
        Side.UPSTREAM,
        "alice@example.com",
        "nobody@example.net",
        server="mx1.example.net:25",
        address="203.0.113.9",
    ),
    Refused(
        SESSION,
        STRANGER,
        "RCPT",
        Reply(550, (b"5.7.1 Relay access denied",)),
        Side.PROXY,
        "",
        "nobody@elsewhere.test",
    ),
    Refused(
        SESSION,
        CLIENT,
        "RCPT",
        Reply(451, (b"4.3.0 The look-up of this recipient failed",)),
        Side.PROXY,
        "alice@example.com",
        "bob@example.net",
        "look-up not done within 240 s",
    ),
    Refused(
        SESSION,
        CLIENT,
        "RCPT",
        TURNED,
        Side.UPSTREAM,
        "alice@example.com",
        "bob@example.net",
        "5xx guard: it said 550 5.1.1 <bob@example.net>: no such user",
        "mx1.example.net:25",
        "203.0.113.9",
    ),
    Refused(
        SESSION,
        CLIENT,
        "RCPT",
        Reply(451, (b"4.4.1 The server of this recipient is not reachable",)),
        Side.UPSTREAM,
        "alice@example.com",
        "bob@example.net",
        "no answer in 15 s",
        "new1.example.net:25*3,[2001:db8::25]:2525*1",
    ),
    UpstreamFailed(SESSION, "mx1.example.net:25", "203.0.113.9", "Connection refused"),
    UpstreamFailed(SESSION, "[2001:db8::1]:2525", "", "no address in time"),
    UpstreamFailed(SESSION, "mx:example.net:25", "", "it takes no mail (null MX)"),
    AGREES,
    DIFFERS,
    SENT,
    DEFERRED,
    BOUNCED,
    IN_DOUBT,
    DUPLICATE,
    FORWARDED,
    LEFT,
    replace(LEFT, client=STRANGER, after="RCPT", reason="lost connection: reset by peer"),
    replace(LEFT, client=STRANGER, after="DATA", reason="timeout: 180 s"),
    replace(LEFT, client=STRANGER, after="RCPT", reason="too many errors"),
    replace(LEFT, client=STRANGER, after="NOOP", reason="too many commands"),
    replace(
        LEFT,
        client=STRANGER,
        commands={"EHLO": (1, 1), "AUTH": (0, 2)},
        after="AUTH",
        reason="internal error",
    ),
)
