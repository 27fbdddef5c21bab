"""The annotated file and the page about settings say what the code does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.config import Config, load, settings

ROOT = Path(__file__).parent.parent
ANNOTATED = ROOT / "etc" / "smtpproxy.toml"
PAGE = ROOT / "docs" / "settings.md"

# "#name = value" and "#[table]" are settings; "# text" is a comment.
SETTING = re.compile(r"^#(?=[\[\w])", re.MULTILINE)

DEFAULTS = {setting.path: setting.default for setting in settings() if setting.default}
MEANINGS = {setting.path: setting.meaning for setting in settings()}


def uncommented() -> str:
    return SETTING.sub("", ANNOTATED.read_text())


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Each setting in `table` by its path, as `settings` writes it."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for element in value:
                found |= flat(element, f"{prefix}{name}[].")
        else:
            found[f"{prefix}{name}"] = value
    return found


def test_the_annotated_file_holds_every_setting_with_its_default():
    found = flat(tomllib.loads(uncommented()))
    assert set(found) == set(MEANINGS)
    given = {path: value for path, value in found.items() if path in DEFAULTS}
    assert given == {path: tomllib.loads(f"x = {text}")["x"] for path, text in DEFAULTS.items()}


def test_only_what_is_needed_is_not_commented_out():
    assert set(flat(tomllib.loads(ANNOTATED.read_text()))) == {
        "listeners[].listen",
        "mappings[].type",
        "mappings[].file",
    }


def test_the_annotated_file_says_what_each_setting_means():
    text = ANNOTATED.read_text()
    comments = re.findall(r"((?:^# .*\n)+)#?(\w+) =", text, re.MULTILINE)
    said = {
        (name, " ".join(comment.replace("\n# ", " ")[2:].split())) for comment, name in comments
    }
    for path, meaning in MEANINGS.items():
        assert (path.rpartition(".")[2], meaning) in said


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
    assert full.mappings[1].model_dump() == {
        "type": "static",
        "server": "mail.example.com:25",
        "tls_verify": True,
    }


def test_the_page_lists_every_setting_and_no_other():
    rows = re.findall(r"^\| `([a-z_.\[\]]+)` \| (.*?) \| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert rows == [
        (path, f"`{DEFAULTS[path]}`" if path in DEFAULTS else "needed", meaning)
        for path, meaning in MEANINGS.items()
    ]


@pytest.mark.parametrize(
    "example", re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
)
def test_examples_on_the_page_are_valid(example, tmp_path):
    path = tmp_path / "smtpproxy.toml"
    path.write_text(example)
    load(path, {})


def test_variables_on_the_page_are_settings(tmp_path):
    rows = re.findall(r"^\| `(SMTPPROXY_\w+)=(\S.*?)` \|", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 3
    path = tmp_path / "smtpproxy.toml"
    path.write_text(ANNOTATED.read_text())
    for name, value in rows:
        load(path, {name: value.strip("'")})
