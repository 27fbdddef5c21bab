"""TLS sessions with upstreams, to go on with instead of a whole handshake."""

from __future__ import annotations

from OpenSSL import SSL

from smtpproxy.routing import Server, Tls

LIFE = 600.0  # seconds: so long what was found of a certificate, or of resuming, counts
MOST = 256  # sessions, of some 10 KB each

Party = tuple[Server, str, Tls]
"""Whom we speak to, at which address, and what its certificate has to be good for."""


class Resumable:
    """The session of the last whole handshake with each party.

    OpenSSL has kept the verdict on the certificate with it.  So all of them are of one
    `tls.client_context`, whose authorities judged.
    """

    def __init__(self) -> None:
        self._kept: dict[Party, tuple[SSL.Session | None, float]] = {}

    def find(self, party: Party, now: float) -> SSL.Session | None:
        """One to be offered; whoever does not know it any more shakes hands as ever."""
        session, until = self._kept.get(party, (None, now))
        return session if now < until else None

    def keep(self, party: Party, session: SSL.Session | None, now: float) -> None:
        """Its time begins here, and does not begin anew when it is resumed."""
        known, until = self._kept.get(party, (session, now))
        if known is not None or until <= now:
            self._note(party, session, now)

    def refuse(self, party: Party, now: float) -> None:
        """Resuming a session has failed there: none is kept for a while."""
        self._note(party, None, now)

    def _note(self, party: Party, session: SSL.Session | None, now: float) -> None:
        self._kept.pop(party, None)
        if len(self._kept) >= MOST:
            del self._kept[next(iter(self._kept))]  # the oldest
        self._kept[party] = session, now + LIFE
