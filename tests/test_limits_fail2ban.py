"""The filter for fail2ban, held against lines that the log really writes."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smtpproxy.events import Disconnected, Event, Refused, Side
from smtpproxy.listener import ConnectionLimits, SessionLimits
from smtpproxy.logs.levels import level_of
from smtpproxy.logs.text import TextShape
from smtpproxy.mail import UNAVAILABLE, Peer
from smtpproxy.networks import Networks
from smtpproxy.smtp.replies import Reply
from tests.support.dialogue import CLIENT, GREETING, ONE, Settings, World
from tests.support.log_events import SAMPLES
from tests.support.needs import missing

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "etc/fail2ban"
FAIL2BAN = ROOT / ".venv/fail2ban"

HOSTILE = "192.0.2.9"  # as in `CLIENT`
MODES = ("limits", "normal", "aggressive")


def read(name: str) -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=configparser.BasicInterpolation())
    config.read_string((SHIPPED / name).read_text().replace("%(__prefix_line)s", ""))
    return config


def patterns(mode: str) -> Iterator[re.Pattern[str]]:
    """What the filter looks for in a mode; its group is the address."""
    for line in read("filter.d/smtpproxy.conf")["Definition"][f"mode-{mode}"].split("\n"):
        yield re.compile(line.replace("<HOST>", r"(?P<host>[0-9a-f.:]+)"))


def lines(*events: Event, journal: bool = False) -> list[str]:
    shape = TextShape(time.time, "mx.example.net", lambda: 4711, journal)
    return "".join(shape.event(level_of(event), event) for event in events).splitlines()


def caught(mode: str, *events: Event) -> list[str]:
    """The addresses that lines about these events accuse."""
    found = []
    for line in lines(*events):
        text = line.split("]: ", 1)[1]
        matches = [match for it in patterns(mode) if (match := it.search(text))]
        found += [match["host"] for match in matches[:1]]
    return found


def over(**limits: Any) -> World:
    """A client that goes over a limit of its own."""
    connections = ConnectionLimits(**{"total": 100, "per_address": 10, **limits})
    return World({"example.com": ONE}, settings=Settings(limits=connections))


def test_one_with_too_many_connections_is_caught() -> None:
    world = over(per_address=1)
    world.connect()
    assert caught("limits", *world.events) == [HOSTILE]


def test_one_that_connects_too_often_is_caught() -> None:
    world = over(connections_per_minute=1)
    world.connect()
    assert caught("limits", *world.events) == [HOSTILE]


@pytest.mark.parametrize("address", ["192.0.2.77", "2001:db8::77"])
def test_one_that_sends_too_much_is_caught(address: str) -> None:
    peer = replace(CLIENT, address=address)
    limits = ConnectionLimits(10, 10, messages_per_minute=1)
    world = World({}, settings=Settings(limits=limits, peer=peer, name="mail.example.com"))
    world.play(GREETING).client.deliver(b"MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n")
    assert caught("limits", *world.events) == [address]


@pytest.mark.parametrize(
    ("session", "said"),
    [
        (SessionLimits(errors=2), b"FOO\r\nBAR\r\n"),
        (SessionLimits(junk=1, errors=1), b"NOOP\r\n"),
        (SessionLimits(commands=3), b"NOOP\r\nNOOP\r\n"),
    ],
)
def test_one_with_too_many_errors_or_commands_is_caught(session: SessionLimits, said: bytes):
    world = World({}, settings=Settings(session=session)).play(GREETING)
    world.client.deliver(said)
    assert world.said(Disconnected)
    assert caught("limits", *world.events) == [HOSTILE]


def test_who_guesses_addresses_is_caught() -> None:
    world = World({}).play(GREETING)
    world.client.deliver(b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\nRCPT TO:<b@example.com>\r\n")
    assert caught("normal", *world.events) == [HOSTILE, HOSTILE]
    assert caught("limits", *world.events) == []
    unknown = [each for each in SAMPLES if isinstance(each, Refused) and each.reply.code == 550]
    assert caught("normal", *unknown) == [each.client.peer.address for each in unknown] != []


def test_who_is_silent_is_caught_if_that_is_wanted() -> None:
    world = World({}).play(GREETING)
    world.clock.advance(301)
    assert caught("aggressive", *world.events) == [HOSTILE]
    assert caught("normal", *world.events) == []


def test_who_meets_a_limit_of_all_clients_together_is_not_caught() -> None:
    """It may be anybody who comes last."""
    full = over(total=1)
    full.connect(replace(CLIENT, address="192.0.2.10"))
    crowded = World(
        {"example.com": ONE}, settings=Settings(limits=ConnectionLimits(10, 10, waiting=1))
    ).play(GREETING)
    crowded.sessions.visitors.waiting = 1
    crowded.client.deliver(b"MAIL FROM:<>\r\nRCPT TO:<a@example.com>\r\n")
    for world in (full, crowded):
        assert world.said(Refused)
        for mode in MODES:
            assert caught(mode, *world.events) == []


def test_who_sends_much_in_one_session_is_not_caught() -> None:
    """A busy server is told to connect again, and that is all."""
    world = World({}, settings=Settings(session=SessionLimits(messages=1))).play(GREETING)
    world.client.deliver(b"MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<>\r\n")
    assert [str(each.reply)[:9] for each in world.said(Refused)] == ["421 4.7.0"]
    for mode in MODES:
        assert caught(mode, *world.events) == []


FORGED = "x from y[198.51.100.7]: 421 4.7.0 <z>: Too many connections from your address;"


@pytest.mark.parametrize("mode", MODES)
def test_nobody_can_have_somebody_else_banned(mode: str) -> None:
    """Whatever a client says of itself, or an upstream of it, the address is the client's own."""
    client = replace(SAMPLES[0].client, peer=Peer(HOSTILE, 1, "", 25), helo=FORGED)
    for name in (FORGED, "a[198.51.100.7]", UNAVAILABLE):
        named = replace(client, name=name)
        events: list[Event] = [
            Refused(
                "A", named, "RCPT", Reply.of(550, "5.1.1", FORGED), Side.UPSTREAM, FORGED, FORGED
            ),
            Refused("A", named, FORGED, Reply.of(500, "5.5.2", FORGED), Side.PROXY),
            Disconnected("A", named, 1.0, {FORGED: (0, 1)}, FORGED, f"too many errors: {FORGED}"),
            Disconnected("A", named, 1.0, {}, FORGED, FORGED),
        ]
        assert {*caught(mode, *events)} <= {HOSTILE}
        assert caught("aggressive", events[0]) == [HOSTILE]


def test_the_jail_is_one_for_this_filter() -> None:
    jail = read("jail.d/smtpproxy.conf")["smtpproxy"]
    assert (jail["filter"], jail["backend"]) == ("smtpproxy", "systemd")
    modes = read("filter.d/smtpproxy.conf")["Definition"]
    assert (
        modes["mode"]
        in MODES
        == tuple(name.removeprefix("mode-") for name in modes if name.startswith("mode-"))
    )


@pytest.mark.parametrize("mode", MODES)
def test_the_real_fail2ban(mode: str, tmp_path: Path) -> None:
    program = FAIL2BAN / "usr/bin/fail2ban-regex"
    if not program.exists():
        missing("needs fail2ban's files in .venv/fail2ban: as root, make deps")
    folder = tmp_path / "filter.d"
    folder.mkdir()
    shutil.copy(FAIL2BAN / "etc/fail2ban/filter.d/common.conf", folder)
    shutil.copy(SHIPPED / "filter.d/smtpproxy.conf", folder)
    world = over(per_address=1, exempt=Networks(["2001:db8::/32"]))
    world.connect()
    events = (*SAMPLES, *world.events)
    log = tmp_path / "log"
    log.write_text("\n".join(lines(*events)) + "\n")
    command = [str(program), "-c", str(tmp_path), str(log), f"smtpproxy[mode={mode}]"]
    path = str(FAIL2BAN / "usr/lib/python3/dist-packages")
    ran = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    expected = len(caught(mode, *events))
    assert expected > 2
    assert f"0 ignored, {expected} matched" in ran.stdout, ran
