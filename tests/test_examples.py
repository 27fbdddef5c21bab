"""etc/examples/: each is right as it is, is told of in docs/, and is what the pages say it is."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from smtpproxy.cli import main
from smtpproxy.routing import CsvTable
from tests.support import haproxy
from tests.support.certificates import Certificate
from tests.support.checked import without_folder
from tests.support.layers import ROOT
from tests.support.mariadb import PASSWORD, USER, MariaDb
from tests.support.processes import short_folder

EXAMPLES = ROOT / "etc" / "examples"
FILES = sorted(file.relative_to(EXAMPLES) for file in EXAMPLES.rglob("*") if file.is_file())
CONFIGURATIONS = [file for file in FILES if file.suffix == ".toml"]

PAGES = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")}


@pytest.fixture
def example(request, tmp_path, proxy_certificate: Certificate) -> Path:
    """The configuration of an example, in a folder that has what each site brings itself."""
    folder = tmp_path / "example"
    shutil.copytree(EXAMPLES / request.param.parent, folder)
    file = folder / request.param.name
    for listener in tomllib.loads(file.read_text(encoding="utf-8"))["listeners"]:
        if "tls_cert" in listener:
            shutil.copy(proxy_certificate.chain, folder / listener["tls_cert"])
            shutil.copy(proxy_certificate.key, folder / listener["tls_key"])
    (folder / "mysql-password").write_text(f"{PASSWORD}\n", encoding="utf-8")
    for script in folder.glob("*.sql"):
        with sqlite3.connect(folder / "routes.db") as database:
            database.executescript(script.read_text(encoding="utf-8"))
        database.close()
    return file


def asks(file: Path, *kinds: str) -> bool:
    """One of the example's mappings is of that kind."""
    text = (EXAMPLES / file).read_text(encoding="utf-8")
    return any(mapping["type"] in kinds for mapping in tomllib.loads(text)["mappings"])


def check(file: Path) -> tuple[int, str]:
    """What `smtpproxy check` ends with, and what it says is wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "smtpproxy", "check", "--config", file],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, without_folder(done.stderr)


# Those of files alone need no reactor, and so no process of their own.
OF_FILES = [file for file in CONFIGURATIONS if not asks(file, "mysql", "sqlite", "http")]
OF_OTHERS = [file for file in CONFIGURATIONS if asks(file, "sqlite", "http")]
OF_MYSQL = [file for file in CONFIGURATIONS if asks(file, "mysql")]


@pytest.mark.parametrize("example", OF_FILES, indirect=True, ids=str)
def test_each_passes_check(example, capsys):
    assert main(["check", "--config", str(example)]) == 0
    assert without_folder(capsys.readouterr().err) == ""


@pytest.mark.parametrize("example", OF_OTHERS, indirect=True, ids=str)
def test_each_with_a_service_passes_check(example):
    assert check(example) == (0, "")


@pytest.mark.parametrize("file", OF_FILES, ids=str)
def test_each_passes_check_without_certificates_as_its_head_says(file, tmp_path, capsys):
    folder = shutil.copytree(EXAMPLES / file.parent, tmp_path / "example")
    config = folder / file.name
    text = config.read_text(encoding="utf-8")
    config.write_text(re.sub(r"^tls_(cert|key) = .*\n", "", text, flags=re.MULTILINE))
    assert main(["check", "--config", str(config)]) == 0
    assert without_folder(capsys.readouterr().err) == ""


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=str)
def test_each_says_in_its_head_what_it_lacks(file):
    text = (EXAMPLES / file).read_text(encoding="utf-8")
    head, _, settings = text.partition("\n\n")
    files = re.findall(r'^(?:file|\w+_file|tls_cert|tls_key) = "(.+)"', settings, re.MULTILINE)
    assert {"cert.pem", "key.pem"} <= set(files)
    for name in files:
        assert (EXAMPLES / file.parent / name).exists() or name in head, name


@pytest.fixture(scope="module")
def database():
    with short_folder() as path, MariaDb(path) as it:
        yield it


@pytest.mark.parametrize("example", OF_MYSQL, indirect=True, ids=str)
def test_each_with_mysql_passes_check(example, database, monkeypatch):
    mappings = tomllib.loads(example.read_text(encoding="utf-8"))["mappings"]
    for number, mapping in enumerate(mappings):
        if mapping["type"] == "mysql":
            assert mapping["user"] == USER
            socket = f"SMTPPROXY_MAPPINGS__{number}__UNIX_SOCKET"
            monkeypatch.setenv(socket, str(database.socket))
    assert check(example) == (0, "")


def test_the_sample_of_haproxy_is_right(tmp_path):
    program = haproxy.program()
    for file in EXAMPLES.rglob("haproxy.cfg"):
        done = subprocess.run(
            [program, "-c", "-f", file], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "WARNING" not in done.stderr


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=str)
def test_each_is_told_of(file):
    place = f"../etc/examples/{file}"
    assert any(f"]({place})" in text for text in PAGES.values()), f"no page points at {place}"


def test_each_names_a_page_that_is_there():
    for file in CONFIGURATIONS:
        text = (EXAMPLES / file).read_text(encoding="utf-8")
        named = re.search(r"\A(?:# .*\n)*?#.*\bdocs/([\w-]+\.md)", text)
        assert named, f"{file}: say in its head which page it belongs to"
        assert named[1] in PAGES, file


# What a page shows of an example stands three lines at most behind the link to it.
SHOWN = re.compile(
    r"\]\(\.\./etc/examples/(?P<file>[\w./-]+)\).*\n"
    r"(?:(?!```|#).*\n){0,2}```(?:toml|csv)\n(?P<text>(?s:.*?))^```$",
    re.MULTILINE,
)


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if SHOWN.search(text)])
def test_what_a_page_shows_is_in_the_example(page):
    for shown in SHOWN.finditer(PAGES[page]):
        whole = (EXAMPLES / shown["file"]).read_text(encoding="utf-8")
        assert shown["text"] in whole, f"{page}: {shown['file']}"


def test_the_pages_show_some():
    assert sum(len(SHOWN.findall(text)) for text in PAGES.values()) >= 4


def test_the_script_for_rows_from_haraka(tmp_path):
    (script,) = re.findall(r"^```sh\n(awk .*?)^```$", PAGES["from-haraka.md"], re.M | re.S)
    (tmp_path / "smtp_forward.ini").write_text(
        "host=localhost\nport=2555\n\n[example.com]\nhost = 192.0.2.25\nport=2525\n"
        "; a comment\n[example.net]\nhost=mail.example.net\nauth_type=plain\n"
        "[no.example.org]\nenable_outbound=false\n"
    )
    awk = script[: script.index("smtpproxy check")]
    subprocess.run(["sh", "-e"], input=awk, cwd=tmp_path, text=True, check=True, env=os.environ)
    made = tmp_path / "mapping.csv"
    assert made.read_text() == (
        "pattern;server\nexample.com;192.0.2.25:2525\nexample.net;mail.example.net\n"
    )
    assert len(CsvTable.load(made, "mapping.csv")) == 2
