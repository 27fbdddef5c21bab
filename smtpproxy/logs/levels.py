"""How much a line matters."""

from __future__ import annotations

from enum import IntEnum
from functools import cached_property

from smtpproxy.events import (
    Connected,
    Disconnected,
    Event,
    Introduced,
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

    @cached_property
    def word(self) -> str:
        """As settings and JSON lines have it: "error", "warning", "info", "debug"."""
        return self.name.lower()


def level_of(event: Event) -> Level:
    """The level of every line that tells of `event`."""
    match event:
        case Connected() | Disconnected() | Introduced():
            return Level.INFO
        case TransactionEnded():
            return Level.WARNING if event.in_doubt or event.duplicate else Level.INFO
        case Refused():  # a look-up failed, say
            return Level.WARNING if event.error and event.by is Side.PROXY else Level.INFO
        case UpstreamFailed():
            return Level.WARNING
        case ShadowAnswered():
            return Level.INFO if event.differs else Level.DEBUG
        case NotIntroduced():
            return Level.DEBUG if event.silent else Level.WARNING
        case TlsStarted():  # a transaction's summary has it too
            return Level.DEBUG
