"""The command itself: what it takes, how it ends, and what it loads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from smtpproxy import __version__, cli
from smtpproxy.cli import lookup, main

CONFIG = """
domain = "mx.example.net"
[[listeners]]
listen = "127.0.0.1:2525"
[[mappings]]
type = "static"
server = "mx1.test"
"""
FILES = """
[[mappings]]
type = "csv"
file = "mapping.csv"
[[mappings]]
type = "regex"
file = "patterns.csv"
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    for name in os.environ:
        if name.startswith("SMTPPROXY_"):
            monkeypatch.delenv(name)
    file = tmp_path / "smtpproxy.toml"
    file.write_text(CONFIG)
    return file


def child(*arguments, **more):
    return subprocess.run(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        **more,
    )


def test_the_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"smtpproxy {__version__}\n"


def test_without_a_command_comes_the_help(capsys):
    assert main([]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    for command in ("check", "lookup", "probe", "diff", "reload", "demo"):
        assert f"    {command} " in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["lookup"],
        ["lookup", "alice@example.com", "--nonsense"],
        ["lookup", "alice@example.com", "--js"],  # never half an option
        ["probe", "--client", "localhost"],
        ["probe", "--helo", "two words"],
        ["probe", "--helo", "a\r\nMAIL"],
        ["probe", "--timeout", "0"],
        ["probe", "--timeout", "soon"],
        ["probe", "--tls", "maybe", "mx1.test"],
        ["probe", "--identity", "yes", "mx1.test"],
        ["diff", "old.csv"],
        ["diff", "--most", "-1", "old.csv", "new.csv"],
        ["reload", "mapping.csv"],
    ],
)
def test_wrong_use_is_an_error_and_says_why(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("place", ["behind", "before", "short", "environment"])
def test_where_the_configuration_is_named(place, config, capsys, monkeypatch):
    monkeypatch.setenv("SMTPPROXY_CONFIG", str(config if place == "environment" else "/nowhere"))
    arguments = {
        "behind": ["lookup", "alice@example.com", "--config", str(config)],
        "before": ["--config", str(config), "lookup", "alice@example.com"],
        "short": ["lookup", "-c", str(config), "alice@example.com"],
        "environment": ["lookup", "alice@example.com"],
    }[place]
    assert main(arguments) == 0
    assert "mx1.test:25" in capsys.readouterr().out


def test_a_fault_of_ours_is_no_answer(config, capsys, monkeypatch):
    """1 would mean: there is no route."""

    def broken(options):
        raise ZeroDivisionError

    monkeypatch.setattr(lookup, "run", broken)
    assert main(["lookup", "alice@example.com"]) == cli.ERROR
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_ctrl_c_ends_it_quietly(config, capsys, monkeypatch):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(lookup, "run", interrupted)
    assert main(["lookup", "alice@example.com"]) == 130
    assert capsys.readouterr() == ("", "")


def test_as_a_module(config):
    done = child("-m", "smtpproxy", "lookup", "--config", config, "alice@example.com")
    assert (done.returncode, done.stderr) == (0, "")
    assert "alice@example.com goes to mx1.test:25" in done.stdout


def test_nobody_reads_on(config):
    script = (
        f"{sys.executable} -m smtpproxy lookup --config {config} alice@example.com; echo $? >&2"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        ["sh", "-c", script], stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writer)
    assert done.stderr == "2\n"


def test_a_terminal_that_cannot_show_an_address(config):
    done = child(
        *("-m", "smtpproxy", "lookup", "--config", config, "zoë@example.com"),
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0
    assert r"zo\xeb@example.com goes to mx1.test:25" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], ("pydantic", "twisted", "OpenSSL", "smtpproxy.config", "smtpproxy.routing")),
        (["lookup", "alice@example.com"], ("twisted", "OpenSSL", "cryptography", "asyncio")),
    ],
)
def test_what_is_slow_to_load_is_not_loaded(config, arguments, unwanted):
    config.write_text(f'control = "nobody"\n{CONFIG}{FILES}')
    for name in ("mapping.csv", "patterns.csv"):
        (config.parent / name).write_text("pattern;server\nexample.net;mx1.test\n")
    program = (
        "import sys; from smtpproxy.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {unwanted} if name in sys.modules])"
    )
    done = child("-c", program, *arguments, env={**os.environ, "SMTPPROXY_CONFIG": str(config)})
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
