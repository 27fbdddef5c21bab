"""Limits that several processes keep together: what the settings name, checked, and begun."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from smtpproxy import tls
from smtpproxy.config import Config
from smtpproxy.faults import Fault, Faults
from smtpproxy.listener import Sessions
from smtpproxy.listener.shared import Shared
from smtpproxy.opening import password_in
from smtpproxy.store import Place, parse_place

LIBRARY = "txredisapi"


def place_of(config: Config) -> Place | None:
    """Where the limits are shared, with the password; None where they are not.

    Raises `Faults`, also where the library is missing that this needs.
    """
    limits = config.limits
    if not limits.shared:
        return None
    if find_spec(LIBRARY) is None:
        text = f"needs the Python package {LIBRARY}: install smtpproxy[redis], or leave it out"
        raise Faults([Fault(config.place("limits", "shared"), text)])
    place = replace(parse_place(limits.shared), authorities=limits.shared_tls_ca)
    if place.authorities:
        tls.client_context(Path(place.authorities))  # for its faults
    if limits.shared_password_file:
        place = replace(place, password=password_in(limits.shared_password_file))
    return place


class Sharing:
    """Keeps `sessions` counted at the place that the configuration names by now."""

    def __init__(
        self, reactor: Any, sessions: Sessions, note: Callable[[bool, str], object]
    ) -> None:
        self._reactor = reactor
        self._sessions = sessions
        self._note = note
        self._place: Place | None = None
        self._shared: Shared | None = None

    def at(self, place: Place | None) -> None:
        """Count there from now on; None: nowhere."""
        if place == self._place:
            return
        if self._shared is not None:
            self._shared.stop()
        self._place, self._shared = place, None
        if place is not None:
            from smtpproxy.redis import RedisStore  # whoever shares nothing may be without LIBRARY

            # The host is for people; nobody else may have the rest.
            me = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(6)}"
            store = RedisStore(self._reactor, place, me)
            visitors = self._sessions.visitors
            self._shared = Shared(store, visitors, self._reactor, self._note)
        self._sessions.share(self._shared)
        if self._shared is not None:
            self._shared.start()

    def stop(self) -> None:
        """Count alone."""
        self.at(None)
