"""Networks, as the settings list them."""

from __future__ import annotations

import pytest

from smtpproxy.networks import Networks


@pytest.mark.parametrize(
    ("texts", "inside", "outside"),
    [
        (["192.0.2.0/24"], ["192.0.2.0", "192.0.2.255", "::ffff:192.0.2.7"], ["192.0.3.1", ""]),
        (["192.0.2.7"], ["192.0.2.7"], ["192.0.2.6", "192.0.2.8"]),
        (["2001:db8::/32", "::1"], ["2001:db8:1::2", "::1"], ["2001:db9::1", "192.0.2.1", "::2"]),
        (["0.0.0.0/0"], ["192.0.2.7", "255.255.255.255"], ["2001:db8::1", ""]),
        (["::/0"], ["2001:db8::1"], ["192.0.2.7", ""]),
        (["unix"], [""], ["192.0.2.7", "::1"]),
        (["unix", "192.0.2.0/25", "192.0.2.200"], ["", "192.0.2.127", "192.0.2.200"], ["::1"]),
        ([], [], ["", "192.0.2.7", "::1"]),
    ],
)  # fmt: skip
def test_who_is_inside(texts: list[str], inside: list[str], outside: list[str]) -> None:
    networks = Networks(texts)
    assert [each for each in inside if each not in networks] == []
    assert [each for each in outside if each in networks] == []
    assert bool(networks) is bool(texts)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("192.0.2.1/24", 'did you mean "192.0.2.0/24", or "192.0.2.1" alone?'),
        ("2001:db8::1/32", 'did you mean "2001:db8::/32", or "2001:db8::1" alone?'),
        ("192.0.2.0/33", "is no network"),
        ("192.0.2", "is no network"),
        ("localhost", "is no network"),
        ("fe80::1%eth0", "is no network"),
        ("", "is no network"),
        ("UNIX", "is no network"),
        ("::ffff:192.0.2.0/120", "write IPv4 addresses in their own form"),
    ],
)
def test_what_is_none(text: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:
        Networks([text])
    assert said in str(raised.value)
