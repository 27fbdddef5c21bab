"""The servers behind the proxies, and what they say they got."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.sink import Options
from tests.support.postfix import Postfix, Settings
from tests.support.processes import DidNotHappen, Process, greeting, wait_until

PATIENCE = 60.0  # seconds until all messages must have come


class Lost(Exception):
    """A message did not arrive, or not as it was sent, or twice."""


class Sink:
    """Our own (`bench.sink`), which checks each message."""

    def __init__(self, options: Options, folder: Path) -> None:
        self.port = options.port
        text = json.dumps(asdict(options))
        self._process = Process([sys.executable, "-m", "bench.sink", text], folder / "sink.log")
        _wait_for_greeting(self._process, self.port)

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop(seconds=5)

    def report(self) -> dict[str, Any]:
        """What came since the last one: see `bench.sink.Report`."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            with connection.makefile("rwb") as lines:
                lines.readline()
                lines.write(b"REPORT\r\n")
                lines.flush()
                said: dict[str, Any] = json.loads(lines.readline())
                return said

    def expect(self, numbers: range) -> None:
        """Wait until all of these messages came; raises `Lost` where more or less did."""
        came: list[int] = []
        faults: list[str] = []

        def look() -> bool:
            report = self.report()
            came.extend(report["numbers"])
            faults.extend(report["faults"])
            return len(came) + len(faults) >= len(numbers)

        try:
            wait_until(look, PATIENCE, f"{len(numbers)} messages")
        except DidNotHappen:
            faults.append(f"{len(came)} of {len(numbers)} messages came")
        check(numbers, came, faults)


class SmtpSink:
    """Postfix's smtp-sink(1), which counts the messages."""

    def __init__(self, port: int, xclient: bool, folder: Path) -> None:
        self.port = port
        self._count = 0
        self._log = folder / "smtp-sink.log"
        self._log.write_bytes(b"")
        # -c: count; -a, -N: no AUTH and no DSN, as our own; -C: no XCLIENT.
        options = ["-c", "-a", "-N", "-m", "1000", *([] if xclient else ["-C"])]
        if os.getuid() == 0:
            options += ["-u", "nobody"]
        self._process = Process(["smtp-sink", *options, f"127.0.0.1:{port}", "1000"], self._log)
        _wait_for_greeting(self._process, port)

    def __enter__(self) -> SmtpSink:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop(seconds=5)

    def expect(self, count: int) -> None:
        """Wait until so many messages more came; raises `Lost` where more or less did."""
        self._count += count
        with suppress(DidNotHappen):
            wait_until(lambda: self._counted() >= self._count, PATIENCE, f"{count} messages")
        counted = self._counted()
        if counted != self._count:
            came, self._count = count + counted - self._count, counted
            raise Lost(f"{count} messages were sent, {came} came")

    def _counted(self) -> int:
        with self._log.open("rb") as log:
            log.seek(max(self._log.stat().st_size - 200, 0))
            found = re.findall(rb"mesg= *(\d+)", log.read())
        return int(found[-1]) if found else 0


def real_postfix(folder: Path, sink: int) -> Postfix:
    """A Postfix that takes XCLIENT, and sends all on to the sink."""
    settings = Settings(mailboxes=("nobody@elsewhere.test",), relay=f"127.0.0.1:{sink}")
    return Postfix(folder, settings)


def check(numbers: range, came: Iterable[int], faults: Iterable[str] = ()) -> None:
    """Raises `Lost` unless each of the numbers came once, and nothing else."""
    counts = Counter(came)
    said = list(faults)
    said += [f"message {number} was lost" for number in numbers if number not in counts]
    said += [f"message {n} came {times} times" for n, times in counts.items() if times > 1]
    said += [f"message {number} was never sent" for number in counts if number not in numbers]
    if said:
        more = f" and {len(said) - 3} faults more" if len(said) > 3 else ""
        raise Lost("; ".join(said[:3]) + more)


def _wait_for_greeting(process: Process, port: int) -> None:
    try:
        process.wait_for(lambda: greeting(port).startswith(b"220"), "its greeting")
    except DidNotHappen:
        process.stop()
        raise
