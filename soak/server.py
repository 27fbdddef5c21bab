"""An upstream that checks what it is told: `python -m soak.server OPTIONS`.

What it takes is a file in `folder`/new, in one step, before it says so: it may be killed at any
time.  A line of JSON with the envelope stands in front of the content.  A peer that does what it
must not has a line in the log that begins with FAULT.  Now and then it has whims: it refuses, is
slow, or hangs up, at any stage.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import ssl
import sys
import threading
from pathlib import Path
from random import Random

from soak.serving import Options, Session

_TIME = 120.0


class Server:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.rng = Random(options.seed)  # noqa: S311 (no secret)
        self.context: ssl.SSLContext | None = None
        if options.chain:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(options.chain, options.key)
        self._new = Path(options.folder, "new")
        self._tmp = Path(options.folder, "tmp")
        self._numbers = itertools.count()
        for folder in (self._new, self._tmp):
            folder.mkdir(parents=True, exist_ok=True)
        self._listening = socket.create_server(("127.0.0.1", options.port), backlog=512)

    def run(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            connection.settimeout(_TIME)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=Session(self, connection).run, daemon=True).start()

    def store(self, envelopes: list[dict[str, str | None]], content: bytes) -> None:
        """A file for each recipient."""
        files = []
        for envelope in envelopes:
            name = f"{os.getpid()}-{next(self._numbers)}"
            (self._tmp / name).write_bytes(json.dumps(envelope).encode() + b"\n" + content)
            files.append(name)
        for name in files:
            (self._tmp / name).rename(self._new / name)


if __name__ == "__main__":
    Server(Options(**json.loads(sys.argv[1]))).run()
