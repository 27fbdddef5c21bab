"""What an event tells, as flat names and values: a JSON line.

Values are not escaped here, and times, in seconds, are not rounded; those of phases end in `_s`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
from smtpproxy.logs.escape import bare, clipped, reply_text
from smtpproxy.logs.words import counts, endpoint, named, relay, relays, tls
from smtpproxy.mail import Client
from smtpproxy.smtp.replies import Reply

Value = str | int | float | list[str]
Fields = dict[str, Value]

NAMES: dict[type[Event], str] = {
    Connected: "connected",
    NotIntroduced: "not_introduced",
    Introduced: "introduced",
    TlsStarted: "tls_started",
    Refused: "refused",
    UpstreamFailed: "upstream_failed",
    ShadowAnswered: "shadow_answered",
    TransactionEnded: "transaction_ended",
    Disconnected: "disconnected",
}


def fields(event: Event) -> Fields:
    """The event's own fields, `session` first; those that would be empty are often left out."""
    return _FIELDS[type(event)](event)


def _connected(event: Connected | Introduced) -> Fields:
    peer = event.client.peer
    found = {"session": event.session, **_client(event.client)}
    found["local"] = endpoint(peer.local_address, peer.local_port)
    if peer.via:
        found["via"] = peer.via
    return found


def _not_introduced(event: NotIntroduced) -> Fields:
    peer = event.peer
    return {
        "session": event.session,
        "client_address": peer.address,
        "client_port": peer.port,
        "local": endpoint(peer.local_address, peer.local_port),
        "error": clipped(event.reason),
    }


def _tls_started(event: TlsStarted) -> Fields:
    found = {"session": event.session, **_client(event.client), "client_tls": str(event.tls)}
    if event.tls.server_name:
        found["server_name"] = clipped(event.tls.server_name)
    return found


def _refused(event: Refused) -> Fields:
    found = {"session": event.session, **_client(event.client)}
    found["helo"] = clipped(event.client.helo)
    found["stage"] = clipped(event.stage)
    if event.sender is not None:
        found["from"] = clipped(event.sender)
    if event.recipient is not None:
        found["to"] = [clipped(event.recipient)]
    found["reply"] = _reply(event.reply)
    found["by"] = event.by.value
    if event.server:
        found["upstream"] = relays(event.server, event.address)
    if event.error:
        found["error"] = clipped(event.error)
    return found


def _upstream_failed(event: UpstreamFailed) -> Fields:
    return {
        "session": event.session,
        "upstream": relay(event.server, event.address),
        "error": clipped(event.reason),
    }


def _shadow_answered(event: ShadowAnswered) -> Fields:
    return {
        "session": event.session,
        **_client(event.client),
        "to": [clipped(event.recipient)],
        "reply": _reply(event.reply),
        "shadow": clipped(event.shadow),
        "shadow_reply": _reply(event.shadow_reply),
        "differs": event.differs,
    }


def _transaction_ended(event: TransactionEnded) -> Fields:
    """What `text` has in its summary, too."""
    client = event.client
    found = {"session": event.session, "transaction": event.transaction, **_client(client)}
    found["helo"] = clipped(client.helo)
    if client.login:
        found["login"] = clipped(client.login)
    found["client_tls"] = tls(event.client_tls)
    found["from"] = clipped(event.sender)
    found["to"] = [clipped(address) for address in event.recipients]
    found["nrcpt"] = len(event.recipients)
    found["upstream"] = relay(event.server, event.address)
    found["upstream_tls"] = tls(event.upstream_tls)
    found["reply"] = _reply(event.reply)
    found["bytes"] = event.size
    for phase, seconds in event.phases.items():
        found[f"{phase}_s"] = seconds
    found.update(remarks(event))
    return found


def remarks(event: TransactionEnded) -> Fields:
    """What there is to tell of few transactions only."""
    found: Fields = {}
    if event.by is not Side.NONE:
        found["by"] = event.by.value
    if event.error:
        found["error"] = clipped(event.error)
    if event.in_doubt:
        found["in_doubt"] = True
    if event.duplicate:
        found["duplicate"] = True
    if event.forwarded:
        found |= _forwarded(event.forwarded)
    return found


def _forwarded(said: Mapping[str, str]) -> Fields:
    """What XFORWARD said of where the client has the message from."""
    name = said.get("NAME", "[")
    name = "unknown" if name.startswith("[") else bare(name)
    found: Fields = {"forwarded_client": f"{name}[{said.get('ADDR') or 'unknown'}]"}
    for field, attribute in (("forwarded_helo", "HELO"), ("forwarded_id", "IDENT")):
        if said.get(attribute):
            found[field] = clipped(said[attribute])
    return found


def _disconnected(event: Disconnected) -> Fields:
    found = {"session": event.session, **_client(event.client)}
    found["seconds"] = event.seconds
    found["commands"] = counts(event)
    if event.after:
        found["after"] = clipped(event.after)
    if event.reason:
        found["error"] = clipped(event.reason)
    return found


def _client(client: Client) -> Fields:
    peer = client.peer
    return {
        "client": named(client),
        "client_address": peer.address,
        "client_port": peer.port,
    }


def _reply(reply: Reply) -> str:
    return f"{reply.code} {reply_text(reply)}"


_FIELDS: dict[type[Event], Callable[[Any], Fields]] = {
    Connected: _connected,
    NotIntroduced: _not_introduced,
    Introduced: _connected,
    TlsStarted: _tls_started,
    Refused: _refused,
    UpstreamFailed: _upstream_failed,
    ShadowAnswered: _shadow_answered,
    TransactionEnded: _transaction_ended,
    Disconnected: _disconnected,
}
