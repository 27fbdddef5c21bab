"""What a client does in a session, by lot: the same for the same seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from soak.contents import KINDS

DOMAINS = ("example.com", "example.net", "example.org", "example.test", "store.test")
BOXES = 8  # in each domain; the later half is moved between upstreams
MAILBOXES = tuple(f"box{n}@{domain}" for domain in DOMAINS for n in range(BOXES))

# How many octets a body has at most, and how often.
_SIZES = ((4_000, 70), (64_000, 24), (500_000, 5), (4_000_000, 1))
LEAVING = ("reset", "close", "half close")


@dataclass(frozen=True, slots=True)
class Mail:
    """One message.  `chunks`: by how many BDAT it is sent, 0: by DATA.  `missing`: how many octets
    of its end are not sent, since the client leaves there; 0: it leaves behind the end, None: it
    stays.
    """

    kind: str
    size: int
    mailboxes: tuple[str, ...]
    null_sender: bool
    chunks: int
    prdr: bool
    missing: int | None


@dataclass(frozen=True, slots=True)
class Visit:
    """One session.  `fuse`: the client leaves when it has sent so many octets.  `pause`: seconds
    between two small blocks of what a slow client sends.
    """

    source: str
    helo: str
    lmtp: bool
    tls: bool
    pipelining: str  # "no", "envelope", or "all": also behind the message before
    fuse: int | None
    leaving: str
    pause: float
    mails: tuple[Mail, ...]


def lot(*words: object) -> Random:
    """Where chance comes from: the same for the same words."""
    return Random("/".join(map(str, words)))  # noqa: S311 (no secret)


def source(rng: Random) -> str:
    """An address of loopback to come from."""
    return f"127.{rng.randint(1, 9)}.{rng.randint(0, 255)}.{rng.randint(1, 254)}"


def visit(rng: Random, big: bool = True) -> Visit:
    """`big`: there may be messages of megabytes."""
    slow = rng.random() < 0.03
    lmtp = rng.random() < 0.2
    tls = not lmtp and rng.random() < 0.4
    mails = tuple(
        _mail(rng, lmtp, big and not slow) for _ in range(rng.choices((1, 2, 6), (7, 3, 1))[0])
    )
    octets = sum(mail.size + 200 for mail in mails)
    return Visit(
        source=source(rng),
        helo=f"c{rng.randrange(1000)}.client.example.net",
        lmtp=lmtp,
        tls=tls,
        pipelining=rng.choice(("no", "envelope", "all")),
        fuse=rng.randint(1, octets) if rng.random() < 0.06 else None,
        leaving=rng.choice(LEAVING),
        pause=rng.uniform(0.005, 0.05) if slow else 0.0,
        mails=mails,
    )


def _mail(rng: Random, lmtp: bool, big: bool) -> Mail:
    sizes = _SIZES if big else _SIZES[:1]
    most = rng.choices([most for most, _ in sizes], [often for _, often in sizes])[0]
    count = rng.choices((1, 2, 5), (6, 3, 1))[0]
    one_domain = rng.random() < 0.5
    boxes = rng.sample(MAILBOXES, count)
    if one_domain:
        domain = rng.choice(DOMAINS)
        boxes = [f"box{n}@{domain}" for n in rng.sample(range(BOXES), count)]
    return Mail(
        kind=rng.choice(KINDS),
        size=int(most * rng.random() ** 2) + 1,
        mailboxes=tuple(boxes),
        null_sender=rng.random() < 0.15,
        chunks=rng.choices((0, 1, 3), (6, 2, 1))[0],
        prdr=not lmtp and rng.random() < 0.4,
        missing=_missing(rng) if rng.random() < 0.08 else None,
    )


def _missing(rng: Random) -> int:
    """Often all but the very end, where it hurts the most."""
    return rng.randint(0, 6) if rng.random() < 0.7 else int(3_000 * rng.random())
