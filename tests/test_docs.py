"""docs/ as a site and as manual pages: what `make docs` makes, without a warning and complete."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from smtpproxy.cli.arguments import command_line
from smtpproxy.config import settings
from smtpproxy.routing import COLUMNS
from smtpproxy.service import Options
from tests.support.layers import ROOT
from tests.support.needs import missing, need

DOCS = ROOT / "docs"
PAGES = sorted(page.stem for page in DOCS.glob("*.md"))
MANUALS = (
    "smtpproxy.1",
    "smtpproxy.8",
    "smtpproxy.toml.5",
    "smtpproxy-mapping.5",
    "smtpproxy-failures.7",
    "smtpproxy-logs.7",
)


def built(folder: Path, *options: str) -> Path:
    if not all(find_spec(name) for name in ("furo", "myst_parser", "sphinx")):
        missing("needs Sphinx with MyST and furo: make docs")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", *options]
    done = subprocess.run(
        [*command, "-d", folder / "doctrees", DOCS, folder / "out"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""
    return folder / "out"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return built(tmp_path_factory.mktemp("site"), "-b", "html")


@pytest.fixture(scope="module")
def manuals(tmp_path_factory) -> Path:
    return built(tmp_path_factory.mktemp("manuals"), "-b", "man", "-t", "man")


class Page(HTMLParser):
    """What a page points at, and what can be pointed at in it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.loads: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        if tag in ("img", "script", "link") and given.get("rel") != "canonical":
            self.loads.add(given.get("src") or given.get("href", ""))
        self.ids.add(given.get("id", ""))


def test_every_page_is_on_the_site_and_every_link_leads_somewhere(site):
    pages = {page.name: Page(page) for page in site.glob("*.html")}
    assert {f"{name}.html" for name in PAGES if not name.startswith("man-")} <= set(pages)
    for name, page in pages.items():
        for link in page.links:
            if re.match(r"\w+:|#$", link):
                continue
            file, _, place = link.partition("#")
            target = file or name
            assert (site / target).exists(), f"{name}: {link}"
            if place and target in pages:
                assert place in pages[target].ids, f"{name}: {link}"


def test_the_site_loads_nothing_from_elsewhere(site):
    """It is read where there is no network, and tells nobody that it is read."""
    for file in site.glob("*.html"):
        outside = [each for each in Page(file).loads if re.match(r"(\w+:)?//", each)]
        assert not outside, file.name


def test_links_are_named_by_what_they_lead_to(site):
    """As files, the pages are named "settings.md" where they are spoken of; not on the site."""
    text = (site / "failures.html").read_text(encoding="utf-8")
    assert re.search(r'<a [^>]*href="logs.html"><span[^>]*>Logs</span></a>', text)
    assert ">logs.md<" not in text


def unmarked(text: str) -> str:
    """Words alone, as they stand one behind the other: no quotes, marks and breaks of lines."""
    return " ".join(re.findall(r"[\w-]+", text))


def words(manuals: Path, *names: str) -> str:
    """What is written in manual pages, without what troff makes of it."""
    text = "".join((manuals / name).read_text(encoding="utf-8") for name in names)
    return unmarked(
        re.sub(r"\\(f[A-Z]|\(..|%|&)", "", text.replace(r"\-", "-").replace(r"\(aq", "'"))
    )


def test_there_are_the_manual_pages_and_they_have_no_faults(manuals):
    assert {page.name for page in manuals.iterdir()} == set(MANUALS)
    need("man")
    for name in MANUALS:
        done = subprocess.run(
            ["man", "--warnings", "--encoding=UTF-8", "--local-file", manuals / name],
            env={"MANWIDTH": "80", "MANPAGER": "cat", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, ""), name
        for part in ("NAME", "DESCRIPTION", "SEE ALSO"):
            assert re.search(rf"^{part}$", done.stdout, re.MULTILINE), f"{name}: {part}"


def test_every_setting_is_in_the_manual_page_with_its_meaning(manuals):
    text = words(manuals, "smtpproxy.toml.5")
    for setting in settings():
        default = setting.default or "needed"
        assert unmarked(f"{setting.path} {default} {setting.meaning}") in text, setting.path


def test_every_command_and_option_is_in_a_manual_page(manuals):
    text = words(manuals, "smtpproxy.1")
    (commands,) = (action.choices for action in command_line()._actions if action.choices)
    assert commands
    for name, parser in commands.items():
        assert f"smtpproxy {name}" in text
        for action in parser._actions:
            assert all(option in text for option in action.option_strings), name
    daemon = words(manuals, "smtpproxy.8")
    options = Options()
    for option in [*options.optFlags, *options.optParameters]:
        assert f"--{option[0]}" in daemon


def test_every_column_is_in_the_manual_page(manuals):
    text = (manuals / "smtpproxy-mapping.5").read_text(encoding="utf-8")
    for column in ("pattern", *COLUMNS):
        assert re.search(rf"^\.B \\fB{column}\\fP$", text, re.MULTILINE), column


def test_a_manual_page_does_not_send_one_to_itself(manuals):
    text = (manuals / "smtpproxy-mapping.5").read_text(encoding="utf-8")
    body = text[text.index(".SH DESCRIPTION") :]
    assert "smtpproxy\\-mapping(5)" not in body
    for part in ("REGULAR EXPRESSIONS", "DATABASES", "WEB SERVICES"):
        assert re.search(rf"^see: {part}$", body, re.MULTILINE)
        assert f".SH {part}\n" in body
    failures = (manuals / "smtpproxy-failures.7").read_text(encoding="utf-8")
    assert "smtpproxy\\-logs(7)" in failures[: failures.index(".SH SEE ALSO")]


OF_TABLES = re.compile(r"`((?:timeouts|limits|upstreams|dns|log)\.\w+)`(?: (\d+\w*))?")


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_settings_that_exist_and_their_defaults(page):
    """As `limits.max_errors` 20, where a default is named at all."""
    defaults = {setting.path: setting.default.strip('"') for setting in settings()}
    for path, default in OF_TABLES.findall((DOCS / f"{page}.md").read_text(encoding="utf-8")):
        assert path in defaults
        assert default in ("", defaults[path]), path


def test_the_page_about_the_design_names_every_module():
    text = (DOCS / "design.md").read_text(encoding="utf-8")
    for path in (ROOT / "smtpproxy").iterdir():
        if path.suffix == ".py" and not path.name.startswith("_"):
            assert f"`{path.stem}`" in text, path.name
        elif (path / "__init__.py").exists():
            assert f"`{path.name}/`" in text, path.name


TYPED = re.compile(r"^(?:\$ )?smtpproxy ([^#|<>&\n]+)", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_commands_that_pages_have_one_type_are_right(page):
    blocks = re.findall(r"^```.*\n((?s:.*?))^```$", (DOCS / f"{page}.md").read_text(), re.M)
    for block in blocks:
        for words in TYPED.findall(block):
            command_line().parse_args(shlex.split(words))
