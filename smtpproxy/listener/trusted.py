"""Clients that are trusted to say for whom they speak: XCLIENT, and for the log XFORWARD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from smtpproxy.listener.profile import Profile
from smtpproxy.mail import Client, Peer
from smtpproxy.smtp.commands import Verb
from smtpproxy.smtp.xclient import KNOWN, Attributes

Trust = Mapping[Verb, bool]  # what a listener takes at all, and whether it does of this client

NO_TRUST: Trust = MappingProxyType({})


def trust(profile: Profile, address: str) -> Trust:
    """What is taken of a client with this address."""
    if not (profile.xclient_from or profile.xforward_from):
        return NO_TRUST
    listed = ((Verb.XCLIENT, profile.xclient_from), (Verb.XFORWARD, profile.xforward_from))
    return {verb: address in networks for verb, networks in listed if networks}


def announced(lines: tuple[str, ...], trust: Trust, tls_too_late: bool) -> tuple[str, ...]:
    """The lines of EHLO, none after HELO, with those for who may say more ("XCLIENT NAME ...")."""
    if not lines:
        return lines
    own = (" ".join((verb.value, *KNOWN[verb.value])) for verb, may in trust.items() if may)
    return *(each for each in lines if each != "STARTTLS" or not tls_too_late), *own


def introduced(client: Client, said: Attributes) -> Client:
    """Who the client is from now on, after XCLIENT.

    As with Postfix, HELO, PROTO and LOGIN are those that were said now, and the rest stays as it
    was; but a port belongs to its address.
    """
    return replace(
        client,
        peer=_peer(client.peer, said),
        name=said.get("NAME", client.name),
        helo=said.get("HELO", ""),
        esmtp=said.get("PROTO", "ESMTP") == "ESMTP",
        login=said.get("LOGIN", ""),
    )


def _peer(peer: Peer, said: Attributes) -> Peer:
    address = said.get("ADDR", peer.address)
    port = said.get("PORT", "" if "ADDR" in said else str(peer.port))
    return replace(
        peer,
        address=address,
        port=int(port or 0) if address else 0,
        local_address=said.get("DESTADDR", peer.local_address),
        local_port=int(said.get("DESTPORT", str(peer.local_port)) or 0),
        via=peer.via or peer.address or "unix",
    )
