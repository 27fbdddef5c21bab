"""What an event tells, as flat names and values: one JSON line, or a summary in text.

Times are in seconds; those of phases end in `_s`.  Values are not escaped here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from smtpproxy.events import (
    Connected,
    Disconnected,
    Event,
    Introduced,
    NotIntroduced,
    Refused,
    ShadowAnswered,
    Side,
    Tls,
    TlsStarted,
    TransactionEnded,
    UpstreamFailed,
)
from smtpproxy.logs.escape import bare, bracketed, clipped, quoted, reply_text
from smtpproxy.mail import Client

Value = str | int | float | list[str]

SUMMARY_RECIPIENTS = 20  # named in a text summary; each has a line of its own as well

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


def fields(event: Event) -> dict[str, Value]:
    """The event's own fields, `session` first; those that would be empty are often left out."""
    found: dict[str, Value] = {"session": event.session}
    match event:
        case Connected() | Introduced():
            found |= _client(event.client)
            found["local"] = endpoint(event.client.peer.local_address, event.client.peer.local_port)
            if event.client.peer.via:
                found["via"] = event.client.peer.via
        case NotIntroduced():
            found |= {"client_address": event.peer.address, "client_port": event.peer.port}
            found["local"] = endpoint(event.peer.local_address, event.peer.local_port)
            found["error"] = clipped(event.reason)
        case TlsStarted():
            found |= _client(event.client)
            found["client_tls"] = str(event.tls)
            if event.tls.server_name:
                found["server_name"] = clipped(event.tls.server_name)
        case Refused():
            found |= _client(event.client)
            found["helo"] = clipped(event.client.helo)
            found["stage"] = clipped(event.stage)
            if event.sender is not None:
                found["from"] = clipped(event.sender)
            if event.recipient is not None:
                found["to"] = [clipped(event.recipient)]
            found["reply"] = f"{event.reply.code} {reply_text(event.reply)}"
            found["by"] = event.by.value
            if event.server:
                found["upstream"] = relays(event.server, event.address)
            if event.error:
                found["error"] = clipped(event.error)
        case UpstreamFailed():
            found["upstream"] = relay(event.server, event.address)
            found["error"] = clipped(event.reason)
        case ShadowAnswered():
            found |= _client(event.client)
            found["to"] = [clipped(event.recipient)]
            found["reply"] = f"{event.reply.code} {reply_text(event.reply)}"
            found["shadow"] = clipped(event.shadow)
            found["shadow_reply"] = f"{event.shadow_reply.code} {reply_text(event.shadow_reply)}"
            found["differs"] = event.differs
        case TransactionEnded():
            found["transaction"] = event.transaction
            found |= _client(event.client)
            found |= transaction(event)
        case Disconnected():
            found |= _client(event.client)
            found["seconds"] = round(event.seconds, 3)
            found["commands"] = counts(event)
            if event.after:
                found["after"] = clipped(event.after)
            if event.reason:
                found["error"] = clipped(event.reason)
    return found


def transaction(event: TransactionEnded) -> dict[str, Value]:
    """The summary of a transaction, but for its ids and the client."""
    found: dict[str, Value] = {"helo": clipped(event.client.helo)}
    if event.client.login:
        found["login"] = clipped(event.client.login)
    found["client_tls"] = tls(event.client_tls)
    found["from"] = clipped(event.sender)
    found["to"] = [clipped(address) for address in event.recipients]
    found["nrcpt"] = len(event.recipients)
    found["upstream"] = relay(event.server, event.address)
    found["upstream_tls"] = tls(event.upstream_tls)
    found["reply"] = f"{event.reply.code} {reply_text(event.reply)}"
    found["bytes"] = event.size
    for phase, seconds in event.phases.items():
        found[f"{phase}_s"] = round(seconds, 3)
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


def _forwarded(said: Mapping[str, str]) -> dict[str, Value]:
    """What XFORWARD said of where the client has the message from."""
    name = said.get("NAME", "[")
    name = "unknown" if name.startswith("[") else bare(name)
    found: dict[str, Value] = {"forwarded_client": f"{name}[{said.get('ADDR') or 'unknown'}]"}
    for field, attribute in (("forwarded_helo", "HELO"), ("forwarded_id", "IDENT")):
        if said.get(attribute):
            found[field] = clipped(said[attribute])
    return found


def logfmt(found: dict[str, Value]) -> str:
    """`found` as `key=value` words; addresses stand in angle brackets."""
    words = []
    for name, value in found.items():
        if isinstance(value, str):
            value = quoted(bracketed(value) if name == "from" else value)
        elif isinstance(value, list):
            value = quoted(_addresses(value))
        elif isinstance(value, bool):
            value = "true" if value else "false"
        words.append(f"{name}={value}")
    return " ".join(words)


def _addresses(addresses: Sequence[str]) -> str:
    shown = ",".join(map(bracketed, addresses[:SUMMARY_RECIPIENTS]))
    return shown if len(addresses) <= SUMMARY_RECIPIENTS else f"{shown},..."


def named(client: Client) -> str:
    """`name[address]`; a name can hold nothing that ends it."""
    name = "unknown" if client.name.startswith("[") else bare(client.name)
    return f"{name}[{client.peer.address or 'unix'}]"


@lru_cache(256)  # upstreams are few
def relay(server: str, address: str) -> str:
    """`host[address]:port`, or `localhost[/path]`: as Postfix names the server it talked to."""
    server = server.removeprefix("lmtp:").partition("*")[0]  # without its weight
    if server.startswith("unix:"):
        path = server.removeprefix("unix:")
        return f"localhost[{'/'.join(map(bare, path.split('/')))}]"
    host, colon, port = server.rpartition(":")
    bare_ipv6 = ":" in host.removeprefix("mx:") and not host.startswith("[")
    if not colon or not port.isdigit() or bare_ipv6:
        host, port = server, ""
    where = f"{bare(host.strip('[]')) or 'none'}[{bare(address) or 'none'}]"
    return f"{where}:{port}" if port else where


def relays(servers: str, address: str) -> str:
    """`relay` of each: there are several, without address, where none could be used."""
    return ",".join(relay(each, address) for each in servers.split(","))


def endpoint(address: str, port: int) -> str:
    """`address:port`, IPv6 in brackets; "unix" for a Unix socket."""
    if not address:
        return "unix"
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def tls(found: Tls | None) -> str:
    """Version, cipher, and whether the peer was verified; "none" without TLS."""
    return str(found) if found else "none"


# Postfix's order; a tool that wants `auth=` looks for it behind plain counts only.
_ORDER = ("HELO", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP")


def counts(event: Disconnected) -> str:
    """`ehlo=1 rcpt=1/2 commands=2/3`: taken, and all where they differ."""
    return _counts(tuple(event.commands.items()))


@lru_cache(256)  # most sessions are like others
def _counts(commands: tuple[tuple[str, tuple[int, int]], ...]) -> str:
    by_verb = dict(commands)
    known = [verb for verb in _ORDER if verb in by_verb]
    rest = [verb for verb in by_verb if verb not in _ORDER]
    words = [_count(bare(verb).lower(), *by_verb[verb]) for verb in (*known, *rest)]
    every = by_verb.values()
    words.append(_count("commands", sum(n for n, _ in every), sum(n for _, n in every)))
    return " ".join(words)


def _count(verb: str, taken: int, total: int) -> str:
    return f"{verb}={total}" if taken == total else f"{verb}={taken}/{total}"


def _client(client: Client) -> dict[str, Value]:
    return {
        "client": named(client),
        "client_address": client.peer.address,
        "client_port": client.peer.port,
    }
