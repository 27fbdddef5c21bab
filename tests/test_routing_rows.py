"""The columns of rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.routing import (
    COLUMNS,
    BadRow,
    Identity,
    Row,
    Server,
    Tls,
    Upstream,
    parse_row,
    parse_truth,
)

ONE, TWO = Server("one.test"), Server("two.test", 26)


def tls_of(**fields: str) -> Tls:
    return parse_row({"server": "one.test", **fields}).upstream.tls


def faults(**fields: str) -> list[tuple[str, str]]:
    with pytest.raises(BadRow) as caught:
        parse_row({"server": "one.test", **fields})
    return caught.value.faults


def test_a_server_is_enough():
    assert parse_row({"server": "one.test"}) == Row(Upstream((ONE,)))
    blank = dict.fromkeys(COLUMNS, " ")
    assert parse_row({**blank, "server": " one.test "}) == Row(Upstream((ONE,)))


def test_all_columns():
    row = parse_row(
        {
            "server": "one.test,two.test:26",
            "tls": "encrypt",
            "identity": "proxy2",
            "percent": "10",
            "shadow": "two.test:26*2,one.test*1",
            "note": "; anything \x00",
        }
    )
    shadow = (Server("two.test", 26, weight=2), Server("one.test", weight=1))
    assert row == Row(
        Upstream((ONE, TWO), Tls.ENCRYPT, Identity.PROXY2),
        10,
        Upstream(shadow, Tls.ENCRYPT, Identity.PROXY2),
    )


@pytest.mark.parametrize(
    ("fields", "tls"),
    [
        ({}, Tls.OFFERED),
        ({"tls_verify": "true"}, Tls.OFFERED),
        ({"tls_verify": "false"}, Tls.MAY),
        ({"tls": "none"}, Tls.NONE),
        ({"tls": "MAY"}, Tls.MAY),
        ({"tls": "encrypt"}, Tls.ENCRYPT),
        ({"tls": " Verify "}, Tls.VERIFY),
        ({"tls": "verify", "tls_verify": " "}, Tls.VERIFY),
        ({"tls": "", "tls_verify": "no"}, Tls.MAY),
    ],
)
def test_ways_of_tls(fields, tls):
    assert tls_of(**fields) is tls


@pytest.mark.parametrize("identity", list(Identity))
def test_identities(identity):
    for text in (identity.value, identity.value.upper()):
        row = parse_row({"server": "one.test", "identity": text})
        assert row.upstream.identity is identity


@pytest.mark.parametrize(
    ("text", "percent"),
    [("", 100), ("0", 0), ("100", 100), (" 7 % ", 7), ("007", 7), ("50%", 50)],
)
def test_percentages(text, percent):
    assert parse_row({"server": "one.test", "percent": text}).percent == percent


@pytest.mark.parametrize(
    ("column", "text", "hint"),
    [
        ("server", "", "no server; give host"),
        ("server", "a b", "'a b' is not a host name"),
        ("tls_verify", "maybe", "'maybe' is not a truth value; give true or false"),
        ("tls", "always", "'always' is not a way of TLS; give none, may, encrypt, verify"),
        ("tls", "verify where offered", "is not a way of TLS"),
        ("tls", "offered", "is not a way of TLS"),
        ("identity", "proxy", "'proxy' is not an identity; give auto, xclient, proxy1, proxy2"),
        ("percent", "101", "'101' is not a percentage; give a whole number from 0 to 100"),
        ("percent", "-1", "is not a percentage"),
        ("percent", "1.5", "is not a percentage"),
        ("percent", "%", "is not a percentage"),
        ("percent", "٧", "is not a percentage"),
        ("percent", "9" * 5000, "is not a percentage"),
        ("shadow", "a,,b", "no server"),
        ("shadow", "a:0", "'0' is not a port"),
    ],
)
def test_a_column_that_is_wrong(column, text, hint):
    [(where, words)] = faults(**{column: text})
    assert where == column
    assert hint in words
    assert "\n" not in words


def test_all_that_is_wrong_is_told_at_once():
    found = faults(server="", tls_verify="x", tls="may", percent="x", shadow=",")
    assert [column for column, _ in found] == ["server", "tls_verify", "percent", "shadow", "tls"]
    assert found[-1] == ("tls", "stands beside tls_verify; leave one of the two empty")


def test_a_unix_socket_cannot_be_verified():
    for row in ({"server": "lmtp:unix:/a"}, {"server": "a", "shadow": "unix:/a"}):
        [(column, words)] = faults(tls="verify", **row)
        assert column == "tls"
        assert "no certificate can be for a Unix socket" in words


@given(st.dictionaries(st.sampled_from(list(COLUMNS)), st.text(max_size=8), max_size=7))
def test_any_row_is_one_or_is_bad(fields):
    try:
        row = parse_row(fields)
    except BadRow as error:
        columns = {column for column, _ in error.faults}
    else:
        columns = {"server"}
        assert row.upstream.servers
        assert 0 <= row.percent <= 100
    assert columns
    assert columns <= set(COLUMNS)


@pytest.mark.parametrize(
    ("text", "truth"),
    [("true", True), ("Yes", True), ("1", True), ("", True), ("FALSE", False), ("no", False)],
)
def test_truth(text, truth):
    assert parse_truth(text) is truth
    assert parse_truth("0") is False
