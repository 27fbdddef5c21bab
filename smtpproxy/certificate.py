"""The certificate and key of a listener, watched like files of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from OpenSSL import SSL

from smtpproxy import tls
from smtpproxy.watched import Change, Watched, signatures


class Certificate(Watched):
    """The certificate and key of a listener, or of several; `context` is made of them.

    Two files that do not fit are written one after the other: the second one's change is another
    one, and both are read again.
    """

    stays = "the old certificate stays in force; it is read again when it or its key changes"

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises `Faults`."""
        super().__init__((cert, key), signatures(cert, key))
        self.context = tls.server_context(cert, key)
        self.until = tls.valid_until(cert)
        self.renewed: Callable[[], object] = lambda: None  # called when `context` is another

    def same_as(self, other: Certificate) -> bool:
        """The same files, which nobody has touched in between."""
        return (self.files, self._read) == (other.files, other._read)

    def told(self) -> str:
        """That it is another one, and until when it is valid."""
        return f"{self}: new certificate in force, valid until {self.until:%Y-%m-%d}"

    def _load(self, force: bool) -> Change:
        cert, key = self.files
        context = tls.server_context(cert, key)
        return _Context(self, context, tls.valid_until(cert), tls.certificate_warnings(cert))


@dataclass(slots=True)
class _Context:
    certificate: Certificate
    context: SSL.Context
    until: datetime
    warnings: Sequence[object]
    refused: str = ""

    def take(self) -> Sequence[str]:
        self.certificate.context, self.certificate.until = self.context, self.until
        self.certificate.renewed()
        return (self.certificate.told(),)

    def discard(self) -> None:
        """A context goes by itself, with the last connection that was made of it."""
