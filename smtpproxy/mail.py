"""Pure values: who the client is."""

from __future__ import annotations

from dataclasses import field

from smtpproxy.values import value

UNAVAILABLE = "[UNAVAILABLE]"  # no such name, or none that is confirmed
TEMPUNAVAIL = "[TEMPUNAVAIL]"  # DNS fails for now


@value
class Peer:
    """Both ends of a client's connection.

    `address` is an IPv4 or IPv6 address in its canonical text form, or "" for a
    client on a Unix socket; then the ports are 0.  `via` is who told us so, by a PROXY
    header or XCLIENT: the address, or "unix", of whom the connection is from; "" where
    it is the client's own.  `listener` is the one that it came to, as the configuration
    writes it.
    """

    address: str
    port: int
    local_address: str
    local_port: int
    via: str = field(default="", compare=False)
    listener: str = field(default="", compare=False)


@value
class Client:
    """Who the client is, as its upstream is told and as the log says it.

    `name` is the forward-confirmed reverse DNS name, or one of the two words
    above, which are XCLIENT's own.
    """

    peer: Peer
    name: str = UNAVAILABLE
    helo: str = ""
    esmtp: bool = True
    login: str = ""

    @property
    def protocol(self) -> str:
        """The attribute PROTO of XCLIENT."""
        return "ESMTP" if self.esmtp else "SMTP"

    def same_as(self, other: Client) -> bool:
        """The same to an upstream that was told, whatever port they connect from."""
        return self._but_port == other._but_port

    @property
    def _but_port(self) -> tuple[object, ...]:
        peer = self.peer
        ends = peer.address, peer.local_address, peer.local_port
        return *ends, self.name, self.helo, self.esmtp, self.login

    def __str__(self) -> str:
        """`name[address]`, as Postfix writes a client in its log."""
        name = self.name if not self.name.startswith("[") else "unknown"
        return f"{name}[{self.peer.address or 'unix'}]"
