"""Messages of which the client does not know whether they were taken: it sends them again.

They are remembered for a while, so that the log can say of one that comes again: this is most
likely a duplicate.  It is delivered all the same.  No address and no content is kept, only hashes.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from hashlib import blake2b

HEAD = 16 * 1024  # octets of a message in which its Message-ID is looked for
KEPT = 5 * 86400.0  # seconds: senders try again for 4 to 5 days (RFC 5321 section 4.5.4.1)
MOST = 10_000  # recipients of messages; the oldest are forgotten first

# RFC 5322 section 3.6.4; the value may be folded.
_MESSAGE_ID = re.compile(rb"^message-id[ \t]*:((?:[^\r\n]|\r\n[ \t])*)", re.IGNORECASE | re.M)

_Key = tuple[int, bytes]  # of the envelope, of the message


class Doubts:
    """What is in doubt, by sender, recipient and message; for all sessions.

    `remembered` counts the recipients of messages in doubt since the start, `duplicates` those
    that got one of them again.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` gives seconds."""
        self.remembered = 0
        self.duplicates = 0
        self._now = now
        self._until: OrderedDict[_Key, float] = OrderedDict()  # when each is forgotten, in order
        self._envelopes: Counter[int] = Counter()  # of these: a look that costs next to nothing

    def __len__(self) -> int:
        return len(self._until)

    def remember(self, sender: str, recipients: Iterable[str], head: bytes) -> None:
        """Nobody knows whether the message was taken; `head` is the first part of its content."""
        now = self._now()
        while self._until and next(iter(self._until.values())) <= now:
            self._forget(next(iter(self._until)))
        message = _digest(head)
        for recipient in recipients:
            key = hash((sender, recipient)), message
            self._forget(key)
            if len(self._until) >= MOST:
                self._forget(next(iter(self._until)))
            self._until[key] = now + KEPT
            self._envelopes[key[0]] += 1
            self.remembered += 1

    def settle(self, sender: str, recipients: Iterable[str], head: bytes) -> bool:
        """The message is taken, so it is no more in doubt for these.  Was it, for any of them?"""
        if not self._until:
            return False
        keys = [hash((sender, recipient)) for recipient in recipients]
        keys = [each for each in keys if each in self._envelopes]
        if not keys:
            return False
        message, now = _digest(head), self._now()
        found = [self._forget((envelope, message)) > now for envelope in keys]
        self.duplicates += sum(found)
        return any(found)

    def _forget(self, key: _Key) -> float:
        """Until when it was to be remembered; 0 where it was not."""
        until = self._until.pop(key, 0.0)
        if until:
            self._envelopes[key[0]] -= 1
            if not self._envelopes[key[0]]:
                del self._envelopes[key[0]]
        return until


def essence(head: bytes) -> bytes:
    """As much of the first part of a message as it is remembered by: often a lot less."""
    head = head[:HEAD]
    header, _, _ = head.partition(b"\r\n\r\n")
    found = _MESSAGE_ID.search(header)
    return header if found and found[1].strip() else head


def _digest(head: bytes) -> bytes:
    """The same for a message whenever it comes, by its Message-ID, or if it has none, by `head`."""
    head = essence(head)
    found = _MESSAGE_ID.search(head.partition(b"\r\n\r\n")[0])
    return blake2b((found and found[1].strip()) or head, digest_size=16).digest()
