"""A small mail server in threads, for the real proxy: it takes mail, and says who it is."""

from __future__ import annotations

import socket
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import BinaryIO, Self

TIME = 60.0  # seconds that a session may take for a line


class MailServer:
    """Takes all mail but that for those it `refuses`; any number of sessions.

    `extensions` are those that it announces, in whatever session comes next.  `said` are the
    commands it got, `messages` the contents, with their final dots.  While `hangs_up` is set, it
    takes a message and goes without a word.
    """

    def __init__(
        self,
        name: str,
        refuses: Collection[str] = (),
        extensions: Sequence[str] = (),
        port: int = 0,
    ) -> None:
        """It listens on `port`, or on a free one."""
        self.name = name
        self.extensions = extensions
        self.said: list[str] = []
        self.messages: list[bytes] = []
        self.hangs_up = False
        self._refuses = refuses
        self._listening = socket.create_server(("127.0.0.1", port))
        self.server = f"127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                connection.settimeout(TIME)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            connection.sendall(f"220 {self.name}\r\n".encode())
            while octets := lines.readline():
                line = octets.decode().rstrip("\r\n")
                self.said.append(line)
                connection.sendall(f"{self._reply(line)}\r\n".encode())
                if line == "DATA":
                    if (content := _content(lines)) is None:
                        return
                    self.messages.append(content)
                    if self.hangs_up:
                        return
                    connection.sendall(f"250 taken by {self.name}\r\n".encode())
                elif line == "QUIT":
                    return

    def _reply(self, line: str) -> str:
        if line.startswith("RCPT") and line[line.index("<") + 1 : -1] in self._refuses:
            return f"550 5.1.1 not known to {self.name}"
        if line.startswith("EHLO"):
            *front, last = (self.name, *self.extensions)
            return "".join(f"250-{each}\r\n" for each in front) + f"250 {last}"
        return {"DATA": "354 go", "QUIT": "221 bye"}.get(line, f"250 {self.name}")


def _content(lines: BinaryIO) -> bytes | None:
    """Up to the final dot; None where the client has gone before it."""
    read = []
    while (line := lines.readline()) != b".\r\n":
        if not line:
            return None
        read.append(line)
    return b"".join(read)
