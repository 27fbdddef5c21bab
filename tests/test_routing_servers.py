"""Servers as administrators write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.routing import Upstream, parse_server


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("mx.example.net", "mx.example.net", 25),
        ("mx.example.net:2525", "mx.example.net", 2525),
        (" MX.Example.NET. ", "mx.example.net", 25),
        ("mx.example.net.:26", "mx.example.net", 26),
        ("localhost:1", "localhost", 1),
        ("mail_store.test:65535", "mail_store.test", 65535),
        ("192.0.2.1", "192.0.2.1", 25),
        ("192.0.2.1:2600", "192.0.2.1", 2600),
        ("[2001:db8::1]", "2001:db8::1", 25),
        ("[2001:DB8:0::1]:26", "2001:db8::1", 26),
        ("2001:db8::1", "2001:db8::1", 25),
        ("::1", "::1", 25),
        ("bücher.example:26", "xn--bcher-kva.example", 26),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example", 25),
    ],
)
def test_a_server_is_host_and_port(text, host, port):
    assert parse_server(text) == (host, port)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "give host, host:port, [IPv6] or [IPv6]:port"),
        ("  ", "no server"),
        (":25", "is not a server"),
        ("mx.example.net:", "'' is not a port"),
        ("mx.example.net:smtp", "'smtp' is not a port; give a number from 1 to 65535"),
        ("mx.example.net:0", "'0' is not a port"),
        ("mx.example.net:65536", "'65536' is not a port"),
        ("mx.example.net:-1", "'-1' is not a port"),
        ("mx.example.net:٢٥", "is not a port"),
        ("mx.example.net:25:25", "is not an IPv6 address"),
        ("smtp://mx.example.net", "is not a port"),
        ("[mx.example.net]:25", "'mx.example.net' is not an IPv6 address"),
        ("[2001:db8::1", "is not a server"),
        ("[2001:db8::1]25", "is not a server"),
        ("[]", "'' is not an IPv6 address"),
        ("fe80::1%eth0", "has a zone"),
        ("192.0.2.300", "is not an IPv4 address"),
        ("192.0.2", "is not an IPv4 address"),
        ("mx example.net", "is not a host name"),
        ("mx..example.net", "is not a host name"),
        ("-mx.example.net", "is not a host name"),
        ("user@mx.example.net", "is not a host name"),
        ("mx.example.net\r\nQUIT", "is not a host name"),
        ("a" * 64 + ".test", "is not a host name"),
        ("a." * 127 + "test", "is not a host name"),
    ],
)
def test_what_is_no_server_is_told_what_one_is(text, hint):
    with pytest.raises(ValueError) as caught:
        parse_server(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@given(
    st.text(max_size=40) | st.from_regex(r"\[?[0-9a-f:.]{1,20}\]?(:[0-9]{0,6})?", fullmatch=True)
)
def test_any_text_is_a_server_or_a_value_error(text):
    try:
        host, port = parse_server(text)
    except ValueError:
        return
    assert parse_server(str(Upstream(host, port))) == (host, port)


def test_an_upstream_is_written_as_it_is_read():
    assert str(Upstream("mx.example.net")) == "mx.example.net:25"
    assert str(Upstream("2001:db8::1", 26)) == "[2001:db8::1]:26"


def test_upstreams_are_equal_by_host_port_and_tls_ways():
    upstream = Upstream(*parse_server("mx.example.net"))
    assert upstream == Upstream(*parse_server("MX.example.net.:25"))
    assert upstream != Upstream("mx.example.net", 26)
    assert upstream != Upstream("mx.example.net", 25, tls_verify=False)
