"""A small mail server for the demo: takes mail, says who sent it, and refuses one word.

On the proxy's own wire core, with a thread for each connection; it speaks XCLIENT to
whoever asks, as nobody but the demo does.
"""

from __future__ import annotations

import re
import socket
import socketserver
from pathlib import Path
from typing import Any

from smtpproxy.smtp.commands import Hello, Mail, Plain, Rcpt, Verb
from smtpproxy.smtp.replies import Reply
from smtpproxy.smtp.server import Content, EndOfContent, Event, Refusal, ServerConnection
from smtpproxy.smtp.states import State
from smtpproxy.values import value

REFUSED_WORD = b"virus"

_PATIENCE = 300.0  # seconds to wait for a client
_XCLIENT = re.compile(rb"XCLIENT (.*)\r\n")
_EXTENSIONS = ("PIPELINING", "8BITMIME", "ENHANCEDSTATUSCODES", "XCLIENT NAME ADDR PORT PROTO HELO")


@value
class Judged:
    """A message that came whole: who the client is said to be, what it sent, what it was told."""

    client: str
    recipients: tuple[str, ...]
    content: bytes
    reply: Reply


class SmallServer(socketserver.ThreadingTCPServer):
    """Listens on a free port of 127.0.0.1; `serve_forever` in a thread, `shutdown` from another.

    `judged` are the messages that came; each is a file in `folder` too.
    """

    daemon_threads = True

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.name = name
        self.folder = folder
        self.judged: list[Judged] = []

    @property
    def address(self) -> str:
        host, port = self.server_address[:2]
        return f"{host!s}:{port}"

    def judge(self, client: str, recipients: tuple[str, ...], content: bytes) -> Reply:
        number = len(self.judged) + 1
        (self.folder / f"{self.name}-{number}.eml").write_bytes(content)
        if REFUSED_WORD in content:
            reply = Reply.of(554, "5.7.1", f"{self.name} takes no message with a virus")
        else:
            reply = Reply.of(250, "2.0.0", f"queued as {self.name}-{number}, client {client}")
        self.judged.append(Judged(client, recipients, content, reply))
        return reply


class _Conversation(socketserver.BaseRequestHandler):
    """One connection."""

    server: SmallServer
    request: Any  # a socket

    def setup(self) -> None:
        self._core = ServerConnection()
        self._client = str(self.client_address[0])
        self._recipients: list[str] = []
        self._content = bytearray()

    def handle(self) -> None:
        self.request.settimeout(_PATIENCE)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._say(self._greeting)
            while self._core.state is not State.ENDED:
                event = self._core.next_event()
                if event is not None:
                    self._say(self._answer(event))
                elif data := self.request.recv(1 << 16):
                    self._take(data)
                else:
                    return
        except OSError:
            return  # the client is gone

    @property
    def _greeting(self) -> Reply:
        return Reply.of(220, "", f"{self.server.name}.test ESMTP a small server")

    def _take(self, data: bytes) -> None:
        match = _XCLIENT.fullmatch(data)
        if match is None or self._core.state not in (State.GREETED, State.READY):
            self._core.receive(data)
            return
        for attribute in match[1].decode("ascii", "replace").split():
            name, _, value = attribute.partition("=")
            if name == "ADDR":
                self._client = value
        self._say(self._greeting)

    def _say(self, reply: Reply | None) -> None:
        if reply is not None:
            self.request.sendall(self._core.reply(reply))

    def _answer(self, event: Event) -> Reply | None:
        match event:
            case Refusal(_, reply):
                return reply
            case Hello():
                return Reply.of(250, "", f"{self.server.name}.test", *_EXTENSIONS)
            case Mail():
                self._recipients.clear()
                self._content.clear()
                return Reply.of(250, "2.1.0", "Ok")
            case Rcpt(recipient):
                self._recipients.append(str(recipient))
                return Reply.of(250, "2.1.5", "Ok")
            case Plain(Verb.DATA):
                return Reply.of(354, "", "Go on, and end with a dot")
            case Content(data):
                self._content += data
                return None
            case EndOfContent():
                content = re.sub(rb"(?m)^\.", b"", bytes(self._content))  # RFC 5321 4.5.2
                return self.server.judge(self._client, tuple(self._recipients), content)
            case Plain(Verb.QUIT):
                return Reply.of(221, "2.0.0", "Bye")
            case Plain(Verb.STARTTLS):
                return Reply.of(502, "5.5.1", "No TLS here")
        return Reply.of(250, "2.0.0", "Ok")
