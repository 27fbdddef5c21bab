"""Queries with one placeholder, and rows of any types."""

from __future__ import annotations

import datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.routing import LookupFailed, Row, Tls, Upstream
from smtpproxy.routing.servers import Server
from smtpproxy.routing.sql import (
    MYSQL,
    SQLITE,
    keyed_query,
    keyless_query,
    names_of,
    row_of,
)


@pytest.mark.parametrize(
    ("query", "mysql", "sqlite"),
    [
        ("SELECT s WHERE p = ?", "SELECT s WHERE p = %s", "SELECT s WHERE p = ?"),
        ("SELECT s WHERE p = %s", "SELECT s WHERE p = %s", "SELECT s WHERE p = ?"),
        ("LIKE '10%' AND p = ?", "LIKE '10%%' AND p = %s", "LIKE '10%' AND p = ?"),
        ("a % 2 = 0 AND p=?;", "a %% 2 = 0 AND p=%s;", "a % 2 = 0 AND p=?;"),
        ("a %score AND p = ?", "a %%score AND p = %s", "a %score AND p = ?"),
        ("x = '?' AND p = ?", "x = '?' AND p = %s", "x = '?' AND p = ?"),
        ("x = '%s' AND p = ?", "x = '%%s' AND p = %s", "x = '%s' AND p = ?"),
        ("x = 'it''s ?' AND p = ?", "x = 'it''s ?' AND p = %s", "x = 'it''s ?' AND p = ?"),
        ('"a?" = `b?` AND p = ?', '"a?" = `b?` AND p = %s', '"a?" = `b?` AND p = ?'),
        ("-- why?\np = ?", "-- why?\np = %s", "-- why?\np = ?"),
        ("/* why?\n % */ p = ?", "/* why?\n %% */ p = %s", "/* why?\n % */ p = ?"),
        ("%? %", "%%%s %%", "%? %"),
    ],
)
def test_the_one_placeholder_becomes_the_drivers(query, mysql, sqlite):
    assert keyed_query(query, MYSQL) == mysql
    assert keyed_query(query, SQLITE) == sqlite


def test_what_the_two_dialects_read_differently():
    assert keyed_query(r"x = 'a\'?' AND p = ?", MYSQL) == r"x = 'a\'?' AND p = %s"
    assert keyed_query(r"x = 'a\' AND p = ?", SQLITE) == r"x = 'a\' AND p = ?"
    assert keyed_query("# why?\np = ?", MYSQL) == "# why?\np = %s"
    assert keyed_query("[a?] = ?", SQLITE) == "[a?] = ?"
    assert keyed_query("1--1 = ?", MYSQL) == "1--1 = %s"  # no comment there


@pytest.mark.parametrize("dialect", [MYSQL, SQLITE])
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "there is no ? in it"),
        ("SELECT server FROM routes", "write one for what is looked up, as in SELECT server FROM"),
        ("SELECT s WHERE p = '?'", "the ? is in quotes or in a comment; write it bare"),
        ("SELECT s WHERE p = '%s'", "write it bare"),
        ("SELECT s -- ?", "in a comment"),
        ("SELECT s WHERE p = ? OR q = ?", "there are 2 ? in it; write one"),
        ("SELECT s WHERE p = ? OR q = %s", "there are 2 ?"),
        ("SELECT 'a WHERE p = ?", 'what begins at "\'a WHERE p = ?" has no end'),
        ("SELECT `a WHERE p = ?", "has no end"),
    ],
)
def test_any_other_query_is_refused_with_what_would_be_right(dialect, query, said):
    with pytest.raises(ValueError) as caught:
        keyed_query(query, dialect)
    assert said in str(caught.value)


def test_a_query_without_a_key_stays_as_it_is():
    assert keyless_query("SELECT s WHERE x LIKE 'a%'", MYSQL) == "SELECT s WHERE x LIKE 'a%'"
    assert keyless_query("", MYSQL) == ""
    with pytest.raises(ValueError, match="write none"):
        keyless_query("SELECT s WHERE p = ?", SQLITE)


@given(st.text(alphabet="?%s'\"`\\-/*# \nab"))
def test_whatever_the_query_the_driver_finds_one_place_for_the_key(query):
    try:
        made = keyed_query(query, MYSQL)
    except ValueError:
        return
    assert "KEY" in made % ("KEY",)  # raises where a % was left, or a place too many
    assert (made % ("?",)).replace("%s", "?") == query.replace("%s", "?")


def row(**fields) -> Row | None:
    return row_of(names_of(list(fields)), list(fields.values()))


def test_columns_have_names_in_any_case_and_order():
    found = row_of(names_of(["Note", "TLS_Verify", "SERVER"]), ["old", 0, "one.test:26"])
    assert found == Row(Upstream((Server("one.test", 26),), Tls.MAY))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["server", "host"], "unknown column 'host'"),
        (["pattern", "server"], "the query may give the columns server, tls_verify, tls,"),
        (["tls_verify"], "no column server"),
        ([], "no column server"),
        (["server", "SERVER"], "column server is there twice"),
    ],
)
def test_other_columns_are_told_with_the_known_ones(columns, said):
    with pytest.raises(LookupFailed) as caught:
        names_of(columns)
    assert said in str(caught.value)


@pytest.mark.parametrize("server", [None, "", "  ", b""])
def test_no_server_is_no_row(server):
    assert row(server=server, percent="nonsense") is None


@pytest.mark.parametrize(
    ("value", "tls"),
    [
        (None, Tls.OFFERED),
        (True, Tls.OFFERED),
        (1, Tls.OFFERED),
        (b"\1", Tls.OFFERED),
        (b"yes", Tls.OFFERED),
        (Decimal("1"), Tls.OFFERED),
        (1.0, Tls.OFFERED),
        (False, Tls.MAY),
        (0, Tls.MAY),
        (b"\0", Tls.MAY),
        ("no", Tls.MAY),
        (Decimal("0.00"), Tls.MAY),
    ],
)
def test_truth_of_every_type(value, tls):
    assert row(server="one.test", tls_verify=value) == Row(
        Upstream((Server("one.test"),), tls),
    )


@pytest.mark.parametrize("value", [50, "50", "50%", Decimal("50.00"), 50.0, b"50"])
def test_numbers_of_every_type(value):
    found = row(server="one.test", percent=value)
    assert found is not None and found.percent == 50


def test_a_shadow_and_text_that_looks_like_a_number():
    found = row(server="192.0.2.0", shadow=b"two.test", note=datetime.date(2026, 1, 1))
    assert found == Row(Upstream((Server("192.0.2.0"),)), shadow=Upstream((Server("two.test"),)))


def test_text_stays_as_it_is():
    assert row(server="mx.00") == Row(Upstream((Server("mx.00"),)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"server": "one.test:99999"}, "a row is wrong: server: '99999' is not a port"),
        ({"server": "one.test", "tls_verify": 2}, "a row is wrong: tls_verify: '2' is not"),
        ({"server": "one.test", "percent": Decimal("12.5")}, "percent: '12.5' is not"),
        ({"server": b"\xff\xfe"}, "is not UTF-8"),
        ({"server": 7.25}, "server: '7.25' is not"),
    ],
)
def test_a_wrong_row_is_told_and_never_no_route(fields, said):
    with pytest.raises(LookupFailed) as caught:
        row(**fields)
    assert said in str(caught.value)
