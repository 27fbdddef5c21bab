"""smtpproxy lookup and reload, answered by the running program."""

from __future__ import annotations

import json
import smtplib
import socket
from pathlib import Path
from threading import Thread

import pytest

from smtpproxy.cli import main
from smtpproxy.request import ControlError, NobodyAnswers, request
from tests.support.mail_server import MailServer
from tests.support.processes import short_folder
from tests.support.proxy import Proxy, row

ROWS = [row(f"user{number}@example.com", "192.0.2.1") for number in range(9)]


@pytest.fixture(scope="module")
def running():
    with short_folder() as path, Proxy(path, ROWS, control="control") as proxy:
        yield proxy, path


@pytest.fixture
def ask(running, capsys):
    """Run a command beside the program; status, output and errors."""
    _, folder = running

    def run(command: str, *arguments: str) -> tuple[int, str, str]:
        status = main([command, "--config", str(folder / "smtpproxy.toml"), *arguments])
        said = capsys.readouterr()
        return status, *(text.replace(f"{folder}/", "") for text in said)

    return run


def write(running, *rows):
    """The rows of the file from now on, which the program sees when it is told."""
    (running[1] / "mapping.csv").write_text("\n".join(["pattern;server;tls_verify", *rows, ""]))


def test_the_running_program_says_what_is_in_force(ask, running):
    write(running, "nonsense")
    status, out, err = ask("lookup", "user1@example.com")
    assert (status, err) == (0, "")
    assert out == (
        "answered by the running program\n"
        "csv mapping.csv\n"
        "  user1@example.com  mapping.csv:3\n"
        "user1@example.com goes to 192.0.2.1:25\n"
        "  tls       TLS where offered; its certificate need not verify\n"
        "  identity  XCLIENT where offered\n"
    )
    assert ask("lookup", "--offline", "user1@example.com")[0] == 2  # the file is wrong
    said = json.loads(ask("lookup", "--json", "nobody@example.com")[1])
    assert (said["answer"], said["answered_by"], said["because"]) == ("no_route", "program", "")


UNCHANGED = "configuration in force, as it was\n"


def test_reload(ask, running):
    write(running, *ROWS, row("new@example.com", "192.0.2.2"))
    status, out, err = ask("reload")
    assert (status, err) == (0, "")
    assert out.startswith(f"{UNCHANGED}mapping.csv: 10 rows in force, ")
    assert ask("lookup", "new@example.com")[0] == 0

    write(running, *ROWS, "x", "@y@z;192.0.2.1")
    status, out, err = ask("reload")
    assert (status, err) == (1, "")
    places = [line.partition(": ")[0] for line in out.splitlines()]
    assert places == ["mapping.csv:11", "mapping.csv:12", "not taken"]
    assert ask("lookup", "new@example.com")[0] == 0  # the old rows stay


def test_a_file_that_shrinks_is_taken_by_force_alone(ask, running):
    write(running, *ROWS)
    assert ask("reload", "--force")[0] == 0
    write(running, ROWS[0])
    status, out, _ = ask("reload")
    assert status == 1
    assert "NOT TAKEN" in out
    assert ask("lookup", "user8@example.com")[0] == 0
    said = f"{UNCHANGED}mapping.csv: 1 rows in force, 9 before\n"
    assert ask("reload", "--force")[:2] == (0, said)
    assert ask("lookup", "user8@example.com")[0] == 1


def test_a_broken_configuration_is_for_the_running_program_to_judge(folder, capsys):
    """It is asked all the same, and says of a reload what is wrong."""
    with Proxy(folder, ROWS) as proxy:
        config = str(proxy.settings_file)
        proxy.configure(limits={"max_errors": 0})
        assert main(["status", "--config", config]) == 0
        assert main(["lookup", "user1@example.com", "--config", config]) == 0
        assert capsys.readouterr().out.endswith("XCLIENT where offered\n")
        assert main(["upstream", "drain", "192.0.2.1", "--config", config]) == 0
        capsys.readouterr()
        assert main(["reload", "--config", config]) == 1
        fault, stays = capsys.readouterr().out.splitlines()
        assert ": limits.max_errors: must be " in fault
        assert stays == f"not taken: {STAY}"
        assert f"error: {fault}" in proxy.output

        proxy.settings_file.write_text('control = "control"\nlisteners = [')
        assert main(["reload", "--config", config]) == 2
        assert "is not valid TOML" in capsys.readouterr().err
        assert main(["lookup", "--offline", "user1@example.com", "--config", config]) == 2
    proxy.configure()
    assert main(["lookup", "user1@example.com", "--config", config]) == 2
    assert "limits.max_errors: must be " in capsys.readouterr().err


STAY = "the configuration, mappings and certificates in force stay as they are"


def test_a_control_socket_that_another_program_has(folder, capsys):
    with Proxy(folder, ROWS) as first:
        (folder / "second").mkdir()
        with Proxy(folder / "second", ROWS, control=str(first.control)) as second:
            said = f"no control socket {first.control}: Address already in use; another program "
            assert f"{said}listens there: perhaps another smtpproxy" in second.output


SMALL = 'domain = "mx.test"\nlisteners = [{listen = ":25"}]\n'
STATIC = '[[mappings]]\ntype = "static"\nserver = "mx1.test"\n'


def test_shadows(ask, folder, capsys):
    """The counts of the running program, which nothing but what shadows say changes."""
    assert ask("shadows")[:2] == (0, "no shadow was asked since the start\n")
    columns = "pattern;server;tls_verify;shadow"
    with (
        MailServer("one") as one,
        MailServer("new") as new,
        Proxy(
            folder,
            [f"*;{one.server};false;{new.server}", f"b@example.com;{one.server};false;127.0.0.1:9"],
            columns=columns,
            log={"level": "debug"},
        ) as proxy,
    ):
        for recipient in ("a@example.com", "c@example.com", "b@example.com"):
            with smtplib.SMTP("127.0.0.1", proxy.port) as client:
                client.sendmail("s@example.org", recipient, "Subject: x\r\n\r\nx\r\n")
        proxy.wait_for(lambda: proxy.output.count("shadow ") >= 3, "the shadows' answers")
        assert main(["shadows", "--config", str(folder / "smtpproxy.toml")]) == 1
        assert sorted(capsys.readouterr().out.splitlines()) == [
            f"{new.server}: asked of 2 recipients, 0 differed",
            "127.0.0.1:9: asked of 1 recipient, 1 differed",
        ]


def test_reload_without_a_control_socket(folder, capsys):
    file = folder / "smtpproxy.toml"
    file.write_text(SMALL + STATIC)
    assert main(["reload", "--config", str(file)]) == 2
    assert capsys.readouterr().err.startswith(
        f'{file}: control is not set: add control = "/run/smtpproxy/control" at the top; '
        "SIGHUP (systemctl reload smtpproxy) has it in force. "
    )


def test_reload_when_nothing_runs(folder, capsys):
    file = folder / "smtpproxy.toml"
    file.write_text(f'control = "control"\n{SMALL}{STATIC}')
    assert main(["reload", "--config", str(file)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"{folder}/control: smtpproxy does not run, or has no control socket. ")
    assert "If it runs, SIGHUP (systemctl reload smtpproxy) does the same" in err


class Answering:
    """A control socket that answers `answer`, whatever it is asked, or only takes the request."""

    def __init__(self, path: Path, answer: bytes | None) -> None:
        self.path = path
        self._answer = answer
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._listening.accept()
        with connection:
            connection.recv(65536)
            if self._answer is not None:
                connection.sendall(self._answer)
                return
            connection.recv(1)  # until the other side gives up

    def stop(self) -> None:
        self._listening.close()
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (b'{"ok": false, "error": "no"}\n', ControlError, "^no$"),
        (b'{"ok": true, "x', NobodyAnswers, "cut short"),
        (b"", NobodyAnswers, "cut short"),
        (b"[1]\n", NobodyAnswers, "is not smtpproxy"),
        (b"220 mx.test ESMTP\r\n", NobodyAnswers, "cut short"),
        (None, NobodyAnswers, "no answer within 0.2 s"),
    ],
)
def test_answers_that_are_none(folder, answer, kind, text):
    server = Answering(folder / "control", answer)
    with pytest.raises(ControlError, match=text) as caught:
        request(server.path, "reload", 0.2)
    assert type(caught.value) is kind
    server.stop()


def test_what_comes_in_pieces_is_one_answer(folder):
    server = Answering(folder / "control", b'{"ok": true, "x": "' + b"y" * 200_000 + b'"}\n')
    assert request(server.path, "reload", 20) == {"x": "y" * 200_000}
    server.stop()


def test_no_way_to_the_socket(folder):
    (folder / "file").write_text("")
    with pytest.raises(NobodyAnswers, match="Not a directory"):
        request(folder / "file" / "control", "reload", 1)


def test_shadows_that_were_not_always_asked(folder, capsys):
    """Also of a program that does not count them."""
    counts = {"shadow": "new.test:25", "asked": 5, "differed": 0}
    skipped = {**counts, "not_asked": 12}
    file = folder / "smtpproxy.toml"
    file.write_text(f'control = "control"\n{SMALL}{STATIC}')
    for each, end in ((skipped, ", 12 not asked"), (counts, ""), ({**counts, "not_asked": 0}, "")):
        (folder / "control").unlink(missing_ok=True)
        answer = json.dumps({"ok": True, "shadows": [each]}).encode()
        server = Answering(folder / "control", answer + b"\n")
        assert main(["shadows", "--config", str(file)]) == 0
        server.stop()
        said = f"new.test:25: asked of 5 recipients, 0 differed{end}\n"
        assert capsys.readouterr().out == said


def test_a_database_that_is_down_at_the_start_is_told_in_the_log(folder):
    """Before there is any mail for it, and though it names no upstreams."""
    (folder / "routes.db").write_bytes(b"")
    query = "SELECT server FROM routes WHERE pattern = ?"
    mapping = {"type": "sqlite", "file": "routes.db", "query": query}
    with Proxy(folder, [], mappings=[mapping]) as proxy:
        proxy.wait_for(lambda: "no such table: routes" in proxy.output, "the warning")
        (line,) = [line for line in proxy.output.splitlines() if "no such table" in line]
        assert "warning: " in line
        assert "mappings[0]: " in line
