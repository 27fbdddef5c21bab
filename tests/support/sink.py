"""An upstream that takes a message, and reads its content only when it may."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self


class Sink:
    """Says yes to every command of one session, in a thread of its own.

    After its 354, when it is `waiting`, it reads nothing until `go` is called. `content` is what
    came then, up to the end of mail data, with it. `ended`: the session is over.
    """

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.server = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.content = bytearray()
        self.waiting = False
        self.ended = False
        self._may_read = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def go(self) -> None:
        self._may_read.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.go()
        self._listening.close()
        self._thread.join(10)

    def _serve(self) -> None:
        with suppress(ConnectionResetError):
            self._session()
        self.ended = True

    def _session(self) -> None:
        connection, _ = self._listening.accept()
        connection.settimeout(60)
        with connection, connection.makefile("rb") as stream:
            connection.sendall(b"220 sink.test ESMTP\r\n")
            for line in stream:
                if line.upper().startswith(b"DATA"):
                    connection.sendall(b"354 Go ahead\r\n")
                    self.waiting = True
                    self._may_read.wait(60)
                    while not self.content.endswith(b"\r\n.\r\n"):
                        block = stream.read1(1 << 20)
                        if not block:
                            return
                        self.content += block
                connection.sendall(b"250 2.0.0 Ok\r\n")
