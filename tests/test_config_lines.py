"""The line in which each key of a TOML file stands."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpproxy.config.lines import KeyPath, dotted, line_of, locate

DOCUMENT = '''\
# a comment = 1
a = 1 # b = 2
"quoted key" = "x = 1" ; 'lit.eral' = 2

dotted . inner = { x = 1, y = [ 1,
  2 ] }
dotted.other = """
not = "a key" \\"""
[not.a.table]
""\""
after = \'\'\'
[nor]
this''\'''
list = [ # [comment]
  "]", ']', # "
  [ "[" ],
]

[table]
key = 1
  [ table . "sub.table" ]  # [x]
  key = 2
[[elements]]
name = 1
[elements.sub]
deep = 1
[[elements.many]]
x = 1
[[elements.many]]
x = 2
[[elements]]
name = 2
[elements.sub]
deep = 2
[[elements.many]]
x = 3
'''.replace(" ; ", "\n")


def test_a_document_with_everything():
    expected: dict[KeyPath, int] = {
        ("a",): 2,
        ("quoted key",): 3,
        ("lit.eral",): 4,
        ("dotted",): 6,
        ("dotted", "inner"): 6,
        ("dotted", "other"): 8,
        ("after",): 12,
        ("list",): 15,
        ("table",): 20,
        ("table", "key"): 21,
        ("table", "sub.table"): 22,
        ("table", "sub.table", "key"): 23,
        ("elements",): 24,
        ("elements", 0): 24,
        ("elements", 0, "name"): 25,
        ("elements", 0, "sub"): 26,
        ("elements", 0, "sub", "deep"): 27,
        ("elements", 0, "many"): 28,
        ("elements", 0, "many", 0): 28,
        ("elements", 0, "many", 0, "x"): 29,
        ("elements", 0, "many", 1): 30,
        ("elements", 0, "many", 1, "x"): 31,
        ("elements", 1): 32,
        ("elements", 1, "name"): 33,
        ("elements", 1, "sub"): 34,
        ("elements", 1, "sub", "deep"): 35,
        ("elements", 1, "many"): 36,
        ("elements", 1, "many", 0): 36,
        ("elements", 1, "many", 0, "x"): 37,
    }
    assert tomllib.loads(DOCUMENT)["elements"][1]["many"] == [{"x": 3}]
    assert locate(DOCUMENT) == expected


def test_the_nearest_line_around():
    lines = locate("[[a]]\nb = {c = 1}\n")
    assert line_of(("a", 0, "b", "c"), lines) == 2
    assert line_of(("a", 0, "missing"), lines) == 1
    assert line_of(("a", 1, "b"), lines) == 1
    assert line_of(("x", "a"), lines) is None


@pytest.mark.parametrize("text", ["", "\n\n# x", "[a]", "a=1", "\ta=''", "\r\na=1\r\n"])
def test_small_documents(text):
    assert set(locate(text)) == {(key,) for key in tomllib.loads(text)}


def test_paths_as_people_write_them():
    assert dotted(("listeners", 0, "tls_cert")) == "listeners[0].tls_cert"
    assert dotted(("a b", "c\n")) == "'a b'.'c\\n'"


# Documents whose lines are known, since each statement is written with a count of its lines.
TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]) | st.sampled_from("\"'\\#[]{}=."),
    max_size=8,
)


def basic(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def multiline(text: str) -> str:
    return '"""\n' + text.replace("\\", "\\\\").replace('"', '\\"') + '\n[x]\ny = 1\n"""'


def literal(text: str) -> str:
    return "'''" + text.replace("'", "") + "\n'\n'''"


BARE = st.from_regex(r"[A-Za-z0-9_-]{1,4}", fullmatch=True)
SCALARS = (
    st.sampled_from(["1", "true", "1979-05-27 07:32:00", "1.5e3"])
    | TEXT.map(basic)
    | TEXT.map(multiline)
    | TEXT.map(literal)
)
ARRAYS = st.lists(SCALARS, max_size=3).map(
    lambda items: "[ # ]\n" + "".join(f"{item}, # [\n" for item in items) + "]"
)
INLINE = st.lists(st.tuples(BARE, TEXT.map(basic)), max_size=2, unique_by=lambda p: p[0]).map(
    lambda pairs: "{" + ", ".join(f"{key} = {value}" for key, value in pairs) + "}"
)
VALUES = SCALARS | ARRAYS | INLINE
KEYS = st.tuples(st.just("k"), BARE | TEXT.map(basic)) | st.tuples(BARE | TEXT.map(basic))
FILLER = st.sampled_from(["", "\n", "# a = 1\n", "# [x]\n\n", "  \t\n"])
STATEMENTS = st.lists(
    st.tuples(FILLER, st.sampled_from(["=", "=", "[", "[["]), st.sampled_from("abc"), KEYS, VALUES),
    max_size=12,
)


def parsed(parts: tuple[str, ...]) -> KeyPath:
    """The key that the written `parts` mean, by tomllib's own reading."""
    path: KeyPath = ()
    table: Any = tomllib.loads(".".join(parts) + " = 0")
    while isinstance(table, dict):
        [(key, table)] = table.items()
        path += (key,)
    return path


@given(STATEMENTS)
def test_each_key_is_found_in_its_line(statements):
    text = ""
    here: KeyPath = ()
    expected: dict[KeyPath, int] = {}
    elements = dict.fromkeys("abc", 0)
    for filler, kind, table, key, value in statements:
        text += filler
        line = text.count("\n") + 1
        if kind == "=":
            path: KeyPath = (*here, *parsed(key))
            statement = f"{' . '.join(key)} = {value}\n"
        elif kind == "[[":
            path = (f"{table}{table}", elements[table])
            statement = f"[[ {table}{table} ]]\n"
        else:
            path = (table,)
            statement = f"[{table}] # x\n"
        try:
            tomllib.loads(text + statement)
        except tomllib.TOMLDecodeError:
            continue  # defined before
        text += statement
        if kind == "[[":
            elements[table] += 1
        if kind != "=":
            here = path
        for depth in range(1, len(path) + 1):
            expected.setdefault(path[:depth], line)
    tomllib.loads(text)
    assert locate(text) == expected
