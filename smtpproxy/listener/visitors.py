"""Clients by their addresses: how many sessions each has, and what it did within a minute.

All sessions of a client share its `Visitor`, so counting something costs no look-up.  What is
remembered is bounded: a client is forgotten a minute after its last session, and where there are
very many of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING

from smtpproxy.networks import Networks, packed
from smtpproxy.smtp.replies import Reply
from smtpproxy.values import value

if TYPE_CHECKING:
    from smtpproxy.listener.shared import Shared

TOO_MANY = Reply.of(421, "4.7.0", "Too many connections; try again later")
TOO_MANY_FROM_YOU = Reply.of(421, "4.7.0", "Too many connections from your address")
TOO_OFTEN = Reply.of(421, "4.7.0", "Too many new connections from your address")
TOO_MUCH_MAIL = Reply.of(421, "4.7.0", "Too many messages from your address")
TOO_MANY_RECIPIENTS = Reply.of(421, "4.7.0", "Too many recipients from your address")

MINUTE = 60.0
MOST_REMEMBERED = 20_000  # clients, but for those that have a session: some 5 MB
CONNECTIONS, MESSAGES, RECIPIENTS = range(3)  # the order in which counts are shared

Key = tuple[int, int, int]  # of a network: octets of its addresses, bits of its prefix, and those


@value
class ConnectionLimits:
    """The most of all clients together, then of each; what is 0 has no limit.

    A client is an IPv4 or IPv6 network with a prefix of so many bits.  Those that are `exempt`
    have the limits of all alone.  `waiting` are sessions that wait for an upstream.
    """

    total: int
    per_address: int
    waiting: int = 0
    connections_per_minute: int = 0
    messages_per_minute: int = 0
    recipients_per_minute: int = 0
    ipv4_prefix: int = 32
    ipv6_prefix: int = 64
    exempt: Networks = field(default_factory=Networks)


class Visitors:
    """All clients there are, and were within the last minute."""

    def __init__(self, limits: ConnectionLimits, now: Callable[[], float]) -> None:
        """`limits` may be replaced.  `now` gives seconds that never go back."""
        self.limits = limits
        self.now = now
        self.waiting = 0  # sessions that wait for an upstream
        self.shared: Shared | None = None  # where other processes count the same clients
        self._known: dict[Key, Visitor] = {}
        self._forget_at = now() + MINUTE

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._known)

    @property
    def crowded(self) -> bool:
        """As many sessions as may wait for an upstream do."""
        return self.waiting >= self.limits.waiting > 0

    def of(self, address: str) -> Visitor:
        """The client at an address, "" for a Unix socket."""
        if not address or address in self.limits.exempt:
            return self.stranger()
        if self.now() >= self._forget_at:
            self._forget()
        key = self._key(address)
        visitor = self._known.get(key)
        if visitor is None:
            visitor = Visitor(self, key)
            if len(self._known) < MOST_REMEMBERED:
                self._known[key] = visitor
        return visitor

    def stranger(self) -> Visitor:
        """One who is not told from others, and has no limits of its own."""
        return Visitor(self, None)

    def enters(self, visitor: Visitor) -> None:
        """A session of this client begins."""
        visitor.sessions += 1
        if visitor.key is not None:
            self._known[visitor.key] = visitor
            if self.shared is not None:
                self.shared.changed(visitor)

    def leaves(self, visitor: Visitor) -> None:
        """A session of this client has ended."""
        visitor.sessions -= 1
        if visitor.key is None:
            return
        if not visitor.sessions and len(self) > MOST_REMEMBERED:
            self._known.pop(visitor.key, None)
        if self.shared is not None:
            self.shared.changed(visitor)

    def present(self) -> Iterator[Visitor]:
        """Those that have a session."""
        return (each for each in self._known.values() if each.sessions)

    def _key(self, address: str) -> Key:
        octets = packed(address)
        prefix = self.limits.ipv4_prefix if len(octets) == 4 else self.limits.ipv6_prefix
        return len(octets), prefix, int.from_bytes(octets) >> (8 * len(octets) - prefix)

    def _forget(self) -> None:
        now = self.now()
        self._forget_at = now + MINUTE
        self._known = {
            key: each for key, each in self._known.items() if each.sessions or each.until > now
        }


class Visitor:
    """One client, as all of its sessions know it.

    What it did is counted from the first time on, for a minute, then anew.
    """

    __slots__ = (
        "_connections",
        "_messages",
        "_recipients",
        "_visitors",
        "elsewhere",
        "key",
        "sessions",
        "until",
    )

    def __init__(self, visitors: Visitors, key: Key | None) -> None:
        """`key` is None where it is a stranger (see `Visitors.stranger`)."""
        self.key = key
        self.sessions = 0
        self.elsewhere = 0  # sessions with other processes, when they were last asked
        self.until = 0.0  # when the minute is over
        self._visitors = visitors
        self._connections = self._messages = self._recipients = 0

    def connects(self) -> Reply | None:
        """Count a connection; why this client may not have it, if so."""
        limits = self._visitors.limits
        if self.key is None:
            return None
        if self.sessions >= limits.per_address:
            return TOO_MANY_FROM_YOU
        if limits.connections_per_minute:
            self._turn()
            self._connections += 1
            self._tell(CONNECTIONS)
            if self._connections > limits.connections_per_minute:
                return TOO_OFTEN
        return None

    def sends(self) -> Reply | None:
        """Count a message; why it may not be sent, if so.

        Recipients are a reason here and nowhere else: a message that has begun is not parted, and
        one that has more of them than a minute may have comes through all the same.
        """
        limits = self._visitors.limits
        if self.key is None or not (limits.messages_per_minute or limits.recipients_per_minute):
            return None
        self._turn()
        self._messages += 1
        self._tell(MESSAGES)
        if self._messages > limits.messages_per_minute > 0:
            return TOO_MUCH_MAIL
        if self._recipients >= limits.recipients_per_minute > 0:
            return TOO_MANY_RECIPIENTS
        return None

    def names_recipient(self) -> None:
        """Count a recipient."""
        if self._visitors.limits.recipients_per_minute:
            self._turn()
            self._recipients += 1
            self._tell(RECIPIENTS)

    @property
    def visitors(self) -> Visitors:
        """All of them."""
        return self._visitors

    # What other processes count, too.

    @property
    def network(self) -> str:
        """Its addresses: "203.0.113.7/32"; not for a stranger."""
        assert self.key is not None
        octets, bits, prefix = self.key
        number = prefix << (8 * octets - bits)
        return str((IPv4Network if octets == 4 else IPv6Network)((number, bits)))

    def hears(
        self, elsewhere: int, counts: Sequence[int], untold: Sequence[int], seconds: float
    ) -> None:
        """All processes count so much of it, `untold` not included; the minute has `seconds` left.

        From then on it is counted here as if all of that had happened here.
        """
        self.elsewhere = elsewhere
        if seconds > 0:
            self.until = self._visitors.now() + seconds
            total = map(sum, zip(counts, untold, strict=True))
            self._connections, self._messages, self._recipients = total

    def excess(self) -> Reply | None:
        """Why a session that has begun may not go on, by what was heard just now."""
        limits = self._visitors.limits
        if self.sessions + self.elsewhere > limits.per_address:
            return TOO_MANY_FROM_YOU
        if self._connections > limits.connections_per_minute > 0:
            return TOO_OFTEN
        return None

    def _tell(self, what: int) -> None:
        if (shared := self._visitors.shared) is not None:
            shared.counted(self, what)

    def _turn(self) -> None:
        """Begin another minute, if this one is over."""
        now = self._visitors.now()
        if now >= self.until:
            self.until = now + MINUTE
            self._connections = self._messages = self._recipients = 0
