"""Clients that send mail, each as fast as it is answered: `python -m bench.load PLAN`.

Says how long it took as JSON (`Done`), or what went wrong and exits 1.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from bench.marks import END, body, header
from bench.wire import Connection, Loop

PATIENCE = 60.0  # seconds without anything until it gives up
STALLED = 1.0  # seconds without anything when a proxy takes no more content


@dataclass(frozen=True, slots=True)
class Plan:
    """What the clients do.

    `parallel` sessions at a time, with `per_session` messages each, until `messages` are sent;
    their numbers begin at `first`.  `size`: octets of a body.  `pipelining`: "no" (each command
    waits for its reply), "envelope" (MAIL, RCPT and DATA go together) or "all" (also behind the
    message before).  `recipient` has {} where the number of a message stands, if at all.
    `hold`: the sessions stay open, all of them, after "hello", "recipient" or inside the
    "content"; the clients then say so and wait for SIGTERM.
    """

    port: int
    messages: int
    parallel: int = 1
    per_session: int = 1
    size: int = 1024
    pipelining: str = "no"
    tls: bool = False
    recipient: str = "user@example.com"
    recipients: int = 1
    first: int = 0
    hold: str = ""


@dataclass(frozen=True, slots=True)
class Done:
    """`seconds` for all, and for each session, from connecting to the reply to QUIT."""

    seconds: float
    sessions: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Flight:
    """What is sent together, and the codes of the replies to it."""

    parts: tuple[bytes, ...]
    codes: tuple[bytes, ...]
    then_tls: bool = False


class Failed(Exception):
    """A reply was not the one that it must be, or did not come."""


def flights(plan: Plan, numbers: range) -> Iterator[Flight]:
    """One session with these messages."""
    hello = Flight((b"EHLO client.example.net\r\n",), (b"250",))
    yield Flight((), (b"220",))
    yield hello
    if plan.tls:
        yield Flight((b"STARTTLS\r\n",), (b"220",), then_tls=True)
        yield hello
    if plan.hold == "hello":
        return
    before = Flight((), ())
    for number in numbers:
        recipient = plan.recipient.format(number).encode()
        commands = [
            b"MAIL FROM:<sender@example.net>\r\n",
            *([b"RCPT TO:<%s>\r\n" % recipient] * plan.recipients),
            b"DATA\r\n",
        ]
        codes = [b"250"] * (len(commands) - 1) + [b"354"]
        if plan.hold == "recipient":
            del commands[-1], codes[-1]
        if plan.pipelining == "no":
            if before.codes:
                yield before
            for command, code in zip(commands, codes, strict=True):
                yield Flight((command,), (code,))
        elif plan.pipelining == "all" or not before.codes:
            yield Flight((*before.parts, b"".join(commands)), (*before.codes, *codes))
        else:
            yield before
            yield Flight((b"".join(commands),), tuple(codes))
        content = (header(number, plan.size), body(plan.size), END)
        small = plan.size < 1 << 16
        before = Flight((b"".join(content),) if small else content, (b"250",))
    if plan.hold == "recipient":
        return
    yield before
    yield Flight((b"QUIT\r\n",), (b"221",))


class Client(Connection):
    """One session."""

    def __init__(self, clients: Clients, numbers: range) -> None:
        self.start = time.monotonic()
        self._clients = clients
        self._buffer = b""
        self._flights = flights(clients.plan, numbers)
        self._codes: list[bytes] = []
        connection = socket.socket()
        if clients.plan.hold == "content":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        connection.connect(("127.0.0.1", clients.plan.port))
        super().__init__(clients.loop, connection)
        self._flight = next(self._flights)

    def received(self, data: memoryview) -> None:
        lines = (self._buffer + data).split(b"\n")
        self._buffer = lines.pop()
        for line in lines:
            if line[3:4] == b"-":
                continue
            expected = self._flight.codes[len(self._codes) : len(self._codes) + 1]
            if not expected or line[:3] != expected[0]:
                sent = self._flight.parts[-1][:80] if self._flight.parts else b"(connecting)"
                raise Failed(f"{sent!r} was answered {line!r}")
            self._codes.append(line[:3])
        if len(self._codes) == len(self._flight.codes):
            self._codes.clear()
            self._next()

    def secured(self) -> None:
        self._next()

    def ended(self) -> None:
        raise Failed(f"the connection ended after {self._flight.parts[-1:]!r:.80}")

    def _next(self) -> None:
        if self._flight.then_tls and not self._secure:
            self.start_tls(self._clients.context)
            return
        flight = next(self._flights, None)
        if flight is None:
            self._clients.finished(self)
        else:
            self._flight = flight
            self.send(*flight.parts)

    @property
    def _secure(self) -> bool:
        return isinstance(self._socket, ssl.SSLSocket)


class Clients:
    """All sessions of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.loop = Loop()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE
        self._seconds: list[float] = []
        self._held: list[Client] = []
        self._open = 0

    def run(self) -> Done:
        """Hold all sessions; raises `Failed`."""
        plan = self.plan
        numbers = iter(range(plan.first, plan.first + plan.messages, plan.per_session))
        start = self.loop.progress = time.monotonic()
        patience = STALLED if plan.hold == "content" else PATIENCE
        more = True
        while more or self._open:
            while more and self._open < plan.parallel:
                first = next(numbers, None)
                if first is None:
                    more = False
                    break
                last = min(first + plan.per_session, plan.first + plan.messages)
                self._open += 1
                client = Client(self, range(first, last))
                if plan.hold:
                    self._held.append(client)
            if self._open:
                self.loop.turn()
            if time.monotonic() - self.loop.progress > patience:
                if plan.hold == "content" and all(client.stuck for client in self._held):
                    break
                raise Failed(f"nothing came for {patience:g} s")
        return Done(time.monotonic() - start, tuple(round(each, 6) for each in self._seconds))

    def finished(self, client: Client) -> None:
        self._open -= 1
        if not self.plan.hold:
            self._seconds.append(time.monotonic() - client.start)
            client.close()


def main(text: str) -> int:
    plan = Plan(**json.loads(text))
    try:
        done = Clients(plan).run()
    except (Failed, OSError) as failure:
        sys.stderr.write(f"{failure}\n")
        return 1
    os.write(1, json.dumps(asdict(done)).encode() + b"\n")
    if plan.hold:
        signal.sigwait({signal.SIGTERM})
    return 0


if __name__ == "__main__":
    gc.disable()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sys.exit(main(sys.argv[1]))
