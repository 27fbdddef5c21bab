"""What lies in mailboxes: read, written down, and taken out where it is right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from soak.contents import digest, marked
from soak.ledger import Copy, Ledger

# What servers put in front of a message.
_FIELD = rb"(?:Return-Path|X-Original-To|Delivered-To|Envelope-To|Delivery-Date|Received): "
_TRACE = re.compile(rb"(?:%b[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*" % _FIELD, re.IGNORECASE)
_RECIPIENT = re.compile(rb"^(?:X-Original-To|Envelope-To): (\S+)\r\n", re.MULTILINE | re.IGNORECASE)
_SENDER = re.compile(rb"^Return-Path: <(\S*)>\r\n", re.MULTILINE | re.IGNORECASE)
_ID = re.compile(rb"\bid (\S+?)[;\s]")
_CLIENT = re.compile(rb"\A(?:.*\r\n)*?Received: from \S+ \([^)]*\[([\d.]+)\]\)")

Read = Callable[[str, bytes], Copy]


def of_server(named: bool) -> Read:
    """Of a server that delivers to maildirs; `named`: it was told who the client is."""

    def read(upstream: str, octets: bytes) -> Copy:
        number, front, content = marked(octets.replace(b"\n", b"\r\n"))
        client = _CLIENT.match(front) if named else None
        return Copy(
            number,
            _first(_RECIPIENT, front) or "?",
            upstream,
            digest(content) if _TRACE.fullmatch(front) else b"",
            sender=_first(_SENDER, front),
            client=client[1].decode() if client else None,
            id=_first(_ID, front),
        )

    return read


def of_ours(trace: bool) -> Read:
    """Of `soak.server`; `trace`: the proxy puts a `Received:` line in front."""

    def read(upstream: str, octets: bytes) -> Copy:
        envelope, _, message = octets.partition(b"\n")
        told = json.loads(envelope)
        number, front, content = marked(message)
        client = told["client"]
        fits = not front
        if trace:
            found = _CLIENT.match(front)
            client = found[1].decode() if found else "?"
            fits = front.count(b"Received: ") == 1 and _TRACE.fullmatch(front) is not None
        return Copy(
            number,
            told["recipient"],
            upstream,
            digest(content) if fits else b"",
            sender=told["sender"],
            client=client,
        )

    return read


class Mailboxes:
    """Those of one upstream: the files of this `pattern` in `folder`.

    What is wrong is kept in the folder `wrong`.
    """

    def __init__(self, upstream: str, folder: Path, pattern: str, read: Read, wrong: Path) -> None:
        self._upstream = upstream
        self._folder = folder
        self._pattern = pattern
        self._read = read
        self._wrong = wrong

    def collect(self, ledger: Ledger) -> int:
        """Take out all there is; how much it was."""
        count = 0
        for path in self._folder.glob(self._pattern):
            count += 1
            if ledger.found(self._read(self._upstream, path.read_bytes())):
                path.unlink()
            else:
                self._wrong.mkdir(exist_ok=True)
                path.rename(self._wrong / f"{self._upstream}-{path.name}")
        return count


def _first(pattern: re.Pattern[bytes], text: bytes) -> str | None:
    found = pattern.search(text)
    return found[1].decode("ascii", "replace") if found else None
