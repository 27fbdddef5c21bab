"""A session of the checking upstream (`server`), in a thread of its own."""

from __future__ import annotations

import re
import socket
import ssl
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import BinaryIO, NoReturn, Protocol

ORDERED = "as the soak wants it"  # in what it refuses of its own will
_NO_MAIL = "503 5.5.1 MAIL first"  # what a refused MAIL has the rest of its flight answered
_MARK = re.compile(rb"^X-Soak: (\d+)", re.MULTILINE)
_PATH = re.compile(r"(?:FROM|TO):<([^>]*)>")
_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


@dataclass(frozen=True, slots=True)
class Options:
    """`whims`: how often it has one at a stage of a message, of 1.  `proxy`: there must be a header
    of the PROXY protocol, version 2.  `trace`: the message begins with a `Received:` line.
    """

    name: str
    port: int
    folder: str
    seed: str
    whims: float = 0.0
    offer: tuple[str, ...] = ()
    lmtp: bool = False
    xclient: bool = False
    proxy: bool = False
    chain: str = ""
    key: str = ""


class Gone(Exception):
    """The session is over."""


class Host(Protocol):
    """The server as its sessions know it."""

    options: Options
    rng: Random
    context: ssl.SSLContext | None

    def store(self, envelopes: list[dict[str, str | None]], content: bytes) -> None: ...


class Session:
    """One peer's, in a thread of its own."""

    def __init__(self, server: Host, connection: socket.socket) -> None:
        self._server = server
        self._options = server.options
        self._rng = server.rng
        self._socket = connection
        self._in: BinaryIO = connection.makefile("rb")
        self._client: str | None = None  # its address
        self._state = "new"
        self._secure = False
        self._sender = ""
        self._recipients: list[str] = []
        self._prdr = False
        self._content = b""

    def run(self) -> None:
        with suppress(Gone, OSError, ValueError), self._socket:
            if self._options.proxy:
                self._header()
            self._say(f"220 {self._options.name} ready")
            while line := self._in.readline(10_000):
                self._command(line)

    def _header(self) -> None:
        """Who the client is, by HAProxy's proxy-protocol.txt, section 2.2."""
        head = self._read(16)
        if not head.startswith(_SIGNATURE):
            self._fault(f"no PROXY header: {head!r}")
        rest = self._read(int.from_bytes(head[14:16], "big"))
        if head[12] == 0x21:
            self._client = socket.inet_ntoa(rest[:4])

    # Commands

    def _command(self, octets: bytes) -> None:
        line = octets.decode("ascii", "replace")
        if not line.endswith("\r\n"):
            raise Gone  # the peer went inside a command
        words = line.rstrip("\r\n").split(" ")
        verb = words[0]
        match verb:
            case "EHLO" | "LHLO":
                if (verb == "LHLO") != self._options.lmtp:
                    self._fault(f"said {verb}")
                self._clear()
                self._hello()
            case "STARTTLS":
                self._start_tls()
            case "XCLIENT":
                self._xclient(words[1:])
            case "MAIL":
                self._mail(line)
            case "RCPT":
                self._rcpt(line)
            case "DATA":
                self._data()
            case "BDAT":
                self._bdat(words)
            case "RSET":
                self._clear()
                self._say("250 2.0.0 Ok")
            case "NOOP":
                self._say("250 2.0.0 Ok")
            case "QUIT":
                self._say("221 2.0.0 Bye")
                raise Gone
            case _:
                self._fault(f"unknown command {line!r}")

    def _hello(self) -> None:
        lines = [self._options.name, *self._options.offer]
        if self._server.context and not self._secure:
            lines.append("STARTTLS")
        if self._options.xclient:
            lines.append("XCLIENT NAME ADDR PORT PROTO HELO")
        self._state = "hello"
        self._say("\r\n".join([*(f"250-{line}" for line in lines[:-1]), f"250 {lines[-1]}"]))

    def _start_tls(self) -> None:
        if self._server.context is None or self._secure:
            self._fault("STARTTLS where it was not offered")
        self._say("220 2.0.0 Go ahead")
        self._in.close()
        self._socket = self._server.context.wrap_socket(self._socket, server_side=True)
        self._in = self._socket.makefile("rb")
        self._secure = True
        self._state = "new"

    def _xclient(self, words: list[str]) -> None:
        if not self._options.xclient:
            self._fault("XCLIENT where it was not offered")
        for word in words:
            name, _, value = word.partition("=")
            if name == "ADDR":
                self._client = value
        self._state = "new"
        self._say(f"220 {self._options.name} ready")

    def _mail(self, line: str) -> None:
        if self._state != "hello":
            self._fault(f"{line!r} in state {self._state}")
        self._whim()
        self._sender = self._path(line)
        self._prdr = line.rstrip().endswith(" PRDR")
        if self._prdr and "PRDR" not in self._options.offer:
            self._fault("PRDR where it was not offered")
        if (self._options.xclient or self._options.proxy) and self._client is None:
            self._fault("MAIL for a client that was not named")
        if self._rng.random() < self._options.whims / 2:
            self._say(f"450 4.3.2 Not now, {ORDERED}")
            return
        self._state = "mail"
        self._say("250 2.1.0 Ok")

    def _rcpt(self, line: str) -> None:
        self._whim()
        if self._state != "mail":
            self._say(_NO_MAIL)
            return
        if self._rng.random() < self._options.whims:
            code = self._rng.choice(("450 4.2.1", "550 5.1.1"))
            self._say(f"{code} Not this one, {ORDERED}")
            return
        self._recipients.append(self._path(line))
        self._say("250 2.1.5 Ok")

    def _path(self, line: str) -> str:
        found = _PATH.search(line)
        if found is None:
            self._fault(f"no address: {line!r}")
        return found[1]

    # Content

    def _data(self) -> None:
        self._whim()
        if not self._recipients:
            self._say("554 5.5.1 No valid recipients")
            return
        if self._rng.random() < self._options.whims:
            self._clear()
            self._say(f"451 4.3.0 No content now, {ORDERED}")
            return
        self._say("354 Go ahead")
        lines: list[bytes] = []
        leave = 5 if self._rng.random() < self._options.whims else -1  # in the middle of it
        while (line := self._in.readline()) != b".\r\n":
            if not line or len(lines) == leave:
                raise Gone
            if line.endswith(b"\n") and not line.endswith(b"\r\n"):
                self._fault("a bare LF in the content")
            lines.append(line.removeprefix(b"."))
        self._end(b"".join(lines))

    def _bdat(self, words: list[str]) -> None:
        if "CHUNKING" not in self._options.offer:
            self._fault("BDAT where it was not offered")
        self._content += self._read(int(words[1]))
        self._whim()
        if not self._recipients:
            self._clear()
            self._say(_NO_MAIL)
            return
        if words[2:] == ["LAST"]:
            self._end(self._content)
        else:
            self._say("250 2.0.0 Ok")

    def _read(self, size: int) -> bytes:
        octets = self._in.read(size)
        if len(octets) < size:
            raise Gone
        return octets

    def _end(self, content: bytes) -> None:
        """The message came whole: take it, or have a whim."""
        rng, whims = self._rng, self._options.whims
        found = _MARK.search(content)
        number = int(found[1]) if found else None
        self._whim()
        if rng.random() < whims:
            time.sleep(rng.uniform(0.1, 3))
        refused = f"{rng.choice(('452 4.3.1', '554 5.7.1'))} Not this message, {ORDERED}"
        each = self._options.lmtp or self._prdr
        takes = [rng.random() >= whims for _ in self._recipients]
        if not each:
            takes = takes[:1] * len(takes)
        envelopes: list[dict[str, str | None]] = [
            {"recipient": recipient, "sender": self._sender, "client": self._client}
            for recipient, take in zip(self._recipients, takes, strict=True)
            if take
        ]
        self._server.store(envelopes, content)
        self._whim()
        replies = [f"250 2.0.0 took {number}" if take else refused for take in takes]
        if self._prdr:
            replies = ["353 One by one", *replies, f"250 2.0.0 took {number}"]
        elif not each:
            replies = replies[:1]
        self._clear()
        self._say("\r\n".join(replies))

    def _clear(self) -> None:
        if self._state == "mail":
            self._state = "hello"
        self._recipients = []
        self._content = b""

    # What it says

    def _whim(self) -> None:
        """Now and then, hang up or dawdle."""
        rng, whims = self._rng, self._options.whims
        if rng.random() < whims / 3:
            raise Gone
        if rng.random() < whims / 3:
            time.sleep(rng.uniform(0.05, 1))

    def _say(self, text: str) -> None:
        octets = f"{text}\r\n".encode()
        if self._rng.random() < self._options.whims:
            for place in range(len(octets)):
                self._socket.sendall(octets[place : place + 1])
        else:
            self._socket.sendall(octets)

    def _fault(self, text: str) -> NoReturn:
        sys.stderr.write(f"FAULT: {text}\n")
        sys.stderr.flush()
        raise Gone
