"""Durations, sizes, addresses and names as texts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.config.values import (
    Address,
    parse_address,
    parse_dns_server,
    parse_domain,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("1.5h", 5400.0),
        ("30 s", 30.0),
        (" 30s ", 30.0),
        ("7d", 604800.0),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds
    assert type(parse_duration(text)) is float


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("30", 'write "30s" for seconds'),
        ("0", "has no unit"),
        ("0s", "longer than zero"),
        ("-1s", "longer than zero"),
        ("8d", 'at most "7d"'),
        ("999999999999999d", 'at most "7d"'),
        ("5min", "use ms, s, m, h or d"),
        ("5M", "use ms, s, m, h or d"),
        ("s", "is not a duration"),
        ("", "is not a duration"),
        ("1h30m", "is not a duration"),
        ("1e3s", "is not a duration"),
        ("nans", "is not a duration"),
        ("٣s", "is not a duration"),
    ],
)
def test_texts_that_are_no_durations(text, says):
    with pytest.raises(ValueError, match=says):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("1024", 1024),
        ("1", 1),
        ("10B", 10),
        ("50MiB", 50 * 2**20),
        ("50mib", 50 * 2**20),
        ("50 MiB", 50 * 2**20),
        ("50MB", 50_000_000),
        ("3KiB", 3072),
        ("3kB", 3000),
        ("3KB", 3000),
        ("2GiB", 2**31),
        ("2GB", 2_000_000_000),
        ("1.5KiB", 1536),
    ],
)
def test_sizes(text, octets):
    assert parse_size(text) == octets


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("50M", "use KiB, MiB, GiB"),
        ("50MBit", "use KiB, MiB, GiB"),
        ("0", "at least one octet"),
        ("-1MiB", "at least one octet"),
        ("0.1", "at least one octet"),
        ("", "is not a size"),
        ("1_000", "is not a size"),
        ("MiB", "is not a size"),
    ],
)
def test_texts_that_are_no_sizes(text, says):
    with pytest.raises(ValueError, match=says):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:2525", Address("127.0.0.1", 2525)),
        ("[::1]:2525", Address("::1", 2525)),
        ("[0:0::1]:2525", Address("::1", 2525)),
        (":25", Address("", 25)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("unix:/run/smtp", Address(path="/run/smtp")),
        ("unix:run/a:b", Address(path="run/a:b")),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("25", 'as in ":25"'),
        ("127.0.0.1", 'as in "127.0.0.1:25"'),
        ("[::1]", r'as in "\[::1\]:25"'),
        ("", "has no port"),
        ("127.0.0.1:", "is not a port"),
        (":smtp", "is not a port"),
        (":65536", "is not a port"),
        (":-1", "is not a port"),
        ("*:25", "without the star"),
        ("::1:25", "needs brackets"),
        ("::1", "needs brackets"),
        ("localhost:25", "write 127.0.0.1"),
        ("mail.example.com:25", "is not an IP address"),
        ("[127.0.0.1]:25", "is not an IPv6 address"),
        ("300.0.0.1:25", "is not an IP address"),
        ("systemd:", "is no name of a socket"),
        ("systemd:a:b", "is no name of a socket"),
        ("unix:", "the path is missing"),
        ("unix:/a\nb", "control characters"),
        ("unix:/" + "x" * 107, "107 octets"),
    ],
)
def test_texts_that_are_no_addresses(text, says):
    with pytest.raises(ValueError, match=says):
        parse_address(text)


@pytest.mark.parametrize(
    "text", ["192.0.2.53", "192.0.2.53:5353", "2001:db8::53", "[2001:db8::53]", "[2001:db8::53]:53"]
)
def test_name_servers(text):
    assert parse_dns_server(text) == text


@pytest.mark.parametrize(
    "text", ["", "dns.example.com", "192.0.2.53:", "192.0.2.53:0", "192.0.2.53:x", "[192.0.2.53]"]
)
def test_texts_that_are_no_name_servers(text):
    with pytest.raises(ValueError):
        parse_dns_server(text)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("mx.example.net", "mx.example.net"),
        ("mx.example.net.", "mx.example.net"),
        ("localhost", "localhost"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
    ],
)
def test_domains(text, domain):
    assert parse_domain(text) == domain


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("192.0.2.1", r'as "\[192.0.2.1\]"'),
        ("bücher.example", "ASCII form"),
        ("a_b.example", "is no domain name"),
        ("a..b", "is no domain name"),
        ("-a.example", "is no domain name"),
        ("mx.example.net\r\n", "is no domain name"),
        ("a" * 64, "is no domain name"),
        (".".join(["a" * 60] * 5), "is no domain name"),
        ("[300.0.0.1]", "is not an IP address"),
        (".", "is no domain name"),
    ],
)
def test_texts_that_are_no_domains(text, says):
    with pytest.raises(ValueError, match=says):
        parse_domain(text)


@pytest.mark.parametrize(
    "parse", [parse_duration, parse_size, parse_address, parse_dns_server, parse_domain]
)
@given(text=st.text(max_size=40) | st.from_regex(r"[0-9a-f:.*\[\]]{0,20}(:.{0,6})?"))
def test_any_text_gives_a_value_or_a_fault_of_one_line(parse, text):
    said = ""
    try:
        parse(text)
    except ValueError as error:
        said = f"{type(error).__name__}: {error}"
    assert not said or said.startswith("ValueError: ")
    assert said.splitlines() == ([said] if said else [])
