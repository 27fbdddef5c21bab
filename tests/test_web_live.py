"""The status page of a running proxy, over sockets and in a real browser."""

from __future__ import annotations

import http.client
import json
import smtplib
import socket
import stat
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.cli import main
from tests.support.chromium import Browser
from tests.support.mail_server import MailServer
from tests.support.ports import free_port
from tests.support.processes import short_folder, wait_until
from tests.support.proxy import Proxy, row

TOKEN = "0123456789abcdef"
HOSTILE = "<img/src=x/onerror=document.title='taken'>"
PHONE, DESK = 390, 1280  # dots


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def post(port: int, path: str, **members: str) -> dict[str, Any]:
    data = urllib.parse.urlencode(members).encode()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    with urllib.request.urlopen(asked, timeout=20) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[Proxy, int]]:
    """A proxy that has seen some mail, with hostile names in it, and the port of its page."""
    port = free_port()
    with (
        MailServer("one.example.net", {"nobody@example.com"}, ("PIPELINING", "DSN")) as one,
        short_folder() as folder,
        Proxy(
            folder,
            [row("example.com", one.server), row("example.org", "127.0.0.1:1")],
            upstreams={"ask_every": "10m"},
            http={"listen": f"127.0.0.1:{port}", "token": TOKEN},
        ) as proxy,
        smtplib.SMTP("127.0.0.1", proxy.port, timeout=20) as client,
    ):
        client.ehlo(HOSTILE)
        client.sendmail("bob@example.org", ["alice@example.com"], b"Subject: x\r\n\r\nhello\r\n")
        client.mail("bob@example.org")
        for recipient in ("nobody@example.com", f'"{HOSTILE}"@a.test', "x@example.org"):
            assert client.rcpt(recipient)[0] >= 400
        yield proxy, port


def test_what_it_tells(running: tuple[Proxy, int]) -> None:
    proxy, port = running
    assert get(port, "/healthz") == (200, "ok\n")
    assert get(port, "/readyz") == (200, "ready\n")
    said = json.loads(get(port, "/status.json")[1])
    assert said["domain"] == "mx.example.net"
    assert said["processes"] == [proxy.pid]
    assert said["listening"] == [f"127.0.0.1:{proxy.port}"]
    assert sum(said["rates"]["messages"]) == 1
    assert [each["stage"] for each in said["refusals"]] == ["RCPT"] * 3
    assert said["refusals"][2]["reply"] == "550 5.1.1 not known to one.example.net"
    (session,) = [each for each in said["sessions"]["list"] if each["helo"] == HOSTILE]
    assert session["stage"] == "after MAIL"
    assert len(said["upstreams"]) == 2
    assert "smtpproxy_sessions_total" in get(port, "/metrics")[1]
    status, found = get(port, "/lookup.json?address=alice@example.com")
    assert (status, json.loads(found)["answer"]) == (200, "found")
    assert get(port, "/lookup.json?address=alice")[0] == 400


def test_who_has_the_token_may_change_something(running: tuple[Proxy, int]) -> None:
    _, port = running
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/reload", b"", timeout=20)
    assert post(port, "/upstream", standing="drain", name="127.0.0.1:1")["standing"] == "drain"
    (said,) = [
        each for each in json.loads(get(port, "/status.json")[1])["upstreams"] if each["standings"]
    ]
    assert said["servers"] == ["127.0.0.1:1"]
    post(port, "/upstream", standing="enabled", name="127.0.0.1:1")
    assert post(port, "/reload")["taken"] is True


def test_somebody_who_asks_in_vain_costs_no_connection(running: tuple[Proxy, int]) -> None:
    """More than there may be at once: the first go on."""
    _, port = running
    waiting = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(60)]
    for each in waiting:
        each.close()

    def answered() -> bool:
        with suppress(ConnectionResetError):
            return get(port, "/healthz")[0] == 200
        return False

    wait_until(answered, 20, "room again")


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with short_folder() as folder:
        yield Browser(folder)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_pictures(running: tuple[Proxy, int], browser: Browser, width: int, dark: bool) -> None:
    """Nothing is cut off at the right, it is light or dark, and there is something to be seen."""
    address = f"http://127.0.0.1:{running[1]}/"
    picture = browser.picture(address, f"page-{width}-{dark}", width, 1600, dark)
    assert picture.width == width
    brightness = picture.convert("L").getpixel((1, 1))
    assert isinstance(brightness, int)
    assert brightness < 60 if dark else brightness > 200
    assert len(picture.getcolors(1 << 24) or ()) > 50
    # At both sides there is the paper alone: what were too wide would reach over it.
    paper = picture.getpixel((1, 1))
    for x in (1, width - 3):
        assert {picture.getpixel((x, y)) for y in range(picture.height)} == {paper}


def test_the_browser_obeys_nothing_that_peers_said(
    running: tuple[Proxy, int], browser: Browser
) -> None:
    page = browser.document(f"http://127.0.0.1:{running[1]}/")
    assert "<title>mx.example.net</title>" in page
    assert "&lt;img/src" in page
    assert "<img" not in page
    found = browser.document(f"http://127.0.0.1:{running[1]}/lookup?address=%3Cimg%20src=x%3E")
    assert "<img" not in found


# Where it listens


def test_a_reload_moves_it_and_faults_change_nothing() -> None:
    one, two = free_port(), free_port()
    with short_folder() as folder, Proxy(folder, [row("a.test", "192.0.2.1")]) as proxy:
        config = ["--config", str(proxy.settings_file)]
        proxy.configure(http={"listen": f"127.0.0.1:{one}"})
        assert main(["reload", *config]) == 0
        assert get(one, "/healthz")[0] == 200
        with socket.create_server(("127.0.0.1", 0)) as taken:
            proxy.configure(http={"listen": f"127.0.0.1:{taken.getsockname()[1]}"})
            assert main(["reload", *config]) == 1
        proxy.configure(http={"listen": f"127.0.0.1:{two}", "token_file": "token"})
        assert main(["reload", *config]) == 1
        assert get(one, "/healthz")[0] == 200
        (folder / "token").write_text(TOKEN)
        assert main(["reload", *config]) == 0
        assert get(two, "/healthz")[0] == 200
        assert post(two, "/reload")["taken"] is True
        with pytest.raises(ConnectionRefusedError):
            get(one, "/healthz")
        proxy.configure(http={"listen": "unix:http"})
        assert main(["reload", *config]) == 0
        assert stat.S_IMODE((folder / "http").stat().st_mode) == 0o660
        assert b"200 OK" in by_socket(folder / "http", "/healthz")
        proxy.configure(http={})
        assert main(["reload", *config]) == 0
        assert not (folder / "http").exists()


def by_socket(path: Path, asked: str) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        connection.sendall(f"GET {asked} HTTP/1.0\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_port_that_is_taken_keeps_no_mail_from_flowing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, short_folder() as folder:
        http = {"listen": f"127.0.0.1:{taken.getsockname()[1]}"}
        with Proxy(folder, [row("a.test", "192.0.2.1")], http=http) as proxy:
            assert "no status page: " in proxy.output
            assert "another program listens there" in proxy.output


def test_what_can_be_reached_from_elsewhere_is_warned_of() -> None:
    with short_folder() as folder:
        http = {"listen": f"0.0.0.0:{free_port()}"}
        with Proxy(folder, [row("a.test", "192.0.2.1")], http=http) as proxy:
            assert "can be reached from elsewhere" in proxy.output


def test_while_it_stops_it_is_alive_and_not_ready() -> None:
    """A transaction in hand is finished; meanwhile a load balancer is told to send nobody."""
    port = free_port()
    with MailServer("one.example.net") as one, short_folder() as folder:
        http = {"listen": f"127.0.0.1:{port}"}
        with Proxy(folder, [row("example.com", one.server)], http=http) as proxy:
            with closing(smtplib.SMTP("127.0.0.1", proxy.port, timeout=20)) as client:
                client.ehlo("client.example.net")
                client.mail("bob@example.org")
                assert client.rcpt("alice@example.com")[0] == 250
                stopping = threading.Thread(target=proxy.stop)
                stopping.start()
                wait_until(lambda: get(port, "/readyz") == (503, "stopping\n"), 20, "stopping")
                assert get(port, "/healthz") == (200, "ok\n")
                assert json.loads(get(port, "/status.json")[1])["stopping"] is True
                assert client.data(b"Subject: x\r\n\r\nx\r\n")[0] == 250
            stopping.join(30)
            with pytest.raises(ConnectionRefusedError):
                get(port, "/healthz")
