"""Clients that send without a pause, and know of each message what became of it."""

from __future__ import annotations

import threading
from smtplib import SMTP, SMTPException
from time import sleep

PATIENCE = 60.0  # seconds
PAUSE = 0.01  # seconds before who was turned away comes again


class Steady:
    """`clients` threads that send to `port` from `with` on, one message after the other.

    Each message has a name of its own, as its subject.  One that was not taken is sent again.
    `taken` are those that got a 250, `unanswered` those whose end was sent and got no answer: they
    may have arrived or not.  `refused` is how often nobody listened.
    """

    def __init__(self, port: int, recipient: str, clients: int = 4, size: int = 20_000) -> None:
        self.taken: list[str] = []
        self.unanswered: list[str] = []
        self.refused = 0
        self._port = port
        self._recipient = recipient
        self._filler = b"".join(b"%076d\r\n" % number for number in range(size // 78))
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(number,)) for number in range(clients)
        ]

    def __enter__(self) -> Steady:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let each client end the message that it is at."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, client: int) -> None:
        number = 0
        name = f"{client}-{number}"
        while not self._over.is_set():
            try:
                with SMTP("127.0.0.1", self._port, timeout=PATIENCE) as connection:
                    while not self._over.is_set() and self._send(connection, name):
                        number += 1
                        name = f"{client}-{number}"
                        if number % 5 == 0:
                            break
            except ConnectionRefusedError:
                self.refused += 1
                sleep(PAUSE)
            except (OSError, SMTPException):
                if name in self.unanswered:
                    number += 1
                    name = f"{client}-{number}"
                sleep(PAUSE)

    def _send(self, connection: SMTP, name: str) -> bool:
        """Whether it was taken; raises where the connection is of no more use."""
        connection.ehlo_or_helo_if_needed()
        for command in ("MAIL FROM:<sender@example.net>", f"RCPT TO:<{self._recipient}>"):
            if connection.docmd(command)[0] != 250:
                raise SMTPException(command)
        if connection.docmd("DATA")[0] != 354:
            raise SMTPException("DATA")
        connection.send(f"Subject: {name}\r\n\r\n".encode() + self._filler)
        self.unanswered.append(name)
        connection.send(b".\r\n")
        code, _ = connection.getreply()
        self.unanswered.remove(name)
        if code != 250:
            raise SMTPException(code)
        self.taken.append(name)
        return True
