"""What is wrong with a file an administrator wrote: where, and what would be right."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from smtpproxy.values import value


@value
class Fault:
    """One thing that is wrong.

    ``place`` says where: ``smtpproxy.toml:12: listeners[0].tls_cert``, ``mapping.csv:7`` or
    ``SMTPPROXY_LIMITS__MAX_ERRORS``. ``text`` says what is wrong and what would be right.
    """

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Faults(Exception):
    """Everything that is wrong, at once; ``str()`` is one line for each fault."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__(self.faults)

    def __str__(self) -> str:
        return "\n".join(str(fault) for fault in self.faults)


def unreadable(error: OSError) -> str:
    """What to say of a file that `error` keeps from being read."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return f"cannot be read: {error.strerror}"


class NotStarted(SystemExit, Exception):
    """Ends the program before it has begun.

    As an `Exception`, too, twistd hears of it: in the background it would wait for ever else.
    """

    def __init__(self, faults: Faults) -> None:
        super().__init__(f"smtpproxy: not started, for these faults:\n{faults}")
        self.faults = faults
        sys.stderr = sys.__stderr__  # twistd may have its log there, which is not written any more
