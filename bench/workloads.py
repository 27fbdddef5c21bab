"""What is measured: the workloads, and the ways that proxies are set up for them."""

from __future__ import annotations

from dataclasses import dataclass

KB, MB = 1024, 1 << 20
DOMAINS = 20_000  # of the database's rows


@dataclass(frozen=True, slots=True)
class Ways:
    """How proxies, clients and upstream are set up for the workloads of a group.

    `clients_tls`: the kind of the proxies' key, "ecdsa" (P-256) or "rsa" (2048 bits), "" for
    no TLS.  `delay`: seconds the upstream takes to answer.  `postfix`: the upstream is a real one,
    which sends on to the sink.
    """

    clients_tls: str = ""
    upstream_tls: bool = False
    xclient: bool = False
    delay: float = 0.0
    postfix: bool = False


@dataclass(frozen=True, slots=True)
class Workload:
    """`source`: the load is smtp-source's, and the sink smtp-sink; else both are our own.

    Our own then sends the same once more, with messages that are checked one by one, and has the
    times of the sessions.  `per_session`, `size` and `pipelining` as in `load.Plan`.
    `recipient` has {} where the number of the message stands, if at all; there are `numbers` of
    them, 0: any.  `variants`: not of the rivals, but of smtpproxy in several set-ups, those of this
    name.  `reused`: also with connections to the upstream that are used again, and made ahead.
    `least`: seconds of a round, where the usual ones are too short.
    """

    name: str
    title: str
    ways: Ways = Ways()
    source: bool = False
    parallel: int = 20
    per_session: int = 1
    size: int = KB
    pipelining: str = "no"
    recipient: str = "user@example.com"
    numbers: int = 0
    variants: str = ""
    reused: bool = False
    least: float = 0.0


PLAIN = Ways()

WORKLOADS = (
    Workload(
        "one-1",
        "1 KB, one message per session, one at a time",
        source=True,
        parallel=1,
        least=1.5,  # one session of a hundred is to be seen, and not only the first of a process
    ),
    Workload("one-20", "1 KB, one message per session, 20 parallel", source=True),
    Workload("one-100", "1 KB, one message per session, 100 parallel", source=True, parallel=100),
    Workload("many", "1 KB, 20 messages per session, 20 parallel", per_session=20),
    Workload(
        "many-pipelined",
        "the same, pipelined also from message to message",
        per_session=20,
        pipelining="all",
    ),
    Workload(
        "pipelining",
        "1 KB, one per session, MAIL, RCPT and DATA pipelined, 20 parallel",
        pipelining="envelope",
    ),
    Workload("50kb", "50 KB, one per session, 20 parallel", source=True, size=50 * KB),
    Workload("10mb", "10 MB, one per session, 2 parallel", parallel=2, size=10 * MB),
    Workload("tls-ecdsa", "STARTTLS from clients, ECDSA P-256, 20 parallel", Ways("ecdsa")),
    Workload("tls-rsa", "STARTTLS from clients, RSA 2048, 20 parallel", Ways("rsa")),
    Workload(
        "tls-up", "STARTTLS to the upstream, 20 parallel", Ways(upstream_tls=True), reused=True
    ),
    Workload("tls-both", "STARTTLS on both sides, ECDSA, 20 parallel", Ways("ecdsa", True)),
    Workload("xclient", "XCLIENT to the upstream, 20 parallel", Ways(xclient=True), source=True),
    Workload("postfix", "XCLIENT to a real Postfix, 20 parallel", Ways(xclient=True, postfix=True)),
    Workload(
        "slow",
        "an upstream that takes 5 ms to answer, 20 parallel",
        Ways(delay=0.005),
        reused=True,
    ),
    Workload("all-on", "1 KB, one per session, 20 parallel", source=True, variants="all-on"),
    Workload(
        "cold",
        "the same, each recipient of another domain",
        recipient="user@customer{}.test",
        numbers=DOMAINS,
        variants="mappings",
    ),
    Workload(
        "warm",
        "the same, all recipients of one domain",
        recipient="user@customer7.test",
        variants="mappings",
    ),
    Workload(
        "workers",
        "1 KB, one per session, 100 parallel, half a core for each worker",
        source=True,
        parallel=100,  # so that one worker and two are as busy; a worker at rest finds cold caches
        variants="workers",
        least=1.5,  # many of the periods that a quota is of
    ),
)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the sessions stop; `goal`: octets."""

    name: str
    title: str
    hold: str
    goal: int
    tls: bool = False


STAGES = (
    Stage("hello", "after EHLO", "hello", 5_000),
    Stage("both", "with both connections (after RCPT)", "recipient", 10_000),
    Stage("tls", "after STARTTLS and EHLO, ECDSA", "hello", 18_000, tls=True),
    Stage("stalled", "inside the content, the upstream takes none", "content", 128 << 10),
)
