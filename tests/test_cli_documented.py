"""docs/commands.md names what there is, and its samples are what is printed."""

from __future__ import annotations

import re
import shlex
import shutil
from argparse import ArgumentParser

import pytest

from smtpproxy.cli import main
from smtpproxy.cli.arguments import command_line
from tests.support.checked import without_folder
from tests.support.layers import ROOT

DOCUMENT = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
HEAD, *SECTIONS = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)
SAMPLES = [
    (shlex.split(command), printed)
    for command, printed in re.findall(r"^```console\n\$ (.*)\n((?s:.*?))^```$", DOCUMENT, re.M)
]
FOLDER = "/etc/smtpproxy"


def commands() -> dict[str, ArgumentParser]:
    (choices,) = (action.choices for action in command_line()._actions if action.choices)
    return choices  # type: ignore[return-value]


def options(parser: ArgumentParser) -> set[str]:
    return {name for action in parser._actions for name in action.option_strings}


def documented(text: str) -> set[str]:
    """The options in the first column of its tables."""
    cells = re.findall(r"^\| (`-.*?`) \|", text, re.MULTILINE)
    return {word for cell in cells for word in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", cell)}


def section(command: str) -> str:
    (found,) = [text for text in SECTIONS if re.match(rf"`smtpproxy {command}\b", text)]
    return found


def test_the_sample_of_diff(tmp_path, capsys, monkeypatch):
    (printed,) = [printed for words, printed in SAMPLES if words[1] == "diff"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mapping.csv").write_text(block("csv"))
    (tmp_path / "mapping.csv.new").write_text(
        "pattern;server\nexample.com;new.example.net,old.example.net:2525\n"
        "example.org;new.example.net\n"
    )
    assert main(["diff", "mapping.csv", "mapping.csv.new"]) == 1
    assert capsys.readouterr().out == printed


def test_every_command_has_a_section():
    assert [re.match(r"`smtpproxy (\w+)", text)[1] for text in SECTIONS] == list(commands())  # type: ignore[index]
    for command in commands():
        assert f"| `smtpproxy {command}" in HEAD


def test_the_options_of_all():
    assert documented(HEAD) == options(command_line())


@pytest.mark.parametrize("command", commands())
def test_the_options_of_each(command):
    assert documented(section(command)) == options(commands()[command]) - documented(HEAD)


@pytest.mark.parametrize("command", commands())
def test_its_exit_statuses_and_its_help(command):
    statuses = re.findall(r"^\| (\d) \|", section(command), re.MULTILINE)
    assert statuses == ["0", "1", "2"]
    assert re.search(r"exit status: 0 .*, 1 .*, 2 ", commands()[command].format_help())
    assert f"smtpproxy {command}" in (commands()[command].epilog or "")


def block(kind: str) -> str:
    (found,) = re.findall(rf"^```{kind}\n((?s:.*?))^```$", DOCUMENT, re.MULTILINE)
    return found


def test_there_are_samples():
    names = [words[1] for words, _ in SAMPLES]
    assert names == ["check", "lookup", "lookup", "probe", "diff", "demo"]


@pytest.mark.parametrize(("words", "printed"), SAMPLES[:3])
def test_the_samples(words, printed, tmp_path, proxy_certificate, capsys, monkeypatch):
    (tmp_path / "smtpproxy.toml").write_text(block("toml"))
    (tmp_path / "mapping.csv").write_text(block("csv"))
    shutil.copy(proxy_certificate.chain, tmp_path / "cert.pem")
    shutil.copy(proxy_certificate.key, tmp_path / "key.pem")
    monkeypatch.setenv("SMTPPROXY_CONFIG", str(tmp_path / "smtpproxy.toml"))
    main(words[1:])
    assert capsys.readouterr().out.replace(str(tmp_path), FOLDER) == printed


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_configuration_of_the_readme(tmp_path, proxy_certificate, capsys):
    (config,) = re.findall(r"^```toml\n((?s:.*?))^```$", README, re.MULTILINE)
    (mapping,) = re.findall(r"^```csv\n((?s:.*?))^```$", README, re.MULTILINE)
    (tmp_path / "smtpproxy.toml").write_text(config)
    (tmp_path / "mapping.csv").write_text(mapping)
    shutil.copy(proxy_certificate.chain, tmp_path / "cert.pem")
    shutil.copy(proxy_certificate.key, tmp_path / "key.pem")
    assert main(["check", "--config", str(tmp_path / "smtpproxy.toml")]) == 0
    assert without_folder(capsys.readouterr().err) == ""


def test_the_commands_of_the_readme_are_right():
    for words in map(shlex.split, re.findall(r"^\.venv/bin/smtpproxy ([^#\n]*)", README, re.M)):
        command_line().parse_args(words)


@pytest.mark.parametrize("place", re.findall(r"\]\(([^)]+)\)", README))
def test_what_the_readme_points_at_is_there(place):
    assert (ROOT / place).exists()
