"""TLS sessions with upstreams, to go on with instead of a whole handshake."""

from __future__ import annotations

from OpenSSL import SSL

from smtpproxy.routing import Server, Tls

LIFE = 600.0  # seconds: so long a certificate that was judged is not looked at again
MOST = 256  # sessions, of some 10 KB each

Party = tuple[Server, str, Tls]
"""Whom we speak to, at which address, and what its certificate has to be good for."""


class Resumable:
    """The session of the last whole handshake with each party.

    OpenSSL has kept the verdict on the certificate with it.  So all of them are of one
    `tls.client_context`, whose authorities judged.
    """

    def __init__(self) -> None:
        self._kept: dict[Party, tuple[SSL.Session, float]] = {}

    def find(self, party: Party, now: float) -> SSL.Session | None:
        """One to be offered; whoever does not know it any more shakes hands as ever."""
        session, until = self._kept.get(party, (None, now))
        return session if now < until else None

    def keep(self, party: Party, session: SSL.Session | None, now: float) -> None:
        """Its time begins here, and does not begin anew when it is resumed."""
        self.forget(party)
        if session is None:
            return
        if len(self._kept) >= MOST:
            self.forget(next(iter(self._kept)))  # the oldest
        self._kept[party] = session, now + LIFE

    def forget(self, party: Party) -> None:
        self._kept.pop(party, None)
