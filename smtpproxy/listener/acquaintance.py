"""Who a client is: by its connection, its EHLO, and what a trusted one introduces (XCLIENT)."""

from __future__ import annotations

from dataclasses import replace

from smtpproxy.listener.naming import Naming, ReverseName
from smtpproxy.listener.trusted import introduced
from smtpproxy.mail import UNAVAILABLE, Client, Peer
from smtpproxy.smtp.commands import Hello
from smtpproxy.smtp.xclient import Attributes


class Acquaintance:
    """What is known of one session's client; its name is looked up from the beginning."""

    __slots__ = ("_name_said", "_naming", "_reverse_name", "client")

    def __init__(self, peer: Peer, reverse_name: ReverseName) -> None:
        """`reverse_name` gives the confirmed name of an address."""
        self.client = Client(peer)
        self._reverse_name = reverse_name
        self._name_said = False  # by XCLIENT, and no address behind it as yet
        self._naming: Naming | None = None  # while the name is looked up
        self._look_up()

    def greets(self, hello: Hello) -> bool:
        """It said EHLO; tells whether it is still the same client to an upstream."""
        same = (hello.name, hello.esmtp) == (self.client.helo, self.client.esmtp)
        self.client = replace(self.client, helo=hello.name, esmtp=hello.esmtp)
        return same

    def begins_anew(self) -> None:
        """What it said in clear counts no more (RFC 3207 section 4.2)."""
        self.client = replace(self.client, helo="", esmtp=True)

    def would_be(self, said: Attributes) -> Client:
        """Who the client is by these attributes of XCLIENT."""
        return introduced(self.client, self._completed(said))

    def introduces(self, said: Attributes) -> None:
        """XCLIENT is taken: from now on the client is who it says."""
        unnamed = self._unnamed(said)
        client = self.would_be(said)
        self._name_said = "ADDR" not in said and (self._name_said or "NAME" in said)
        if unnamed or "NAME" in said:
            self.leaves()
        self.client = client
        if unnamed:
            self._look_up()

    async def identify(self, with_name: bool) -> Client:
        """The client; with its name, once that is known: finding it has a deadline of its own."""
        if with_name and self._naming is not None:
            await self._naming.done()
        return self.client

    def leaves(self) -> None:
        """Nobody needs its name any more."""
        if self._naming is not None:
            self._naming.interrupt()

    def _unnamed(self, said: Attributes) -> bool:
        """Another address, without a name: the old one does not fit, so it is looked up."""
        return "ADDR" in said and "NAME" not in said and not self._name_said

    def _completed(self, said: Attributes) -> Attributes:
        return {**said, "NAME": UNAVAILABLE} if self._unnamed(said) else said

    def _look_up(self) -> None:
        address = self.client.peer.address
        if address:  # not a Unix socket
            self._naming = Naming(address, self._reverse_name, self._named)
            self._naming.begin()

    def _named(self, name: str) -> None:
        self._naming = None
        if name != self.client.name:
            self.client = replace(self.client, name=name)
