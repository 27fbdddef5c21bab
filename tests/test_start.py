"""How the program begins: where its log goes, and what it says where there is none."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from smtpproxy.service import Options, makeService
from tests.support.ports import free_port
from tests.support.proxy import TWISTD

PORT = re.compile(r"127\.0\.0\.1:([1-9][0-9]{3,})")
MINIMAL = """
domain = "mx.example.net"
listeners = [{listen = "127.0.0.1:%d"}]
mappings = [{type = "static", server = "127.0.0.1:9", tls_verify = false}]
"""


@pytest.fixture
def file(folder: Path) -> Path:
    path = folder / "smtpproxy.toml"
    path.write_text(MINIMAL % free_port())
    return path


def test_with_standard_output_closed_it_says_so_and_does_not_start(file: Path) -> None:
    """The next thing that it opens would have the log's number, a client's connection perhaps."""
    shell = f"exec {TWISTD} -n --pidfile= smtpproxy --config {file} >&-"
    ended = subprocess.run(["sh", "-c", shell], cwd=file.parent, stderr=subprocess.PIPE, timeout=20)
    assert ended.returncode == 1
    assert ended.stderr.decode() == (
        "smtpproxy: not started, for these faults:\n"
        f"{file}: log.file: standard output cannot be opened: it was closed when the program "
        "began; name a file here, or leave it open\n"
    )


@pytest.mark.parametrize("logs", ["to standard output", "to a file"])
def test_what_keeps_it_from_listening_is_shown_and_logged(file: Path, logs: str) -> None:
    """Twisted has put its log in the place of standard error by then."""
    log = file.with_name("log")
    if logs == "to a file":
        file.write_text(file.read_text() + 'log = {file = "log"}\n')
    with socket.create_server(("127.0.0.1", int(PORT.findall(file.read_text())[0]))):
        command = [str(TWISTD), "-n", "--pidfile=", "smtpproxy", "--config", str(file)]
        ended = subprocess.run(command, cwd=file.parent, capture_output=True, timeout=20)
    assert ended.returncode == 1
    place = f"{file}:3: listeners[0].listen: "
    first, fault = ended.stderr.decode().splitlines()
    assert first == "smtpproxy: not started, for these faults:"
    assert fault.startswith(place)
    assert "Address already in use; another program listens there" in fault
    assert log.exists() == (logs == "to a file")
    assert ended.stdout == b""
    if log.exists():
        assert f"error: {place}" in log.read_text()


def test_the_collector_of_garbage_is_hardly_needed_once_it_runs(file: Path) -> None:
    """A full collection while sessions are under way is a pause for all of them."""
    program = (
        "import gc, os; from twisted.internet import reactor; from twisted.scripts import twistd\n"
        "seen = lambda: f'{gc.isenabled()} {gc.get_threshold()} {gc.get_freeze_count() > 10_000}'\n"
        "reactor.callWhenRunning(lambda: os.write(1, seen().encode()))\n"
        "reactor.callWhenRunning(reactor.stop)\n"
        "twistd.run()"
    )
    arguments = ["-n", "--pidfile=", "smtpproxy", "--config", str(file)]
    command = [sys.executable, "-c", program, *arguments]
    ended = subprocess.run(command, cwd=file.parent, stdout=subprocess.PIPE, timeout=20)
    assert b"True (10000, 10, 10) True" in ended.stdout


@pytest.mark.parametrize(("in_front", "warned"), [(False, True), (True, False)])
def test_in_the_background_it_warns_of_a_log_that_goes_nowhere(
    file: Path, capsys: pytest.CaptureFixture[str], in_front: bool, warned: bool
) -> None:
    options = Options()
    options["config"] = str(file)
    options.parent = {"nodaemon": in_front}  # type: ignore[assignment]
    makeService(options)
    err = capsys.readouterr().err
    assert ("log.file: name a file: in the background, nothing is logged" in err) is warned
