"""What is a name, and what is an address."""

from __future__ import annotations

import pytest

from smtpproxy.dns import is_address
from smtpproxy.dns.names import clean
from tests.support.dns_server import HOSTILE


@pytest.mark.parametrize(
    ("host", "expected"),
    [("192.0.2.1", True), ("2001:db8::1", True), ("[::1]", False), ("mx1.test", False)],
)
def test_is_address(host, expected):
    assert is_address(host) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [(b"MX_1.Example.COM.", "mx_1.example.com"), (b"localhost", "localhost"), (b"2.a", "2.a")],
)
def test_clean(name, expected):
    assert clean(name) == expected


@pytest.mark.parametrize("name", [*HOSTILE, b".", b"a..b", b"2001:db8::1", b"a" * 64])
def test_what_is_no_host_name(name):
    assert clean(name) == ""
