"""Clients that do not mean well: none of what they say may reach a mailbox."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

from soak.ledger import Ledger
from soak.plans import LEAVING
from soak.wire import HungUp, Left, NoAnswer, Wire

_ENVELOPE = b"MAIL FROM:<injected@client.example.net>\r\nRCPT TO:<box0+injected@example.com>\r\n"
_MESSAGE = b"Subject: injected\r\n\r\nnot for you\r\n.\r\n"
_EHLO = b"EHLO hostile.example.net\r\n"
_PATIENCE = 3.0  # seconds that it listens


def noise(wire: Wire, rng: Random) -> None:
    """Any octets, commands among them."""
    words = (rng.randbytes(200), b"\r\n", b"EHLO x\r\n", b"DATA\r\n", b"MAIL FROM:<", b"\0" * 50)
    for _ in range(rng.randint(1, 30)):
        wire.send(rng.choice(words))


def long_lines(wire: Wire, rng: Random) -> None:
    wire.send(_EHLO)
    for _ in range(rng.randint(1, 20)):
        wire.send(b"NOOP " + b"x" * rng.choice((600, 10_000, 1_000_000)) + b"\r\n")


def early_tls(wire: Wire, rng: Random) -> None:
    """A handshake where there is no TLS, cut anywhere."""
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(506)
    wire.send(hello[: rng.randint(1, len(hello))])


def broken_handshake(wire: Wire, rng: Random) -> None:
    wire.send(_EHLO + b"STARTTLS\r\n")
    wire.rest(0.2)
    wire.send(rng.randbytes(rng.randint(1, 5_000)))


def injection(wire: Wire, rng: Random) -> None:
    """Commands in the segment of STARTTLS, which must not be obeyed, in clear or under TLS."""
    wire.send(_EHLO + b"STARTTLS\r\n" + _ENVELOPE + b"DATA\r\n" + _MESSAGE)


def relay(wire: Wire, rng: Random) -> None:
    """To a domain that nobody has."""
    wire.send(
        _EHLO + b"MAIL FROM:<injected@client.example.net>\r\n"
        b"RCPT TO:<box0+injected@elsewhere.test>\r\nRCPT TO:<box0%example.com@elsewhere.test>\r\n"
        b"RCPT TO:<@example.com:injected@elsewhere.test>\r\nDATA\r\n" + _MESSAGE
    )


def foreign_verbs(wire: Wire, rng: Random) -> None:
    """What is between the proxy and its upstreams alone."""
    wire.send(_EHLO + b"XCLIENT ADDR=192.0.2.1 NAME=trusted.example.com\r\n")
    wire.send(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\nAUTH PLAIN AGEAYg==\r\nXFORWARD NAME=x\r\n")
    wire.send(b"MAIL FROM:<injected@client.example.net>\r\nRCPT TO:<box4@example.com>\r\n")
    wire.send(b"XCLIENT ADDR=192.0.2.1\r\nAUTH LOGIN\r\nSTARTTLS\r\nTURN\r\nRSET\r\n")


def deaf(wire: Wire, rng: Random) -> None:
    """Asks and asks, and never reads."""
    wire.send(_EHLO + b"HELP\r\nVRFY box0\r\n" * rng.randint(10, 5_000))
    time.sleep(rng.uniform(0, 3))


def half_a_chunk(wire: Wire, rng: Random) -> None:
    """A chunk that is never filled, or a size that nobody has room for."""
    size = rng.choice((1_000, 50_000_000, 10**15, 10**40))
    wire.send(_EHLO + _ENVELOPE + b"BDAT %d LAST\r\n" % size + b"x" * rng.randint(0, 999))


def early_end(wire: Wire, rng: Random) -> None:
    """Leaves where the final dot is due."""
    end = rng.choice((b"\r\n", b"\r\n.", b"\r\n.\r", b"\n.\n", b"\r.\r", b"\n.\r\n"))
    wire.send(_EHLO + _ENVELOPE + b"DATA\r\n")
    wire.rest(0.5)
    wire.send(b"Subject: injected\r\n\r\nnot for you" + end)


def silence(wire: Wire, rng: Random) -> None:
    """Says nothing, or half a word."""
    wire.send(rng.choice((b"", b"E", _EHLO, _EHLO + b"MAIL FROM:<a@b")))
    time.sleep(rng.uniform(0, _PATIENCE))


def many_errors(wire: Wire, rng: Random) -> None:
    wire.send(_EHLO)
    for n in range(rng.randint(5, 40)):
        wire.send(b"VERB%d\r\n" % n)


WAYS: tuple[Callable[[Wire, Random], None], ...] = (
    noise,
    long_lines,
    early_tls,
    broken_handshake,
    injection,
    relay,
    foreign_verbs,
    deaf,
    half_a_chunk,
    early_end,
    silence,
    many_errors,
)


def attack(port: int, source: str, rng: Random, ledger: Ledger) -> None:
    """One session of one of these ways."""
    way = rng.choice(WAYS)
    limit = rng.randint(1, 2_000) if rng.random() < 0.3 else None
    wire: Wire | None = None
    try:
        wire = Wire(port, source, limit, rng.choice(LEAVING), 0.0)
        way(wire, rng)
        said = wire.rest(rng.uniform(0.05, _PATIENCE))
        if way is relay and b"\r\n354" in said:
            ledger.violation("open relay", f"{source} was told {said[-300:]!r}")
    except (Left, HungUp, NoAnswer):
        pass
    finally:
        if wire is not None:
            wire.close()
