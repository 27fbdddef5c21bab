"""Words that both shapes have for the same things, not escaped but for what others named."""

from __future__ import annotations

from functools import lru_cache

from smtpproxy.events import Disconnected, Tls
from smtpproxy.logs.escape import bare
from smtpproxy.mail import Client


def named(client: Client) -> str:
    """`name[address]`; a name can hold nothing that ends it."""
    return _named(client.name, client.peer.address)


@lru_cache(1024)  # each session tells of its client again and again
def _named(name: str, address: str) -> str:
    return f"{'unknown' if name.startswith('[') else bare(name)}[{address or 'unix'}]"


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


def rounded(seconds: float) -> str:
    """What `str(round(seconds, 3))` is, at two thirds of its cost."""
    digits = f"{seconds:.3f}".rstrip("0")
    return f"{digits}0" if digits[-1] == "." else digits


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
