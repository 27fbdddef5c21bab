"""Targets that are about who a client is: what we say of one, and what others may say to us."""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import ip_address

from smtpproxy.mail import Client, Peer
from smtpproxy.smtp import xclient
from smtpproxy.smtp.proxy_header import (
    MAX_BLOCK,
    BadHeader,
    Header,
    HeaderReader,
    version1,
    version2,
)
from smtpproxy.upstream.handshake import attributes
from tests.support.wire import Chunks, byte_by_byte, cut, held, whole

ANNOUNCED = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
LINE = re.compile(rb"XCLIENT((?: [A-Z]+=(?:[!-*,-<>-~]|\+[0-9A-F]{2})*)+)\r\n")


def fuzz_said(step: int, options: int, data: bytes) -> None:
    """`xclient.commands`: each value is one word, in lines that are not too long."""
    name, helo, login, *_ = (*data.decode("utf-8", "surrogateescape").split("\0"), "", "", "")
    client = Client(Peer("192.0.2.9", 40000, "2001:db8::1", 25), name, helo, True, login)
    said = attributes(client)
    heard: dict[str, str] = {}
    for line in xclient.commands(said, ANNOUNCED):
        assert len(line) <= xclient.MAX_COMMAND
        words = LINE.fullmatch(line)
        assert words, line
        for word in words[1].decode().split():
            key, _, value = word.partition("=")
            octets = re.sub(r"\+(..)", lambda it: chr(int(it[1], 16)), value).encode("latin-1")
            heard[key] = octets.decode("utf-8", "surrogateescape")
    assert heard == {key: said[key] for key in heard}
    assert {"ADDR", "PORT", "PROTO", "DESTADDR", "DESTPORT"} <= heard.keys()


def fuzz_introduction(step: int, options: int, data: bytes) -> None:
    """`xclient.read`: what is taken is printable, and is taken again as we would say it."""
    verb = "XFORWARD" if options & 1 else "XCLIENT"
    try:
        said = xclient.read(verb, data.decode("utf-8", "replace"))
    except xclient.BadAttributes:
        return
    for name, value in said.items():
        assert value.isprintable()
        assert not name.endswith("ADDR") or not value or str(ip_address(value)) == value
        assert not name.endswith("PORT") or not value or 0 <= int(value) < 65536
    addressed = {
        name: f"IPV6:{value}" if name.endswith("ADDR") and ":" in value else value
        for name, value in said.items()
        if value
    }
    for line in xclient.commands(addressed, ANNOUNCED) if verb == "XCLIENT" else ():
        again = xclient.read(verb, line.decode().removeprefix("XCLIENT ").removesuffix("\r\n"))
        assert again == {name: said[name] for name in again}


def fuzz_header(step: int, options: int, data: bytes) -> None:
    """`HeaderReader`: the same however it comes, bounded, and what it says can be said on."""
    ways = whole(data), byte_by_byte(data), cut(data, range(step, len(data), max(step, 1)))
    found = [header(chunks) for chunks in ways]
    assert found.count(found[0]) == len(found)
    reader = HeaderReader()
    with suppress(BadHeader):
        for _ in range(options):  # again and again
            if reader.feed(data) is not None:
                break
    assert held(reader) < MAX_BLOCK + len(data) + 2000
    if found[0] is None or found[0].ends is None:
        return
    source, destination = found[0].ends
    assert data.endswith(found[0].rest)
    for address, port in (source, destination):
        assert not address or str(ip_address(address)) == address
        assert 0 <= port < 65536
    for write in (version1, version2):
        again = header([write(source, destination) + b"EHLO x\r\n"])
        assert again == Header((source, destination) if source[0] else None, b"EHLO x\r\n")


def header(chunks: Chunks) -> Header | None:
    """The header, with all that is behind it; None where there is none, or not all of it."""
    reader = HeaderReader()
    for number, chunk in enumerate(chunks):
        try:
            found = reader.feed(chunk)
        except BadHeader:
            return None
        if found is not None:
            return Header(found.ends, found.rest + b"".join(chunks[number + 1 :]))
        assert held(reader) < MAX_BLOCK + 2000
    return None
