"""The annotated file and the page about settings say what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.config import Config, load, mappings, settings
from smtpproxy.routing import COLUMNS, CsvTable

ROOT = Path(__file__).parent.parent
ANNOTATED = ROOT / "etc" / "smtpproxy.toml"
PAGE = ROOT / "docs" / "settings.md"

QUERY = 'query = "SELECT server FROM routes WHERE pattern = ?"\n'

# "#name = value" and "#[table]" are settings; "# text" is a comment.
SETTING = re.compile(r"^#(?=[\[\w])", re.MULTILINE)

Key = tuple[str, str]  # path, and the kind of mapping

DEFAULTS = {(each.path, each.kind): each.default for each in settings() if each.default}
MEANINGS = {(each.path, each.kind): each.meaning for each in settings()}
KINDS = list(dict.fromkeys(each.kind for each in settings() if each.kind))


def uncommented() -> str:
    return SETTING.sub("", ANNOTATED.read_text())


def flat(table: dict[str, Any], prefix: str = "") -> dict[Key, Any]:
    """Each setting in `table` by its path and kind, as `settings` writes them."""
    found: dict[Key, Any] = {}
    kind = table.get("type", "")
    for name, value in table.items():
        if isinstance(value, dict) and (f"{prefix}{name}", kind) not in MEANINGS:
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for element in value:
                found |= flat(element, f"{prefix}{name}[].")
        else:
            found[f"{prefix}{name}", kind] = value
    return found


def test_there_are_all_kinds_of_mapping():
    assert tuple(KINDS) == mappings.KINDS
    assert len(settings()) == len(MEANINGS)


def test_the_annotated_file_holds_every_setting_with_its_default():
    found = flat(tomllib.loads(uncommented()))
    assert set(found) == set(MEANINGS)
    given = {key: value for key, value in found.items() if key in DEFAULTS}
    assert given == {key: tomllib.loads(f"x = {text}")["x"] for key, text in DEFAULTS.items()}


def test_only_what_is_needed_is_not_commented_out():
    assert set(flat(tomllib.loads(ANNOTATED.read_text()))) == {
        ("listeners[].listen", ""),
        ("mappings[].type", "csv"),
        ("mappings[].file", "csv"),
    }


def test_the_annotated_file_says_what_each_setting_means():
    said: set[tuple[str, str, str]] = set()
    kind = ""
    pattern = r"((?:^# .*\n)+)(?=#?(\w+) = (.*))|^#?\[\[?\w+"
    for match in re.finditer(pattern, ANNOTATED.read_text(), re.MULTILINE):
        comment, name, value = match.groups()
        if name is None:  # the head of a table
            kind = ""
            continue
        kind = value.strip('"') if name == "type" else kind
        said.add((name, kind, " ".join(comment.replace("\n# ", " ")[2:].split())))
    for (path, kind), meaning in MEANINGS.items():
        assert (path.rpartition(".")[2], kind, meaning) in said


def plain(config: Config) -> dict[str, Any]:
    return config.model_dump(exclude={"listeners", "mappings"})


def test_with_every_line_uncommented_it_is_valid_and_the_default(tmp_path):
    path = tmp_path / "smtpproxy.toml"
    path.write_text(uncommented())
    full = load(path, {})
    path.write_text(ANNOTATED.read_text())
    shipped = load(path, {})
    assert plain(full) == plain(shipped)
    assert full.listeners == shipped.listeners
    assert full.mappings[:1] == shipped.mappings
    assert [mapping.type for mapping in full.mappings] == KINDS


def test_the_page_lists_every_setting_and_no_other():
    rows = []
    kind = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("### "):
            named = re.search(r'`type = "(\w+)"`', line)
            kind = named[1] if named else ""
        elif row := re.fullmatch(r"\| `([a-z0-9_.\[\]]+)` \| (.*?) \| (.*) \|", line):
            rows.append((row[1], kind, row[2], row[3]))
    assert rows == [
        (path, kind, f"`{DEFAULTS[path, kind]}`" if (path, kind) in DEFAULTS else "needed", meaning)
        for (path, kind), meaning in MEANINGS.items()
    ]


@pytest.mark.parametrize("page", ["databases.md", "mappings-regex.md", "mappings-http.md"])
def test_tables_of_other_pages_name_settings(page):
    """A first column with one word in it, where the head of the table speaks of settings."""
    names = {path.rpartition(".")[2] for path, kind in MEANINGS if kind}
    text = (ROOT / "docs" / page).read_text()
    tables = re.findall(r"^\| setting \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert tables
    for table in tables:
        for cell in re.findall(r"^\| (.*?) \|", table, re.MULTILINE):
            assert set(re.findall(r"`(\w+)`", cell)) <= names


@pytest.mark.parametrize(
    "example", re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
)
def test_examples_on_the_page_are_valid(example, tmp_path):
    path = tmp_path / "smtpproxy.toml"
    path.write_text(example)
    load(path, {})


PARTS = [
    (page.name, example)
    for page in sorted((ROOT / "docs").glob("*.md"))
    if page.name
    in ("mappings.md", "mappings-regex.md", "mappings-http.md", "databases.md", "migration.md")
    for example in re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize(("name", "example"), PARTS)
def test_examples_of_mappings_are_valid(name, example, tmp_path):
    path = tmp_path / "smtpproxy.toml"
    if "[[mappings]]" not in example:  # a setting alone
        needed = "" if re.search("^query", example, re.MULTILINE) else QUERY
        example = f'[[mappings]]\ntype = "mysql"\ndatabase = "smtpproxy"\n{needed}{example}'
    path.write_text(f'domain = "mx.test"\nlisteners = [{{listen = ":25"}}]\n{example}')
    load(path, {})


ROWS = [
    rows
    for page in ("mappings.md", "migration.md")
    for rows in re.findall(
        r"^```(?:csv)?\n((?:# .*\n)*pattern;(?s:.*?))^```$",
        (ROOT / "docs" / page).read_text(),
        re.MULTILINE,
    )
]


@pytest.mark.parametrize("rows", [*ROWS, (ROOT / "etc" / "mapping.csv").read_text()])
def test_examples_of_rows_are_valid(rows, tmp_path):
    assert len(ROWS) > 2
    (tmp_path / "mapping.csv").write_text(rows)
    CsvTable.load(tmp_path / "mapping.csv", "mapping.csv")


def test_every_column_is_in_the_table():
    text = (ROOT / "docs" / "mappings.md").read_text()
    (table,) = re.findall(r"^\| column \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == ["pattern", *COLUMNS]


def test_variables_on_the_page_are_settings(tmp_path):
    rows = re.findall(r"^\| `(SMTPPROXY_\w+)=(\S.*?)` \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 3
    path = tmp_path / "smtpproxy.toml"
    second = f'[[mappings]]\ntype = "mysql"\ndatabase = "smtpproxy"\n{QUERY}'
    path.write_text(f"{ANNOTATED.read_text()}\n{second}")
    for name, value in rows:
        load(path, {name: value.strip("'")})
