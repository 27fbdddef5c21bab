"""A name server for the real proxy, in a thread: it is dead until it gets records."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any, Self

from twisted.names import dns


class NameServer:
    """`records` are those of each name and type; without any, nobody is answered."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], Any] = {}
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        while not self._stopped:
            octets, peer = self._socket.recvfrom(4096)
            with suppress(EOFError):
                message = dns.Message()
                message.fromStr(octets)
                (query,) = message.queries
                name = query.name.name.decode().lower()
                self.asked.append(name)
                if self.records:
                    self._answer(message, name, query.type)
                    self._socket.sendto(message.toStr(), peer)

    def _answer(self, message: Any, name: str, kind: int) -> None:
        message.answer = 1
        record = self.records.get((name, kind))
        if record is None:
            message.rCode = dns.ENAME
        else:
            message.answers = [dns.RRHeader(name.encode(), kind, dns.IN, 60, record)]
