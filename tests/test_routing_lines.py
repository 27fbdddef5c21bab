"""Keys and their lines, against a dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.routing.lines import Lines

KEYS = st.text(st.characters(exclude_characters="\0\n"), max_size=3)


@given(st.lists(st.tuples(KEYS, st.integers(1))), KEYS)
def test_it_says_what_a_dict_says(rows, other):
    lines, expected = Lines(0), dict[str, int]()
    for key, line in rows:
        assert lines.setdefault(key, line) == expected.setdefault(key, line)
    assert dict(lines.items()) == expected
    assert sorted(lines) == sorted(expected)
    assert len(lines) == len(expected)
    for key in (*expected, other, "1"):
        assert lines.get(key) == expected.get(key)
        assert (key in lines) == (key in expected)


def test_many_keys_in_one_string():
    lines = Lines(0)
    for number in range(20_000):
        lines.setdefault(f"u{number}@example.com", number + 2)
    assert all(lines.get(f"u{number}@example.com") == number + 2 for number in range(20_000))
    assert [lines.get(key) for key in ("u1@example.co", "1@example.com", "u20000@example.com")] == [
        None
    ] * 3


def test_discarding_leaves_nothing():
    lines = Lines(0)
    lines.setdefault("example.com", 2)
    lines.discard()
    assert list(lines) == []
