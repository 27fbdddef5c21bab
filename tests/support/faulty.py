"""An upstream in memory that does one thing wrong, once, at one stage of its first connection.

All that it says for itself has its own words: `fine` of what it takes, `trouble` of what it
refuses, so that a reply that the client gets tells whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from OpenSSL import SSL
from twisted.internet.task import Clock

from smtpproxy.tls import ClientTls
from tests.support.certificates import self_signed
from tests.support.dialogue import MemoryTransport
from tests.support.scripted import path, unstuffed
from tests.support.wire import byte_by_byte


@dataclass(eq=False)  # two alike are two
class Received:
    """A message, from the upstream's 354 or the first chunk on."""

    recipients: list[str]
    chunks: bool
    content: bytes = b""  # without the dots that are stuffed
    ended: bool = False
    taken: int = 0  # how often the upstream said so: with LMTP, for each recipient


Fault = Callable[["FaultyUpstream", bytes], object]


class FaultyUpstream:
    """One connection's other end; `act` answers what came.

    `fault` is what happens in place of the answer at `stage`, "" for nowhere.
    """

    def __init__(
        self,
        transport: MemoryTransport,
        clock: Clock,
        extensions: Sequence[str],
        *,
        lmtp: bool = False,
        stage: str = "",
        fault: Fault = lambda *_: None,
    ) -> None:
        """Where TRUSTED is among `extensions`, it offers STARTTLS and then XCLIENT."""
        self.transport = transport
        self.clock = clock
        self.messages: list[Received] = []
        self.said = 0  # octets
        self.most = 1 << 40  # octets that it says before `fault` happens, wherever that is
        self.drips = False  # it says each octet by itself
        self.useless = False  # it listens no more, and nothing may be said to it but QUIT
        self.behind = b""  # what it was told from then on
        self._extensions = extensions
        self._lmtp = lmtp
        self._stage = stage
        self._fault = fault
        self._seen: set[str] = set()  # stages
        self._held: bytes | None = None  # what is to be said behind what comes slowly
        self._buffer = b""
        self._secured = self._introduced = self._mail = False
        self._recipients: list[str] = []
        self._message: Received | None = None
        self._chunk: int | None = None  # octets of it that are to come
        self._last = False
        transport.on_tls = self._start_tls

    # What faults are made of.

    def say(self, data: bytes) -> None:
        if self._held is not None:
            self._held += data
            return
        data = data[: self.most - self.said]
        self.said += len(data)
        for piece in byte_by_byte(data) if self.drips else [data]:
            self.transport.deliver(piece)
        if self.said == self.most:
            self._fault(self, b"")

    def later(self, seconds: float, call: Callable[..., object], *arguments: object) -> None:
        self.clock.callLater(seconds, call, *arguments)

    def hold(self) -> None:
        """What is said from now on waits for `go_on`."""
        self._held = b""

    def go_on(self, data: bytes) -> None:
        held, self._held = self._held or b"", None
        self.say(data + held)

    # What came.

    def act(self) -> bool:
        """Answer it; tell whether there was anything to do."""
        said, self.transport.said = bytes(self.transport.said), bytearray()
        if self.useless:
            self.behind += said
            return False
        self._buffer += said
        busy = bool(said) or not self._seen
        if not self._seen:
            self._answer("greeting", "220 fine")
        while not self.useless and self._take():
            pass
        return busy

    def _take(self) -> bool:
        if self._chunk is not None:
            return self._take_chunk()
        if self._message is not None and not self._message.chunks:
            return self._take_content(self._message)
        line, end, self._buffer = self._buffer.partition(b"\r\n")
        if not end:
            self._buffer = line
            return False
        self._command(line.decode())
        return True

    def _take_content(self, message: Received) -> bool:
        content, end, rest = (b"\r\n" + self._buffer).partition(b"\r\n.\r\n")
        message.content = unstuffed(content[2:] + end[:2])
        if end:
            self._buffer = rest
            self._end(message)
        elif self._buffer and self._is_stage("content"):
            self._fault(self, b"")
        return bool(end)

    def _take_chunk(self) -> bool:
        assert self._chunk is not None
        part, self._buffer = self._buffer[: self._chunk], self._buffer[self._chunk :]
        self._chunk -= len(part)
        if self._message is not None:
            self._message.content += part
        if self._chunk:
            return False
        self._chunk = None
        if self._message is None:
            self.say(b"503 trouble\r\n")
        elif self._last:
            self._end(self._message)
        elif not self._answer("a part", "250 fine"):
            self._message = None
        return True

    def _end(self, message: Received) -> None:
        self._message, message.ended = None, True
        self._mail, self._recipients = False, []
        stages = ["last part" if message.chunks else "end of the message"]
        if self._lmtp:
            stages += ["further end"] * (len(message.recipients) - 1)
        for stage in stages:
            if not self.useless and self._answer(stage, "250 fine"):
                message.taken += 1

    def _command(self, line: str) -> None:
        verb = re.split("[ :]", line)[0]
        if verb == "BDAT":
            _, size, *last = line.split()
            self._chunk, self._last = int(size), bool(last)
            if self._message is None and self._recipients:
                self._begin(chunks=True)
        elif verb in ("EHLO", "LHLO", "HELO"):
            stage = "EHLO over TLS" if self._secured else "EHLO"
            stage = "EHLO behind XCLIENT" if self._introduced else stage
            self._answer(stage, "250 fine", [] if verb == "HELO" else self._announced())
        elif verb == "XCLIENT":
            self._introduced = True
            self._answer("last XCLIENT" if " ADDR=" in line else "XCLIENT", "220 fine")
        elif verb == "MAIL":
            again = "MAIL" in self._seen
            self._mail = self._answer("next MAIL" if again else "MAIL", "250 fine")
        elif verb == "RCPT":
            self._rcpt(path(line))
        elif verb == "DATA":
            if not self._recipients:
                self.say(b"554 trouble\r\n")
            elif self._answer("DATA", "354 fine"):
                self._begin(chunks=False)
        else:
            reply = {"STARTTLS": "220 fine", "QUIT": "221 fine"}.get(verb, "250 fine")
            if self._answer(verb, reply) and verb == "RSET":
                self._mail, self._recipients = False, []

    def _announced(self) -> list[str]:
        named = [each for each in self._extensions if each != "TRUSTED"]
        if named != self._extensions and not self._introduced:
            xclient = "XCLIENT NAME HELO PROTO PORT ADDR"
            return [*named, xclient] if self._secured else [*named, "STARTTLS"]
        return named

    def _rcpt(self, recipient: str) -> None:
        if not self._mail:
            self.say(b"503 trouble\r\n")
        elif self._answer(
            "further RCPT" if "first RCPT" in self._seen else "first RCPT", "250 fine"
        ):
            self._recipients.append(recipient)

    def _begin(self, chunks: bool) -> None:
        self._message = Received(self._recipients, chunks)
        self.messages.append(self._message)

    def _start_tls(self, creator: ClientTls) -> None:
        self._secured = True
        if self._is_stage("TLS handshake"):
            self._fault(self, b"")
        else:
            self.later(0, self._shake_hands, shaken(creator))

    def _shake_hands(self, connection: SSL.Connection) -> None:
        if self.transport.open:
            self.transport.shake_hands(connection)

    # What is said.

    def _answer(self, stage: str, reply: str, more: Sequence[str] = ()) -> bool:
        """Answer at that stage, or do what is wrong there; True where it is taken all the same."""
        *front, last = reply, *more
        lines = [*(f"{reply[:3]}-{each.removeprefix(reply[:4])}" for each in front)]
        lines.append(f"{reply[:4]}{last.removeprefix(reply[:4])}")
        usual = "".join(f"{line}\r\n" for line in lines).encode()
        if self._is_stage(stage):
            return bool(self._fault(self, usual))
        self.say(usual)
        return True

    def _is_stage(self, stage: str) -> bool:
        """This is where the fault is; it happens once."""
        first = stage not in self._seen
        self._seen.add(stage)
        return first and stage == self._stage


# TLS


def shaken(creator: ClientTls) -> SSL.Connection:
    """The client's side of a handshake, with a certificate that nobody vouches for."""
    client = creator.clientConnectionForTLS(None)
    server = SSL.Connection(_server_context(), None)
    server.set_accept_state()
    for _ in range(3):
        for end, other in ((client, server), (server, client)):
            with suppress(SSL.WantReadError):
                end.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(end.bio_read(1 << 16))
    return client


@cache
def _server_context() -> SSL.Context:
    with TemporaryDirectory() as folder:
        certificate = self_signed(Path(folder), "mx1.test")
        context = SSL.Context(SSL.TLS_METHOD)
        context.use_certificate_chain_file(str(certificate.chain))
        context.use_privatekey_file(str(certificate.key))
    return context
