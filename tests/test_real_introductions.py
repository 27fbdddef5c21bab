"""Who the client is, as other programs tell the running proxy: HAProxy, swaks, Postfix, itself."""

from __future__ import annotations

import re
import smtplib
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import postfix
from tests.support.haproxy import SOURCE, Haproxy
from tests.support.mail_server import MailServer
from tests.support.needs import need
from tests.support.postfix import Postfix
from tests.support.processes import greeting, short_folder
from tests.support.proxy import Proxy, row

CLIENT = "127.0.0.7"
RECIPIENT = "alice@example.com"
ROWS = "pattern;server;tls;identity"
TAKES = ["XCLIENT NAME ADDR PORT HELO LOGIN DESTADDR DESTPORT"]
WAYS = {
    "v1": "send-proxy",
    "v2": "send-proxy-v2",
    "v2-tlvs": "send-proxy-v2 proxy-v2-options unique-id,crc32c",
}
LISTENER = {
    "proxy_from": [SOURCE],
    "xclient_from": ["127.0.0.1", "127.0.0.8"],
    "xforward_from": ["127.0.0.9"],
}


@pytest.fixture(scope="module")
def server() -> Iterator[MailServer]:
    with MailServer("one", extensions=TAKES) as it:
        yield it


@pytest.fixture(scope="module")
def proxy(server: MailServer) -> Iterator[Proxy]:
    """It believes each of three addresses in one way, and is asked by all others as ever."""
    with short_folder() as folder:
        rows = [row("example.com", server.server)]
        anew = {"ask_every": "0s", "keep_idle": "0s"}  # upstreams are told in each session
        times = {"proxy_header": "500ms"}
        with Proxy(folder, rows, listener=LISTENER, timeouts=times, upstreams=anew) as it:
            yield it


@pytest.fixture
def told(server: MailServer) -> list[str]:
    """What the upstream is told from here on."""
    server.said.clear()
    return server.said


def send(port: int, source: str = CLIENT) -> int:
    """Send a message; the port that it was sent from."""
    with smtplib.SMTP(
        "127.0.0.1", port, "client.example.net", timeout=20, source_address=(source, 0)
    ) as client:
        assert client.sock is not None
        number: int = client.sock.getsockname()[1]
        client.sendmail("sender@example.org", [RECIPIENT], b"Subject: x\r\n\r\nx\r\n")
    return number


def xclient(told: list[str]) -> dict[str, str]:
    """What the upstream was told by XCLIENT, once."""
    (line,) = [each for each in told if each.startswith("XCLIENT ")]
    return dict(word.split("=", 1) for word in line.split()[1:])


@pytest.fixture(scope="module")
def haproxy(proxy: Proxy) -> Iterator[Haproxy]:
    checked = {
        "v2-checked": "send-proxy-v2 check inter 200ms",
        "silent": "check inter 200ms",
    }
    with short_folder() as folder, Haproxy(folder, proxy.port, {**WAYS, **checked}) as it:
        yield it


@pytest.mark.parametrize("way", WAYS)
def test_haproxy_tells_of_the_client(
    proxy: Proxy, haproxy: Haproxy, told: list[str], way: str
) -> None:
    """Its port, and the address it connected to, as well."""
    port = send(haproxy.ports[way])
    said = xclient(told)
    assert (said["ADDR"], said["PORT"]) == (CLIENT, str(port))
    assert (said["DESTADDR"], said["DESTPORT"]) == ("127.0.0.1", str(haproxy.ports[way]))
    assert f"connect from unknown[{CLIENT}] via={SOURCE} " in proxy.output


def test_haproxys_health_checks_are_no_trouble(proxy: Proxy, haproxy: Haproxy) -> None:
    """With a header of their own (LOCAL), or gone without a word."""
    connected = f"connect from unknown[{SOURCE}] session="
    proxy.wait_for(lambda: proxy.output.count(connected) > 3, "health checks")
    assert "lost connection" not in haproxy.output
    assert not re.search(rf"warning: no PROXY header from {SOURCE}:\d+: lost", proxy.output)


def test_without_a_header_there_is_no_greeting(proxy: Proxy, haproxy: Haproxy) -> None:
    assert greeting(haproxy.ports["silent"]) == b""
    line = rf"warning: no PROXY header from {SOURCE}:\d+: not there within 0\.5 s session="
    proxy.wait_for(lambda: re.search(line, proxy.output), "the warning")


def test_of_others_no_header_is_taken(proxy: Proxy) -> None:
    """They get a greeting at once, and are no less themselves."""
    need("swaks")
    done = swaks(proxy, CLIENT, *PROXY_V1)
    assert "500 5.5.2 Command not recognised" in done.stdout
    assert f"connect from unknown[{CLIENT}] session=" in proxy.output


def swaks(proxy: Proxy, source: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["swaks", "--server", f"127.0.0.1:{proxy.port}", "--local-interface", source]
    command += ["--from", "sender@example.org", "--to", RECIPIENT, "--helo", "client.example.net"]
    return subprocess.run(
        [*command, *options], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )


ENDS = ["--proxy-source", "2001:db8::9", "--proxy-source-port", "40000"]
ENDS += ["--proxy-dest", "2001:db8::1", "--proxy-dest-port", "25"]
PROXY_V1 = ["--proxy-version", "1", "--proxy-family", "TCP6", *ENDS]
PROXY_V2 = ["--proxy-version", "2", "--proxy-family", "AF_INET6", *ENDS]


@pytest.mark.parametrize("options", [PROXY_V1, PROXY_V2], ids=["v1", "v2"])
def test_swaks_header(proxy: Proxy, told: list[str], options: list[str]) -> None:
    need("swaks")
    done = swaks(proxy, SOURCE, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    said = xclient(told)
    assert (said["ADDR"], said["PORT"]) == ("IPV6:2001:db8::9", "40000")


def test_swaks_xclient(proxy: Proxy, told: list[str]) -> None:
    """All that Postfix would take, encoded by others."""
    need("swaks")
    options = ["--xclient-login", "alice=+ x", "--xclient-delim", "--xclient-name", "mail.test"]
    options += ["--xclient-addr", "203.0.113.9", "--xclient-port", "40000"]
    done = swaks(proxy, "127.0.0.8", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    said = xclient(told)
    assert (said["NAME"], said["ADDR"], said["PORT"]) == ("mail.test", "203.0.113.9", "40000")
    assert "LOGIN" not in said, "said of the client before"
    assert "XCLIENT from 127.0.0.8: client is mail.test[203.0.113.9] session=" in proxy.output
    assert "did not advertise XCLIENT" in swaks(proxy, CLIENT, *options).stderr


def test_postfix_forwards_and_the_log_tells(proxy: Proxy, folder: Path, told: list[str]) -> None:
    need("postfix", root=True)
    main = {"smtp_send_xforward_command": "yes", "smtp_bind_address": "127.0.0.9"}
    settings = postfix.Settings(("x@example.org",), relay=f"127.0.0.1:{proxy.port}", main=main)
    with Postfix(folder, settings) as sender:
        with smtplib.SMTP("127.0.0.1", sender.port, "first.example.net", timeout=20) as client:
            client.sendmail("sender@example.org", [RECIPIENT], b"Subject: x\r\n\r\nx\r\n")
        sender.logged("status=sent")
    assert xclient(told)["ADDR"] == "127.0.0.9"
    pattern = r"forwarded_client=\S+\[127\.0\.0\.1\] forwarded_helo=first\.example\.net"
    proxy.wait_for(lambda: re.search(pattern, proxy.output), "the summary")


@pytest.mark.parametrize("identity", ["proxy1", "proxy2"])
def test_haproxy_reads_what_we_tell(
    proxy: Proxy, folder: Path, told: list[str], identity: str
) -> None:
    """We tell HAProxy, and it tells us."""
    with ExitStack() as stack:
        enter = stack.enter_context
        haproxy = enter(Haproxy(folder, proxy.port, {"v2": "send-proxy-v2"}, accept_proxy=True))
        rows = [f"example.com;127.0.0.1:{haproxy.ports['v2']};none;{identity}"]
        front = enter(Proxy(folder, rows, columns=ROWS))
        port = send(front.port)
    said = xclient(told)
    assert (said["ADDR"], said["PORT"]) == (CLIENT, str(port))
    assert said["DESTPORT"] == str(front.port)


def test_one_proxy_before_another(proxy: Proxy, folder: Path, told: list[str]) -> None:
    """What we tell by XCLIENT, we would ourselves believe."""
    rows = [f"example.com;127.0.0.1:{proxy.port};none;xclient"]
    with Proxy(folder, rows, columns=ROWS) as front:
        port = send(front.port)
    said = xclient(told)
    assert (said["ADDR"], said["PORT"], said["HELO"]) == (CLIENT, str(port), "client.example.net")
    assert said["DESTPORT"] == str(front.port)
