"""smtpproxy check."""

from __future__ import annotations

import pytest

from smtpproxy.cli import main

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
        "  mapping   csv mapping.csv: 3 rows, 2 servers\n"
        "  mapping   static: mx1.test:25, its certificate need not verify\n",
        "",
    )


def test_all_faults_at_once(check):
    text = HEAD.format(cert="no.pem", key="no.pem") + MAPPINGS
    status, out, err = check(text, ROWS + "*;mx1.test\nalice@example.com;mx2.test:0\n")
    assert (status, out) == (1, "")
    lines = err.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        *("mapping.csv:5", "mapping.csv:6", "mapping.csv:6"),
        *("no.pem", "no.pem"),
        "smtpproxy.toml",
    ]
    assert lines[-1] == "smtpproxy.toml: 5 faults: smtpproxy would not start"


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


def test_no_such_file(capsys):
    assert main(["check", "--config", "/nowhere/smtpproxy.toml"]) == 1
    assert "/nowhere/smtpproxy.toml: there is no such file" in capsys.readouterr().err
