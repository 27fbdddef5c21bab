"""How much a line matters."""

from __future__ import annotations

from enum import IntEnum

from smtpproxy.events import (
    Event,
    NotIntroduced,
    Refused,
    ShadowAnswered,
    Side,
    TlsStarted,
    TransactionEnded,
    UpstreamFailed,
)


class Level(IntEnum):
    """The numbers are syslog's severities: a smaller one matters more (RFC 5424 6.2.1)."""

    ERROR = 3
    WARNING = 4
    INFO = 6
    DEBUG = 7

    @property
    def word(self) -> str:
        """As settings and JSON lines have it: "error", "warning", "info", "debug"."""
        return self.name.lower()


def level_of(event: Event) -> Level:
    """The level of every line that tells of `event`."""
    match event:
        case UpstreamFailed() | TransactionEnded(in_doubt=True) | TransactionEnded(duplicate=True):
            return Level.WARNING
        case Refused(by=Side.PROXY, error=error) if error:  # a look-up failed, say
            return Level.WARNING
        case ShadowAnswered(differs=False):
            return Level.DEBUG
        case NotIntroduced(silent=silent):
            return Level.DEBUG if silent else Level.WARNING
        case TlsStarted():  # a transaction's summary has it too
            return Level.DEBUG
        case _:
            return Level.INFO
