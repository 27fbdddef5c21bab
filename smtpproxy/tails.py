"""Who looks on at sessions: `smtpproxy tail`, each with its own filter and its own feed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Protocol

from smtpproxy.events import Connected, Disconnected, Event, Introduced, TlsStarted
from smtpproxy.feed import Feed, Line
from smtpproxy.listener.view import View
from smtpproxy.mail import Client
from smtpproxy.networks import Networks
from smtpproxy.redaction import Redaction
from smtpproxy.routing import parse_servers
from smtpproxy.tap import Said, Tap
from smtpproxy.upstream.standing import name_of
from smtpproxy.values import value

MOST = 10  # who look on at once
MOST_SESSIONS = 5000  # that one of them keeps in mind
HELD = 100  # lines of a session that are kept until it is known whether it is wanted
LONGEST = 1000  # characters of a line
MOST_LINES = 100  # of one reply


class Viewed(Protocol):
    """The sessions that go on."""

    def views(self, most: int) -> list[View]: ...


@value
class Wish:
    """Which sessions are wanted: all, unless it says less.

    `recipient` is a pattern with `*` and `?`, in lower case; `upstream` the name of a server or an
    upstream, as `named` gives it.
    """

    client: Networks = field(default_factory=Networks)
    recipient: str = ""
    upstream: str = ""
    redact: bool = False


class TooMany(Exception):
    """As many look on as may."""


class Tails:
    """All who look on; an observer."""

    def __init__(self, tap: Tap, sessions: Callable[[], Viewed]) -> None:
        self._tap = tap
        self._sessions = sessions
        self._tails: list[Tail] = []

    def __call__(self, event: Event) -> None:
        for tail in tuple(self._tails):
            tail.observe(event)

    def begin(self, wish: Wish) -> Feed:
        """The lines of those sessions from now on; raises `TooMany`."""
        if len(self._tails) >= MOST:
            raise TooMany
        feed = Feed()
        tail = Tail(wish, feed)
        for view in self._sessions().views(MOST_SESSIONS):
            tail.enter(view.session, view.client)
        feed.ended = lambda: self._leave(tail)
        self._tails.append(tail)
        self._tap.listen(tail.said)
        return feed

    def _leave(self, tail: Tail) -> None:
        self._tails.remove(tail)
        self._tap.leave(tail.said)


@dataclass(slots=True)
class _Session:
    """One that may be wanted; `held` are its lines, as long as that is not known."""

    client: Client
    redaction: Redaction | None
    recipient: bool  # one that is wanted was named
    upstream: bool
    held: deque[Line] = field(default_factory=lambda: deque(maxlen=HELD))

    @property
    def wanted(self) -> bool:
        return self.recipient and self.upstream


class Tail:
    """One who looks on."""

    def __init__(self, wish: Wish, feed: Feed, now: Callable[[], float] = time.time) -> None:
        self._wish = wish
        self._feed = feed
        self._now = now
        self._sessions: dict[str, _Session] = {}

    def enter(self, name: str, client: Client) -> None:
        """Keep a session in mind, if its client is wanted."""
        wish = self._wish
        if wish.client and client.peer.address not in wish.client:
            self._sessions.pop(name, None)
        elif name in self._sessions:
            self._sessions[name].client = client
        else:
            while len(self._sessions) >= MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            redaction = Redaction() if wish.redact else None
            self._sessions[name] = _Session(
                client, redaction, not wish.recipient, not wish.upstream
            )

    def observe(self, event: Event) -> None:
        """What is not said, and belongs to the dialogue all the same."""
        match event:
            case Connected():
                self.enter(event.session, event.client)
                self._note(event, "connected")
            case Introduced():
                self.enter(event.session, event.client)
                self._note(event, f"is from here on {event.client}")
            case TlsStarted():
                self._note(event, f"encrypted: {event.tls}")
            case Disconnected():
                why = f": {event.reason}" if event.reason else ""
                self._note(event, f"ended after {event.seconds:.3g} s{why}")
                self._sessions.pop(event.session, None)

    def said(self, said: Said) -> None:
        session = self._sessions.get(said.session)
        if session is None:
            return
        if not session.wanted:
            session.recipient = session.recipient or self._names_recipient(said)
            session.upstream = session.upstream or self._is_of_upstream(said)
        place = {"upstream": said.upstream, "server": said.server, "address": said.address}
        more = place if said.upstream else {}
        shown = [line.decode("utf-8", "backslashreplace") for line in said.lines[:MOST_LINES]]
        if len(said.lines) > len(shown):
            shown.append(f"<{len(said.lines) - len(shown)} more lines>")
        self._tell(said.session, session, said.who, shown, more)

    def _note(self, event: Connected | Introduced | TlsStarted | Disconnected, text: str) -> None:
        session = self._sessions.get(event.session)
        if session is not None:
            self._tell(event.session, session, "", [text], {})

    def _tell(
        self, name: str, session: _Session, who: str, lines: Iterable[str], more: Line
    ) -> None:
        redaction = session.redaction
        for line in lines:
            text = redaction(line) if redaction else line
            session.held.append(
                {
                    "time": self._now(),
                    "session": name,
                    "client": str(session.client),
                    "who": who,
                    "text": text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...",
                    **more,
                }
            )
            if session.wanted:
                while session.held:
                    self._feed.put(session.held.popleft())

    def _names_recipient(self, said: Said) -> bool:
        if said.who != "C" or not said.lines[0].startswith(b"RCPT TO:<"):
            return False
        address = said.lines[0].removeprefix(b"RCPT TO:<").rpartition(b">")[0]
        return fnmatchcase(address.decode("utf-8", "replace").lower(), self._wish.recipient)

    def _is_of_upstream(self, said: Said) -> bool:
        if not said.upstream:
            return False
        servers = parse_servers(said.upstream)
        names = {name_of(servers), *(name_of([each]) for each in servers)}
        return self._wish.upstream in names | {name_of(parse_servers(said.server))}
