"""An upstream that takes all mail, and says which messages it got: `python -m bench.sink OPTIONS`.

Beside SMTP it knows one command of its own, REPORT: the reply is a line of JSON with what came
since the last one (`Report`).
"""

from __future__ import annotations

import gc
import json
import os
import socket
import ssl
import sys
from dataclasses import asdict, dataclass, field

from bench.marks import Reading
from bench.wire import Connection, Loop


@dataclass(frozen=True, slots=True)
class Options:
    """`delay`: seconds from when a flight of commands came to its answer, as on a long way.
    `stall`: once it has said 354 it reads nothing more.  `chain` and `key`: files for STARTTLS.
    """

    port: int
    delay: float = 0.0
    stall: bool = False
    xclient: bool = False
    chain: str = ""
    key: str = ""


@dataclass(slots=True)
class Report:
    """`numbers`: of the messages that came whole.  `flights`: of each session that ended with
    QUIT, the commands that came together; only where there is a delay, since without one what
    comes together is chance."""

    sessions: int = 0
    numbers: list[int] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    flights: list[list[str]] = field(default_factory=list)


class Sink:
    """Listens, and sums up what the sessions take."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.loop = Loop()
        self.report = Report()
        self.context: ssl.SSLContext | None = None
        if options.chain:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(options.chain, options.key)
            self.context.num_tickets = 0  # with TLS 1.3, each handshake is a whole one
        xclient = ["XCLIENT NAME ADDR PORT PROTO HELO LOGIN"] if options.xclient else []
        self.offer = [*xclient, "PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES"]
        self._listening = socket.create_server(("127.0.0.1", options.port), backlog=4096)
        if options.stall:
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        self._listening.setblocking(False)
        self.loop.add(self._listening.fileno(), self._accept)

    def run(self) -> None:
        while True:
            self.loop.turn()

    def _accept(self, _: int) -> None:
        for _ in range(16):
            try:
                connection, _ = self._listening.accept()
            except BlockingIOError:
                return
            Session(self, connection)


class Session(Connection):
    """One client's."""

    def __init__(self, sink: Sink, connection: socket.socket) -> None:
        super().__init__(sink.loop, connection)
        self._sink = sink
        self._delay = sink.options.delay
        self._buffer = b""
        self._content: Reading | None = None
        self._secure = False
        self._late = False
        self._replies: list[bytes] = []
        self._flights: list[list[str]] = []
        if self._delay:
            self.pause()
            self.loop.after(self._delay, self._greet)
        else:
            self._greet()

    def _greet(self) -> None:
        if not self.closed:
            self.send(b"220 sink.test ESMTP\r\n")
            if self._delay:
                self.resume()

    def ready(self, events: int) -> None:
        if not self._delay:
            super().ready(events)
        elif not self._late:
            self._late = True
            self.pause()
            self.loop.after(self._delay, lambda: self._answer(events))

    def _answer(self, events: int) -> None:
        self._late = False
        if not self.closed:
            self._flights.append([])
            super().ready(events)
        if not self.closed:
            self.resume()

    def received(self, data: memoryview) -> None:
        rest: memoryview | None = data
        while rest is not None:
            if self._content is not None:
                rest = self._take(self._content, rest)
                continue
            line, found, after = (self._buffer + rest).partition(b"\n")
            if not found:
                self._buffer = line
                break
            self._buffer = b""
            rest = memoryview(after) if self._command(line.rstrip(b"\r")) else None
        if self._replies and not self.closed:
            self.send(b"".join(self._replies))
            self._replies.clear()

    def _take(self, message: Reading, data: memoryview) -> memoryview | None:
        if self._delay and not self._flights[-1]:
            self._flights[-1].append("content")
        rest = message.feed(data)
        if rest is not None:
            self._content = None
            report = self._sink.report
            if message.fault:
                report.faults.append(message.fault)
            elif message.number is not None:
                report.numbers.append(message.number)
            self._replies.append(b"250 2.0.0 taken\r\n")
        return rest

    def _command(self, line: bytes) -> bool:
        """Whether what came behind it counts."""
        verb = line[:4].upper()
        if self._delay:
            self._flights[-1].append(verb.decode("ascii", "replace"))
        if verb == b"QUIT":
            self._quit()
            return False
        if verb == b"REPO":
            self.send(json.dumps(asdict(self._sink.report)).encode() + b"\r\n")
            self._sink.report = Report()
            self.end()
            return False
        if verb == b"STAR" and self._sink.context:
            self.send(b"220 2.0.0 go\r\n")
            self._secure = True
            self.start_tls(self._sink.context, server=True)
            return False
        if verb == b"DATA":
            self._content = Reading()
            self._replies.append(b"354 go\r\n")
            if self._sink.options.stall:
                self.pause()
                return False
        elif verb == b"EHLO":
            self._replies.append(self._hello())
        elif verb == b"XCLI":
            self._replies.append(b"220 sink.test ESMTP\r\n")
        else:
            self._replies.append(b"250 2.0.0 Ok\r\n")
        return True

    def _hello(self) -> bytes:
        tls = ["STARTTLS"] if self._sink.context and not self._secure else []
        words = ["sink.test", *tls, *self._sink.offer]
        return "".join(
            f"250{' ' if word is words[-1] else '-'}{word}\r\n" for word in words
        ).encode()

    def _quit(self) -> None:
        """Closes first, so the TIME_WAIT is here and not at the proxy."""
        self.send(b"".join([*self._replies, b"221 2.0.0 bye\r\n"]))
        self._sink.report.sessions += 1
        if self._delay:
            self._sink.report.flights.append([" ".join(each) for each in self._flights])
        self.end()

    def ended(self) -> None:
        if self._content is not None and not self._sink.options.stall:
            self._sink.report.faults.append("a message that has no end")


if __name__ == "__main__":
    gc.disable()
    sink = Sink(Options(**json.loads(sys.argv[1])))
    os.write(1, b"ready\n")
    sink.run()
