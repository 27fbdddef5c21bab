"""Leaving out of a dialogue who writes to whom: the local parts of its addresses."""

from __future__ import annotations

import re

HIDDEN = "***"
MOST = 200  # local parts remembered of one session

_LOCAL = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^\s<>"@]+)@(?=[^\s@])')
_ENVELOPE = re.compile(r'(?:MAIL FROM|RCPT TO):<("(?:[^"\\]|\\.)*"|[^>@]*)', re.IGNORECASE)
_WHO = re.compile(r"((?:VRFY|EXPN) )(.*)", re.IGNORECASE | re.DOTALL)
_LOGIN = re.compile(r"\bLOGIN=\S+")


class Redaction:
    """Of one session: what it has named once is hidden wherever it stands later on."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def __call__(self, text: str) -> str:
        """The text without local parts; domains stay."""
        if match := _ENVELOPE.match(text):
            self._remember(match[1].strip('"'))
        if match := _WHO.match(text):
            self._remember(match[2].strip('<>" '))
            text = f"{match[1]}{HIDDEN}"
        text = _LOCAL.sub(f"{HIDDEN}@", _LOGIN.sub(f"LOGIN={HIDDEN}", text))
        return self._pattern.sub(HIDDEN, text) if self._pattern else text

    def _remember(self, local: str) -> None:
        """Replies may name it without its domain, and without its suffix."""
        new = {local, local.partition("+")[0], local.partition("@")[0]} - {""}
        if new <= self._known or len(self._known) >= MOST:
            return
        self._known |= new
        words = "|".join(map(re.escape, sorted(self._known, key=len, reverse=True)))
        # Not inside of another word, or of a domain.
        self._pattern = re.compile(rf"(?<![\w.-])(?:{words})(?!\w|[.-]\w)", re.IGNORECASE)
