"""smtpproxy check."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from smtpproxy.cli import folders, main

HEAD = """
domain = "mx.example.net"
[[listeners]]
listen = "127.0.0.1:2525"
tls_cert = "{cert}"
tls_key = "{key}"
[[listeners]]
listen = "unix:smtp"
"""
MAPPINGS = """
[[mappings]]
type = "csv"
file = "mapping.csv"
[[mappings]]
type = "static"
server = "mx1.test"
tls_verify = false
"""
ROWS = (
    "pattern;server\nalice@example.com;mx1.test\nbob@example.com;mx1.test\nexample.net;mx2.test\n"
)


@pytest.fixture
def check(tmp_path, capsys):
    """Run it on a configuration and the rows of a mapping; status, output and errors."""

    def run(text: str, rows: str = ROWS) -> tuple[int, str, str]:
        (tmp_path / "smtpproxy.toml").write_text(text)
        (tmp_path / "mapping.csv").write_text(rows)
        status = main(["check", "--config", str(tmp_path / "smtpproxy.toml")])
        said = capsys.readouterr()
        return status, *(text.replace(f"{tmp_path}/", "") for text in said)

    return run


def test_what_is_right_is_summed_up(check, proxy_certificate):
    cert, key = proxy_certificate.chain, proxy_certificate.key
    assert check(HEAD.format(cert=cert, key=key) + MAPPINGS) == (
        0,
        "smtpproxy.toml: OK\n"
        "  domain    mx.example.net\n"
        f"  listener  127.0.0.1:2525, STARTTLS with {cert}\n"
        "  listener  unix:smtp, no STARTTLS\n"
        "  mapping   csv mapping.csv: 3 rows, 2 upstreams\n"
        "  mapping   static: mx1.test:25 (TLS where offered; its certificate need not verify)\n"
        "  control   none\n",
        "",
    )


def test_all_faults_at_once(check):
    text = HEAD.format(cert="no.pem", key="no.pem") + MAPPINGS
    status, out, err = check(text, ROWS + "*@a;mx1.test\nalice@example.com;mx2.test:0\n")
    assert (status, out) == (1, "")
    lines = err.splitlines()
    assert [line.partition(": ")[0] for line in lines[:3]] == [
        *("mapping.csv:5", "mapping.csv:6", "mapping.csv:6"),
    ]
    assert lines[3:] == [
        "smtpproxy.toml:5: listeners[0].tls_cert: no.pem: there is no such file",
        "smtpproxy.toml: 4 faults: smtpproxy would not start",
    ]


def test_a_missing_file_is_told_with_its_setting(check):
    text = "tls_ca = 'ca.pem'" + HEAD.format(cert="cert.pem", key="key.pem")
    status, out, err = check(text + MAPPINGS.replace("mapping.csv", "maping.csv"))
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        "smtpproxy.toml:12: mappings[0].file: maping.csv: there is no such file",
        "smtpproxy.toml:5: listeners[0].tls_cert: cert.pem: there is no such file",
        "smtpproxy.toml:6: listeners[0].tls_key: key.pem: there is no such file",
        "smtpproxy.toml:1: tls_ca: ca.pem: there is no such file",
        "smtpproxy.toml: 4 faults: smtpproxy would not start",
    ]


PLAIN = HEAD.split("tls_cert")[0] + MAPPINGS


def test_sockets_that_cannot_be_made_are_warned_of(check):
    settings = 'control = "no/control"\nhttp.listen = "unix:none/http"'
    status, out, err = check(settings + PLAIN.replace("127.0.0.1:2525", "unix:non/smtp"))
    assert status == 0
    assert out.startswith("smtpproxy.toml: OK, 3 warnings\n")
    assert err.splitlines() == [
        "warning: smtpproxy.toml:1: control: no/control: there is no folder no: make it",
        "warning: smtpproxy.toml:2: http.listen: none/http: there is no folder none: make it",
        "warning: smtpproxy.toml:5: listeners[0].listen: non/smtp: there is no folder non: make it",
    ]


def test_a_log_that_cannot_be_written_is_a_fault(check, tmp_path):
    place = "smtpproxy.toml:1: log.file: no"
    status, out, err = check("log.file = 'no/log'" + PLAIN, ROWS + "x y;mx1.test\n")
    assert (status, out) == (1, "")
    rows, log, summary = err.splitlines()
    assert rows.startswith("mapping.csv:5: ")
    assert log == f"{place}/log: there is no folder no: make it"
    assert summary == "smtpproxy.toml: 2 faults: smtpproxy would not start"
    (tmp_path / "no").mkdir()
    assert check("log.file = 'no/log'" + PLAIN)[0::2] == (0, "")
    assert not (tmp_path / "no" / "log").exists()
    assert check("log.file = 'no'" + PLAIN)[2].startswith(f"{place}: is a folder: name a file\n")


def test_what_this_user_may_not_write(check, tmp_path, monkeypatch):
    (tmp_path / "log").touch()
    monkeypatch.setattr(folders.os, "access", lambda *_: False)  # root may write anywhere
    _, _, err = check("control = 'control'\nlog.file = 'log'" + PLAIN)
    assert err.startswith("smtpproxy.toml:2: log.file: log: this user may not write to it\n")
    _, _, err = check("control = 'control'" + PLAIN)
    assert err.startswith("warning: smtpproxy.toml:1: control: control: this user may not write in")


def test_what_systemd_makes_is_not_missed(check, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "OURS", (tmp_path / "run",))
    monkeypatch.setattr(folders, "BOOTED", tmp_path / "systemd")
    assert "there is no folder run" in check("control = 'run/control'" + PLAIN)[2]
    (tmp_path / "systemd").mkdir()
    assert check("control = 'run/control'" + PLAIN)[2] == ""


def test_faults_of_the_file_itself(check):
    status, out, err = check("domian = 'mx.example.net'" + MAPPINGS)
    assert (status, out) == (1, "")
    assert "smtpproxy.toml:1: domian: " in err
    assert "listeners" in err


def test_a_warning_is_no_fault(check, authority):
    expired = authority.expired("expired.example.net")
    text = HEAD.format(cert=expired.chain, key=expired.key) + MAPPINGS
    status, out, err = check(text, ROWS + "example.org;localhost:2525\n")
    assert status == 0
    assert out.startswith("smtpproxy.toml: OK, 2 warnings\n")
    ours, cert = sorted(err.splitlines(), key=lambda line: "expired" in line)
    assert ours.startswith("warning: localhost:2525: ")
    assert cert.startswith(f"warning: {expired.chain}: the certificate has expired on ")


def test_lmtp(check, folder):
    text = HEAD.split("tls_cert")[0].replace("127.0.0.1:2525", f"unix:{folder}/own")
    status, out, err = check(
        f'{text}protocol = "lmtp"\n{MAPPINGS}'.replace("mx1.test", "lmtp:unix:/run/lmtp"),
        f"pattern;server\na.test;lmtp:mx1.test\nb.test;unix:{folder}/../{folder.name}/own\n",
    )
    assert status == 0
    assert f"  listener  unix:{folder}/own, LMTP, no STARTTLS\n" in out
    assert "  mapping   static: lmtp:unix:/run/lmtp (no TLS on a Unix socket)\n" in out
    assert err == (
        f"warning: unix:{folder}/../{folder.name}/own: this upstream is the proxy itself: "
        "mail for it is refused with 554 5.4.6\n"
    )


def test_a_unix_socket_that_would_have_to_be_verified(check):
    text = HEAD.split("tls_cert")[0] + MAPPINGS
    static = text.replace("mx1.test", "unix:/run/lmtp").replace(
        "tls_verify = false", 'tls="verify"'
    )
    status, out, err = check(static, "pattern;server;tls\na.test;unix:/run/lmtp;verify\n")
    assert (status, out) == (1, "")
    assert [line.partition(": unix:/run/lmtp: no cert")[0] for line in err.splitlines()] == [
        "mapping.csv:2: tls",
        "smtpproxy.toml:9: mappings[1]: tls",
        "smtpproxy.toml: 2 faults: smtpproxy would not start",
    ]


def test_a_row_that_does_not_count_is_warned_of(check):
    text = HEAD.split("tls_cert")[0] + MAPPINGS
    status, _, err = check(text, ROWS + ".example.org;mail.example.org\n")
    assert status == 0
    assert err.startswith(
        f"warning: mapping.csv:{ROWS.count(chr(10)) + 1}: a row for a parent domain"
    )
    counts = text.replace('file = "mapping.csv"', 'file = "mapping.csv"\nparent_domains = true')
    assert "parent domain" not in check(counts, ROWS + ".example.org;mail.example.org\n")[2]


def test_no_such_file(capsys):
    assert main(["check", "--config", "/nowhere/smtpproxy.toml"]) == 1
    assert "/nowhere/smtpproxy.toml: there is no such file" in capsys.readouterr().err


FILES = """
[[mappings]]
type = "sqlite"
file = "routes.db"
query = "SELECT server FROM routes WHERE pattern = ?"
upstreams_query = "SELECT DISTINCT server FROM routes"
[[mappings]]
type = "regex"
file = "patterns.csv"
[[mappings]]
type = "http"
url = "http://127.0.0.1:9/route?key=secret"
"""


def child(tmp_path, text):
    """As a process of its own, for what has a reactor; status, output and errors."""
    (tmp_path / "smtpproxy.toml").write_text(text)
    (tmp_path / "patterns.csv").write_text("pattern;server\n.*@a\\.test;mx1.test\n")
    done = subprocess.run(
        [sys.executable, "-m", "smtpproxy", "check", "--config", "smtpproxy.toml"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, *(
        each.replace(f"{tmp_path}/", "") for each in (done.stdout, done.stderr)
    )


SMALL = 'domain = "mx.test"\ncontrol = "control"\nlisteners = [{listen = "127.0.0.1:2525"}]\n'


def test_a_database_is_asked(tmp_path):
    with sqlite3.connect(tmp_path / "routes.db") as routes:
        routes.execute("CREATE TABLE routes (pattern TEXT, server TEXT)")
        routes.execute(
            "INSERT INTO routes VALUES ('a.test', 'mx1.test'), ('b.test', 'localhost:2525')"
        )
    assert child(tmp_path, SMALL + FILES) == (
        0,
        "smtpproxy.toml: OK, 1 warning\n"
        "  domain    mx.test\n"
        "  listener  127.0.0.1:2525, no STARTTLS\n"
        "  mapping   sqlite routes.db: answers, and lists 2 upstreams\n"
        "  mapping   regex patterns.csv: 1 row, 1 upstream\n"
        "  mapping   http http://127.0.0.1:9: is asked for each recipient, and was not asked now\n"
        "  control   control\n",
        "warning: localhost:2525: this upstream is the proxy itself: "
        "mail for it is refused with 554 5.4.6\n",
    )


def test_a_database_that_does_not_answer(tmp_path):
    with sqlite3.connect(tmp_path / "routes.db") as routes:
        routes.execute("CREATE TABLE other (pattern TEXT, server TEXT)")
    status, out, err = child(tmp_path, SMALL + FILES)
    assert (status, out) == (1, "")
    assert err == (
        "smtpproxy.toml:5: mappings[0]: routes.db: routes.db: no such table: routes\n"
        "smtpproxy.toml: 1 fault: smtpproxy would start, and tell clients 451\n"
    )


def test_no_such_database_and_what_else_is_wrong(tmp_path):
    text = SMALL + FILES.replace("127.0.0.1:9", "127.0.0.1:0")
    status, out, err = child(tmp_path, text)
    assert (status, out) == (1, "")
    assert "mappings[2].url: " in err
    assert "secret" not in err
    status, out, err = child(tmp_path, SMALL + FILES)
    assert (status, out) == (1, "")
    assert err.splitlines()[0] == (
        "smtpproxy.toml:7: mappings[0].file: routes.db: there is no such file: "
        "make the database first"
    )


def test_one_file_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMTPPROXY_CONFIG", "/nowhere")
    Path("a.csv").write_text(ROWS)
    assert main(["check", "a.csv"]) == 0
    assert capsys.readouterr() == ("a.csv: OK, 3 rows, 2 upstreams\n", "")
    Path("a.csv").write_text(ROWS + "*@x;mx1.test\nalice@example.com;:\n")
    assert main(["check", "a.csv"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.partition(": ")[0] for line in said.err.splitlines()] == [
        *("a.csv:5", "a.csv:6", "a.csv:6", "a.csv")
    ]
    assert said.err.endswith("a.csv: 3 faults\n")
    assert main(["check", "none.csv"]) == 1


def test_one_file_of_expressions(tmp_path, capsys):
    file = tmp_path / "patterns.csv"
    file.write_text("pattern;server\n.*@a;mx1.test\n(;mx1.test\n")
    assert main(["check", "--regex", str(file)]) == 1
    assert f"{file}:3: pattern: " in capsys.readouterr().err


def test_a_configuration_is_no_file_of_rows(capsys):
    assert main(["check", "smtpproxy.toml"]) == 2
    assert "--config" in capsys.readouterr().err
