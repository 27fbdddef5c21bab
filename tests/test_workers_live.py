"""The real program with workers: who serves, who is killed, and what all of them take or none."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.cli import main
from smtpproxy.request import follow, request
from tests.support.layers import ROOT
from tests.support.mail_server import MailServer
from tests.support.ports import free_port
from tests.support.processes import greeting, wait_until
from tests.support.proxy import TWISTD, Proxy, csv, row, toml
from tests.support.steady import Steady
from tests.test_notify import Systemd

PATIENCE = 20.0  # seconds
NOBODY = 65534
MAILBOX = "a@example.com"
_SUBJECT = re.compile(rb"Subject: (.*?)\r\n")


@pytest.fixture
def one() -> Iterator[MailServer]:
    with MailServer("one") as server:
        yield server


class Crowd:
    """A proxy with workers, all of which serve."""

    def __init__(self, proxy: Proxy, temporary: Path) -> None:
        self.proxy = proxy
        self.temporary = temporary

    @property
    def pids(self) -> dict[int, int]:
        """Of the workers that began to serve last, by their numbers."""
        found = re.findall(r"worker (\d+) \((\d+)\) serves", self.proxy.output)
        return {int(number): int(pid) for number, pid in found}

    def wait_for(self, look: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        return self.proxy.wait_for(look, what, seconds)

    def wait_for_the_end(self) -> None:
        over = lambda: not any(map(is_there, self.pids.values()))  # noqa: E731
        wait_until(over, PATIENCE, "the workers to end")

    def kill(self, number: int, how: signal.Signals = signal.SIGKILL) -> None:
        """And wait until another one serves in its place."""
        old = self.pids[number]
        os.kill(old, how)
        self.wait_for(lambda: self.pids[number] != old, "another worker")

    def reload(self, **how: Any) -> tuple[bool, str]:
        said = request(self.proxy.control, "reload", PATIENCE, **how)
        return said["taken"], "\n".join(said["lines"])

    def domains(self) -> set[str]:
        """What a good many sessions are greeted with."""
        return {greeting(self.proxy.port).split()[1].decode() for _ in range(30)}

    def served_by(self) -> set[int]:
        """The processes that have had a client."""
        return {int(pid) for pid in re.findall(r"smtpd\[(\d+)\]: connect ", self.proxy.output)}


@contextmanager
def crowd(folder: Path, server: str, workers: int = 2, **settings: Any) -> Iterator[Crowd]:
    """A proxy with so many; it leaves nothing behind, whatever happens to it."""
    temporary = folder / "t"
    temporary.mkdir()
    more = {"TMPDIR": str(temporary), **settings.pop("more", {})}
    with Proxy(folder, [row("*", server)], workers=workers, more=more, **settings) as proxy:
        it = Crowd(proxy, temporary)
        proxy.wait_for(lambda: f"started, with {workers} workers" in proxy.output, "all workers")
        yield it
        proxy.stop()
    it.wait_for_the_end()
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in proxy.output


def is_there(pid: int) -> bool:
    """It runs: one that has ended and was not asked for its status does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def in_hand(port: int, named: str) -> Iterator[smtplib.SMTP]:
    """A transaction of which half the content is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE):
        client = smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
        client.ehlo("client.example.net")
        client.mail("sender@example.net")
        client.rcpt(MAILBOX)
        assert client.docmd("DATA")[0] == 354
        client.send(f"Subject: {named}\r\n\r\nhalf\r\n".encode())
        try:
            yield client
        finally:
            client.close()


def finish(client: smtplib.SMTP) -> tuple[int, int]:
    """What the client is told at the end of its message, and then."""
    client.send(b".\r\n")
    return client.getreply()[0], client.getreply()[0]


def subjects(server: MailServer) -> Counter[str]:
    return Counter(found[1].decode() for each in server.messages if (found := _SUBJECT.match(each)))


def assert_none_lost(server: MailServer, steady: Steady) -> None:
    """What was taken has arrived once; what else has was in doubt when a worker was killed."""
    arrived, taken = subjects(server), Counter(steady.taken)
    assert not taken - arrived, "lost"
    assert Counter(steady.unanswered) >= arrived - taken, "doubled"


# Serving, and dying


def test_one_that_is_killed_under_load_is_replaced_and_no_message_is_lost(
    folder: Path, one: MailServer
) -> None:
    with crowd(folder, one.server) as it, Steady(it.proxy.port, MAILBOX, clients=6) as steady:
        it.wait_for(lambda: it.served_by() >= set(it.pids.values()), "mail by both")
        before = len(steady.taken)
        it.kill(1)
        it.kill(2)
        assert f"({it.pids[1]}) serves" in it.proxy.output
        it.wait_for(lambda: it.served_by() >= set(it.pids.values()), "mail by the new ones")
        steady.stop()
        assert "ended by SIGKILL; it is started again now" in it.proxy.output
        assert it.proxy.stop() == 0
        assert len(steady.taken) > before
        assert steady.refused == 0, "the parent listens"
    assert_none_lost(one, steady)
    ids = re.findall(r" ([0-9A-F]{12})\d\d: client=", it.proxy.output)
    first = re.findall(r": connect from .* session=([0-9A-F]{12})", it.proxy.output)
    assert len(first) == len(set(first)), "two sessions of one name"
    assert set(ids) <= set(first)


def test_with_the_parent_killed_what_is_in_hand_is_finished(folder: Path, one: MailServer) -> None:
    with crowd(folder, one.server) as it, in_hand(it.proxy.port, "kept") as client:
        os.kill(it.proxy.pid, signal.SIGKILL)
        refused = lambda: greeting(it.proxy.port) == b""  # noqa: E731
        wait_until(refused, PATIENCE, "the workers to let nobody in")
        # Another one can take its place at once.
        again = socket.create_server(("127.0.0.1", it.proxy.port), reuse_port=False)
        again.close()
        assert finish(client) == (250, 421)
        it.wait_for_the_end()
    assert subjects(one) == {"kept": 1}
    assert "the parent has ended: so does this worker" in it.proxy.output


def test_sigterm_finishes_what_is_in_hand_also_where_all_are_told(
    folder: Path, one: MailServer
) -> None:
    """systemd tells every process of a unit, and the parent tells its workers, too."""
    web = free_port()
    with crowd(folder, one.server, http={"listen": f"127.0.0.1:{web}"}) as it:
        with in_hand(it.proxy.port, "first") as first, in_hand(it.proxy.port, "second") as second:
            for pid in (*it.pids.values(), it.proxy.pid, *it.pids.values()):
                os.kill(pid, signal.SIGTERM)
            wait_until(lambda: greeting(it.proxy.port) == b"", PATIENCE, "the doors to close")
            ready = b"GET /readyz HTTP/1.0\r\n\r\n"
            with socket.create_connection(("127.0.0.1", web), timeout=PATIENCE) as client:
                client.sendall(ready)
                answer = client.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.0 503 ")
            assert answer.endswith(b"\r\nstopping\n")
            assert (finish(first), finish(second)) == ((250, 421), (250, 421))
        assert it.proxy.stop() == 0
        assert it.proxy.output.count(f"[{it.proxy.pid}]: stopping\n") == 1
        assert it.proxy.output.count("]: stopped\n") == 3
    assert subjects(one) == {"first": 1, "second": 1}


def test_sigterm_twice_cuts(folder: Path, one: MailServer) -> None:
    with crowd(folder, one.server) as it:
        with in_hand(it.proxy.port, "cut") as client:
            os.kill(it.proxy.pid, signal.SIGTERM)
            it.wait_for(lambda: "sessions to end" in it.proxy.output, "the drain")
            assert it.proxy.stop() == 0
            assert client.getreply()[0] == 421
    assert subjects(one) == {}


# One configuration

STAYS = "workers stays {} until smtpproxy is restarted"


def test_a_reload_is_taken_by_all_or_by_none(folder: Path, one: MailServer) -> None:
    with crowd(folder, one.server, 3) as it, Steady(it.proxy.port, MAILBOX) as steady:
        proxy, port = it.proxy, free_port()
        ours, another = ({"listen": f"127.0.0.1:{each}"} for each in (proxy.port, port))
        assert it.reload() == (
            True,
            f"configuration in force, as it was\n{proxy.file}: 1 rows in force, 1 before",
        )

        proxy.configure(domain="new.example.net", listeners=[ours, another])
        assert it.reload()[0]
        assert it.domains() == {"new.example.net"}
        assert greeting(port).startswith(b"220 new.example.net")

        # The parent does not take this.
        proxy.configure(domain="not a domain")
        taken, lines = it.reload()
        assert (taken, "domain" in lines, "not taken:" in lines) == (False, True, True)
        said = request(proxy.control, "status", PATIENCE)["configuration"]["reload"]
        assert (said["taken"], "domain" in said["lines"][0]) == (False, True)

        # One that is started now has what is in force.
        it.kill(2)
        assert it.domains() == {"new.example.net"}

        # The first worker does not take this, and what was bound for it is given back.
        third = free_port()
        proxy.configure(
            domain="newer.example.net",
            listeners=[ours, another, {"listen": f"127.0.0.1:{third}"}],
            mappings=[{"type": "csv", "file": "no.csv"}],
        )
        taken, lines = it.reload()
        assert (taken, "no.csv" in lines) == (False, True)
        assert greeting(third) == b""
        assert it.domains() == {"new.example.net"}

        proxy.configure(
            listeners=[ours], mappings=[{"type": "csv", "file": "mapping.csv"}], control="elsewhere"
        )
        assert it.reload()[0]
        assert not proxy.control.exists()
        assert greeting(port) == b""
        assert it.domains() == {"newer.example.net"}
        assert request(folder / "elsewhere", "status", PATIENCE)["configuration"]["reload"]["taken"]
        proxy.configure(workers=2)
        os.kill(proxy.pid, signal.SIGHUP)
        it.wait_for(lambda: STAYS.format(3) in proxy.output, "a word")
        steady.stop()
        assert steady.refused == 0
    assert_none_lost(one, steady)


def test_one_process_stays_one_until_a_restart(folder: Path, one: MailServer) -> None:
    with Proxy(folder, [row("*", one.server)]) as proxy:
        proxy.configure(workers=3, domain="new.example.net")
        assert request(proxy.control, "reload", PATIENCE) == {
            "taken": True,
            "lines": [
                "configuration in force, changed: domain",
                f"{proxy.file}: 1 rows in force, 1 before",
                STAYS.format(1),
            ],
        }
        assert proxy.output.count(f"warning: {STAYS.format(1)}\n") == 1
        assert greeting(proxy.port).startswith(b"220 new.example.net")


def test_files_of_rows_are_watched_by_each(folder: Path, one: MailServer) -> None:
    with MailServer("two") as two, crowd(folder, one.server) as it:
        it.proxy.file.write_text(csv([row("*", two.server)]))
        told = f"{it.proxy.file}: 1 rows in force, 1 before"
        it.wait_for(lambda: it.proxy.output.count(told) == 2, "both to see it")


# Commands


def test_all_are_asked_and_one_answer_is_given(
    folder: Path, one: MailServer, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    with crowd(folder, one.server, http={"listen": f"127.0.0.1:{port}"}) as it:
        proxy = it.proxy
        seen: set[str] = set()
        tail = threading.Thread(target=listen, args=(proxy.control, seen))
        tail.start()
        it.wait_for(lambda: greeting(proxy.port) and seen, "the tail")
        it.kill(1)  # who follows also hears the new one
        with Steady(proxy.port, MAILBOX) as steady:
            it.wait_for(lambda: it.served_by() >= set(it.pids.values()), "mail by both")
        connected = re.findall(rf"\[{it.pids[1]}\]: connect from .*session=(\w+)", proxy.output)
        it.wait_for(lambda: seen.issuperset(connected), "all sessions of the new one")

        def ask(*words: str) -> tuple[int, str]:
            status = main([*words, "--config", str(proxy.settings_file)])
            return status, capsys.readouterr().out

        assert ask("lookup", MAILBOX)[1].count(one.server) == 1
        delivered = f'upstream="{one.server}",outcome="delivered"}} {len(steady.taken)}\n'
        it.wait_for(lambda: delivered in ask("metrics")[1], "the numbers of both")
        said = ask("metrics")[1]
        assert "smtpproxy_workers 2\n" in said
        assert "smtpproxy_workers_wanted 2\n" in said
        assert ask("shadows")[0] == 0
        assert ", 2 workers\n" in ask("status")[1]
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
            client.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 200 ")

        # What is said of an upstream is known to all, and to those that come later.
        assert ask("upstream", "drain", one.server)[0] == 0
        it.kill(2)
        assert ask("upstreams")[1].count("DRAIN") == 1
        assert delivered in ask("metrics")[1], "what one has counted stays when it is gone"
        assert {rcpt(proxy.port) for _ in range(20)} == {451}
        assert ask("upstream", "enable", one.server)[0] == 0
        assert {rcpt(proxy.port) for _ in range(20)} == {250}
        proxy.stop()
        tail.join(PATIENCE)
        assert not tail.is_alive()


def listen(control: Path, seen: set[str]) -> None:
    """As `smtpproxy tail`: the sessions that are seen."""
    for line in follow(control, "tail", PATIENCE):
        seen.add(line["session"])


def rcpt(port: int) -> int:
    with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
        client.ehlo("client.example.net")
        client.mail("sender@example.net")
        return client.rcpt(MAILBOX)[0]


def test_one_that_hangs_keeps_nobody_waiting(
    folder: Path, one: MailServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with crowd(folder, one.server) as it:
        os.kill(it.pids[1], signal.SIGSTOP)
        began = time.monotonic()
        assert main(["upstreams", "--config", str(it.proxy.settings_file)]) == 1
        assert time.monotonic() - began < 10
        out, err = capsys.readouterr()
        assert f"worker 1 ({it.pids[1]}) does not answer: the others say this" in err
        assert "listener " in out
        os.kill(it.pids[1], signal.SIGCONT)


# Sockets, logs, processes


def test_sockets_of_all_kinds_and_no_other_descriptors(folder: Path, one: MailServer) -> None:
    path = folder / "smtp"
    with socket.create_server(("127.0.0.1", 0)) as mx:
        own = free_port()
        where = [f"127.0.0.1:{own}", "127.0.0.1:0", "unix:smtp", "systemd:mx"]
        listeners = [{"listen": each} for each in where]
        with crowd(folder, one.server, port=own, given={"mx": mx}, listeners=listeners) as it:
            ports = set(re.findall(r"listening on 127\.0\.0\.1:(\d+)\n", it.proxy.output))
            assert len(ports) == 3
            assert {str(own), str(mx.getsockname()[1])} < ports
            it.kill(1, signal.SIGTERM)  # it gives back what it had, and the path is not its own
            it.kill(2)
            assert all(greeting(int(each)).startswith(b"220 ") for each in ports)
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(str(path))
                assert client.recv(4) == b"220 "
            descriptors = {pid: sockets(pid) for pid in (it.proxy.pid, *it.pids.values())}
            first, second = (descriptors[pid] for pid in it.pids.values())
            listened = first & second
            assert len(listened) == 4
            assert (first | second) & descriptors[it.proxy.pid] == listened
            assert it.proxy.stop() == 0
            assert not path.exists()


def sockets(pid: int) -> set[str]:
    folder = Path(f"/proc/{pid}/fd")
    links = (os.readlink(each) for each in folder.iterdir())
    return {each for each in links if each.startswith("socket:")}


def test_port_0_can_be_had_once(folder: Path) -> None:
    file = folder / "smtpproxy.toml"
    text = 'workers = 2\nmappings = [{type = "static", server = "192.0.2.1"}]\n'
    file.write_text(f'{text}listeners = [{{listen = "127.0.0.1:0"}}, {{listen = "127.0.0.1:0"}}]')
    command: list[str | Path] = [TWISTD, "-n", "--pidfile=", "smtpproxy", "--config", file]
    ended = subprocess.run(command, cwd=folder, capture_output=True, timeout=PATIENCE)
    assert ended.returncode == 1
    assert b"listeners[1].listen: with workers, 127.0.0.1:0 can be listened to once" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP])
def test_all_begin_a_new_log(folder: Path, one: MailServer, number: signal.Signals) -> None:
    log = folder / "mail.log"
    with Proxy(folder, [row("*", one.server)], workers=2, log={"file": "mail.log"}) as proxy:
        wait_until(lambda: "started, with 2" in log.read_text(), PATIENCE, "all workers")
        pids = [proxy.pid, *map(int, re.findall(r"worker \d \((\d+)\) serves", log.read_text()))]
        assert [has_open(each, log) for each in pids] == [True] * 3
        log.rename(folder / "old.log")
        os.kill(proxy.pid, number)
        wait_until(lambda: all(has_open(each, log) for each in pids), PATIENCE, "the new log")


def has_open(pid: int, file: Path) -> bool:
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed just now
            if os.readlink(each) == str(file):
                return True
    return False


def test_systemd_hears_of_it_once_all_serve(folder: Path, one: MailServer) -> None:
    with Systemd(str(folder / "notify")) as systemd:
        told: list[dict[str, str]] = []

        def until(name: str, text: str) -> None:
            while not told or told[-1].get(name) != text:
                told.append(systemd.told())

        more = {"NOTIFY_SOCKET": systemd.name, "WATCHDOG_USEC": "4000000"}
        with crowd(folder, one.server, 3, more=more) as it:
            until("READY", "1")
            until("WATCHDOG", "1")
            it.proxy.configure(domain="not a domain")
            assert not it.reload()[0]
            until("RELOADING", "1")
            until("STATUS", "the last reload was not taken: see the log")
            it.kill(1)
            it.proxy.configure(domain="new.example.net")
            assert it.reload()[0]
            until("STATUS", "")
            assert it.proxy.stop() == 0
            until("STOPPING", "1")
    assert [each["READY"] for each in told if "READY" in each] == ["1"] * 3


# In the background, and as another user


def users() -> list[str]:
    """Us, and where we are root another, who must be able to run this Python."""
    places = {*Path(sys.executable).resolve().parents, *Path(sys.prefix).parents, *ROOT.parents}
    anybody = all(each.stat().st_mode & 0o001 for each in places)
    return ["", "nobody"] if anybody and os.getuid() == 0 else [""]


def start_in_background(folder: Path, server: str, *options: str | Path) -> Path:
    """The log, which its configuration names; the pid is in `pid`."""
    (folder / "mapping.csv").write_text(csv([row("*", server)]))
    settings = {
        "domain": "mx.example.net",
        "workers": 2,
        "listeners": [{"listen": f"127.0.0.1:{free_port()}"}],
        "mappings": [{"type": "csv", "file": "mapping.csv"}],
        "log": {"file": "mail.log"},
        "control": "control",
    }
    file = folder / "smtpproxy.toml"
    file.write_text("".join(f"{key} = {toml(value)}\n" for key, value in settings.items()))
    temporary = folder / "t"
    temporary.mkdir(exist_ok=True)
    temporary.chmod(0o777)
    subprocess.run(
        [TWISTD, f"--pidfile={folder}/pid", *options, "smtpproxy", "--config", file],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(temporary)},
        timeout=PATIENCE,
        check=True,
    )
    return folder / "mail.log"


@pytest.mark.parametrize("user", users())
def test_in_the_background(folder: Path, one: MailServer, user: str) -> None:
    options: list[str] = []
    if user:
        for each in (folder, folder / "mail.log"):
            each.touch(exist_ok=True)
            os.chown(each, NOBODY, NOBODY)
        options = [f"--uid={NOBODY}", f"--gid={NOBODY}"]
    log = start_in_background(folder, one.server, *options)
    pid = int((folder / "pid").read_text())
    try:
        wait_until(lambda: "started, with 2 workers" in log.read_text(), PATIENCE, "the workers")
        workers = [int(each) for each in re.findall(r"worker \d \((\d+)\) serves", log.read_text())]
        owners = {os.stat(f"/proc/{each}").st_uid for each in (pid, *workers)}
        assert owners == {NOBODY if user else os.getuid()}
        assert request(folder / "control", "reload", PATIENCE)["taken"]
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_there(pid), PATIENCE, "its end")
    assert list((folder / "t").iterdir()) == []
    assert not any(map(is_there, workers))
    assert "Traceback" not in log.read_text()


def test_workers_that_cannot_begin_end_the_program_and_say_why(
    folder: Path, one: MailServer
) -> None:
    """The file was there when the parent looked."""
    port = free_port()
    rows = folder / "mapping.csv"
    rows.write_text(csv([row("*", one.server)]))
    file = folder / "smtpproxy.toml"
    settings = {
        "domain": "mx.example.net",
        "workers": 2,
        "listeners": [{"listen": f"127.0.0.1:{port}"}],
        "mappings": [{"type": "csv", "file": "mapping.csv"}],
        "log": {"file": "mail.log"},
    }
    file.write_text("".join(f"{key} = {toml(value)}\n" for key, value in settings.items()))
    command: list[str | Path] = [TWISTD, "-n", f"--pidfile={folder}/pid", "smtpproxy"]
    with subprocess.Popen(
        [*command, "--config", file], cwd=folder, stderr=subprocess.PIPE, text=True
    ) as program:
        wait_until(lambda: is_open(port), PATIENCE, "the listener")
        rows.unlink()
        _, said = program.communicate(timeout=PATIENCE)
    assert program.returncode == 1
    for each in (said, (folder / "mail.log").read_text()):
        assert re.search(r"worker \d \(\d+\) ended with status 1 before it served:\n", each)
        assert f"smtpproxy.toml:4: mappings[0].file: {rows}: there is no such file" in each
    assert greeting(port) == b""
    assert not (folder / "pid").exists()


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
