"""What an upstream in memory may do wrong.

Each gets what would usually be said, and is true where that was said in the end.  `useless` is an
upstream that must not be used any more.
"""

from __future__ import annotations

from twisted.internet.error import ConnectionLost

from tests.support.faulty import FaultyUpstream

SURPLUS = b"250 fine, and one too many\r\n"
MOST_ENDLESS = 1_000_000  # octets of one reply, after which somebody should have hung up


def silent(it: FaultyUpstream, usual: bytes) -> None:
    it.useless = True


def late(it: FaultyUpstream, usual: bytes) -> None:
    """Long after all deadlines: it counts for nothing."""
    it.useless = True
    it.later(1500, it.say, usual)


def drips_on(it: FaultyUpstream, usual: bytes) -> None:
    """Octet by octet, and never done."""
    it.useless = True

    def drip(place: int) -> None:
        if it.transport.open:
            it.say(b"250-fine\r\n"[place : place + 1])
            it.later(20, drip, (place + 1) % 10)

    drip(0)


def slow(seconds: float, it: FaultyUpstream, usual: bytes) -> bool:
    it.hold()
    it.later(seconds, it.go_on, usual)
    return True


def drips(it: FaultyUpstream, usual: bytes) -> bool:
    """Octet by octet, and in time."""
    for place in range(len(usual) - 1):
        it.later(place / 8, it.transport.deliver, usual[place : place + 1])
    it.hold()
    it.later(len(usual) / 8, it.go_on, usual[-1:])
    return True


def says(reply: bytes, it: FaultyUpstream, usual: bytes) -> None:
    """What makes the connection useless."""
    it.useless = True
    it.say(reply)


def says_and_closes(reply: bytes, it: FaultyUpstream, usual: bytes) -> None:
    says(reply, it, usual)
    it.transport.lose()
    it.transport.said.clear()  # written before that was seen


def refuses(reply: bytes, it: FaultyUpstream, usual: bytes) -> None:
    """Another answer than usual, after which it goes on."""
    it.say(reply)


def closes(it: FaultyUpstream, usual: bytes) -> None:
    it.useless = True
    it.transport.lose()
    it.transport.said.clear()  # written before that was seen


def half_closes(it: FaultyUpstream, usual: bytes) -> None:
    it.useless = True
    it.transport.half_close()


def resets(it: FaultyUpstream, usual: bytes) -> None:
    it.useless = True
    it.transport.lose(ConnectionLost())


def half_a_reply(it: FaultyUpstream, usual: bytes) -> None:
    says_and_closes(usual[:-1] or b"250 fin", it, usual)


def another(it: FaultyUpstream, usual: bytes) -> None:
    """Another positive reply than the one that is due."""
    says(b"250 fine\r\n" if usual[:3] in (b"354", b"") else b"354 fine\r\n", it, usual)


def endless(piece: bytes, it: FaultyUpstream, usual: bytes) -> None:
    """As much of it as is taken."""
    it.useless = True
    said = it.said
    while it.transport.open and not it.transport.paused:
        it.say(piece)
        assert it.said - said < MOST_ENDLESS, "nobody stops it"


def surplus(it: FaultyUpstream, usual: bytes) -> bool:
    """Two answers to one command: nobody can tell any more what is the answer to what."""
    says(usual + SURPLUS, it, usual)
    return True


def surplus_and_on(it: FaultyUpstream, usual: bytes) -> bool:
    """The same of one that goes on as if nothing had happened."""
    it.say(usual + SURPLUS)
    return True


def stalls(seconds: float, it: FaultyUpstream, usual: bytes) -> None:
    """It takes no content for so long."""
    it.transport.stalled = True
    it.later(seconds, it.transport.drained)
