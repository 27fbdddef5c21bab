"""The parts of the page that change: rates, upstreams, sessions, refusals, mappings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any

from twisted.web.template import Tag, tags

from smtpproxy.amounts import octets, short, span
from smtpproxy.web.plots import bars

MOST_SESSIONS = 50  # shown; /status.json has more
MOST_REFUSALS = 50
MOST_UPSTREAMS = 100
LONGEST = 300  # characters of what peers said

Said = Mapping[str, Any]

_PLOTS = (
    ("sessions", "sessions", short, "bar"),
    ("messages", "messages taken", short, "bar"),
    ("bytes", "of messages taken", octets, "bar"),
    ("refused_4xx", "refused for now, 4xx", short, "warn"),
    ("refused_5xx", "refused for good, 5xx", short, "bad"),
)


def warning(text: str) -> Tag:
    return tags.section(tags.p(clipped(text), class_="note"))


def parts(said: Said) -> Tag:
    """All of them."""
    return tags.div(
        _rates(said["rates"]),
        _upstreams(said["upstreams"], said["servers"]),
        _sessions(said["sessions"]),
        _refusals(said["refusals"]),
        _mappings(said["mappings"], said["configuration"], said["time"]),
        id="live",
    )


def _rates(rates: Mapping[str, Sequence[int]]) -> Tag:
    plots = [
        tags.div(
            tags.b(written(sum(rates[name]))),
            tags.span(words),
            bars(rates[name], words, kind),
            class_="plot",
        )
        for name, words, written, kind in _PLOTS
    ]
    return _section("The last hour", "a bar for each minute", tags.div(*plots, class_="plots"))


def _upstreams(upstreams: Sequence[Said], servers: Mapping[str, Said]) -> Tag:
    shown = sorted(upstreams, key=lambda each: (_health(each)[2], ",".join(each["servers"])))
    cards = [_upstream(each, servers) for each in shown[:MOST_UPSTREAMS]]
    more = len(shown) - len(cards)
    body = tags.div(*cards, class_="upstreams") if cards else _nothing("none is known")
    return _section("Upstreams", str(len(upstreams)), body, _more(more))


def _upstream(said: Said, servers: Mapping[str, Said]) -> Tag:
    name = ",".join(said["servers"])
    words, kind, _ = _health(said)
    served = _served(said, servers)
    facts = tags.dl()
    kept = f", {said['kept']} of them kept" if said["kept"] else ""
    waiting = f", {said['waiting']} clients wait" if said["waiting"] else ""
    _fact(facts, "connections", f"{said['connections']}{kept}{waiting}")
    if served is not None:
        _fact(facts, "answers in", f"{span(served['final'])} on average")
        _fact(facts, "messages", f"{short(served['messages'])}, the last {_ago(served['age'])}")
    tls = clipped(served["tls"]) if served is not None else "no message yet"
    _fact(facts, "TLS", f"{tls} (tls = {said['tls']})")
    for each in said["troubles"]:
        state = "down" if each["down"] else "failing"
        text = f"{_place(each)}, for {span(each['seconds'])}: {clipped(each['reason'])}"
        _fact(facts, state, text)
    for each, standing in said["standings"].items():
        _fact(facts, standing, clipped(each))
    told = set(map(_place, said["troubles"]))
    for each in said["failed"]:
        if _place(each) not in told:
            text = f"{_place(each)}, {_ago(each['age'])}: {clipped(each['reason'])}"
            _fact(facts, "not heard", text)
    badge = tags.span(words, class_=f"badge {kind}")
    title = tags.h3(badge, clipped(", ".join(said["servers"])))
    return tags.div(title, facts, _offers(name, said["heard"]), class_="upstream")


def _health(said: Said) -> tuple[str, str, int]:
    """In a word, how the style shows it, and where it stands in the order."""
    places = {(each["server"], each["address"]) for each in said["heard"]}
    down = {(each["server"], each["address"]) for each in said["troubles"] if each["down"]}
    if down and places <= down:
        return "down", "bad", 0
    if down:
        return "partly down", "warn", 1
    if said["troubles"]:
        return "failing", "warn", 2
    if said["standings"]:
        return sorted(said["standings"].values())[-1], "warn", 3
    if not said["heard"]:
        return "not heard yet", "faint", 4
    return "up", "good", 5


def _place(said: Said) -> str:
    server, address = said["server"], said["address"]
    return clipped(f"{server} at {address}" if address and address not in server else server)


def _served(said: Said, servers: Mapping[str, Said]) -> dict[str, Any] | None:
    """How its servers did together."""
    names = {*said["servers"], *(each["server"] for each in said["heard"])}
    found = [servers[name] for name in names if name in servers]
    messages = sum(each["messages"] for each in found)
    if not messages:
        return None
    latest = min(found, key=lambda each: float(each["age"]))
    final = sum(each["final"] * each["messages"] for each in found) / messages
    return {**latest, "messages": messages, "final": final}


def _offers(name: str, heard: Iterable[Said]) -> Tag | str:
    """What each address announced last."""
    latest = {(each["server"], each["address"]): each for each in heard}
    if not latest:
        return ""
    facts = tags.dl()
    for (_, address), each in latest.items():
        offers = clipped(", ".join(each["offers"]), 1000)
        _fact(facts, clipped(address), tags.span(offers, class_="code"))
    unique = sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:12]
    return tags.details(tags.summary("extensions"), facts, id=f"offers-{unique}")


def _sessions(said: Said) -> Tag:
    every = sorted(said["list"], key=lambda each: -float(each["age"]))
    rows = [
        tags.tr(
            _cell("", tags.code(each["session"]), "keep"),
            _cell("client", _client(each["client"])),
            _cell("stage", each["stage"]),
            _cell("age", span(each["age"]), "keep"),
            _cell("upstream", clipped(", ".join(each["upstreams"]))),
        )
        for each in every[:MOST_SESSIONS]
    ]
    earlier = f", {said['earlier']} of earlier configurations" if said["earlier"] else ""
    table = _table(("session", "client", "stage", "age", "upstream"), rows)
    head = f"{said['count']} of {said['most']}{earlier}"
    return _section("Sessions", head, table, _more(said["count"] - len(rows)))


def _refusals(said: Sequence[Said]) -> Tag:
    rows = [
        tags.tr(
            _cell("", _clock(each["time"]), "keep"),
            _cell("client", _client(each["client"])),
            _cell("", _whom(each)),
            _cell("", _why(each)),
        )
        for each in said[:MOST_REFUSALS]
    ]
    table = _table(("time (UTC)", "client", "of what", "reply and reason"), rows)
    return _section("Last refusals", "the latest first", table, _more(len(said) - len(rows)))


def _whom(said: Said) -> list[Any]:
    """At which command, from whom and to whom."""
    found: list[Any] = [clipped(said["stage"])]
    if "from" in said:
        found += [" from ", tags.code(clipped(f"<{said['from']}>"))]
    if said["to"]:
        found += [" to ", tags.code(clipped(", ".join(f"<{each}>" for each in said["to"])))]
    return found


def _why(said: Said) -> list[Any]:
    who = {"proxy": "by us", "upstream": "by the upstream", "client": "by the client"}
    by = who.get(said.get("by", ""), "")
    where = f" ({clipped(said['upstream'])})" if said.get("upstream") else ""
    whose = tags.span(f" {by}{where}", class_="faint")
    found: list[Any] = [tags.code(clipped(said["reply"])), whose]
    if said.get("error"):
        found += [tags.br, clipped(said["error"])]
    return found


def _mappings(mappings: Sequence[Said], configuration: Said, now: float) -> Tag:
    rows = [
        tags.tr(
            _cell("", clipped(each["mapping"])),
            _cell("rows", "" if each["rows"] is None else str(each["rows"])),
            _cell("generation", "" if each["generation"] is None else str(each["generation"])),
            _cell("in force", "" if each["age"] is None else f"for {span(each['age'])}"),
            _cell("", _trouble(each)),
        )
        for each in mappings
    ]
    number, age = configuration["generation"], span(configuration["age"])
    head = f"configuration {number}, in force for {age}"
    table = _table(("mapping", "rows", "generation", "in force", ""), rows)
    return _section("Mappings", head, table, _reload(configuration["reload"], now))


def _trouble(said: Said) -> list[Any]:
    found: list[Any] = []
    if said["failing"]:
        found += [tags.span("fails", class_="badge bad"), " "]
    if said["trouble"]:
        found += [tags.span("not taken", class_="badge warn"), " ", clipped(said["trouble"])]
    return found


def _reload(said: Said | None, now: float) -> Tag | str:
    if said is None:
        return ""
    lines = [tags.li(clipped(line)) for line in said["lines"]]
    what = "was taken" if said["taken"] else "WAS NOT TAKEN"
    kind = "faint" if said["taken"] else "note bad"
    text = f"what was read {_ago(now - said['time'])} {what}"
    return tags.div(tags.p(text), tags.ul(*lines), class_=kind)


# Small pieces.


def _section(title: str, head: str, *body: Any) -> Tag:
    return tags.section(tags.h2(title, tags.small(head)), *body)


def _table(names: Sequence[str], rows: Sequence[Tag]) -> Tag:
    if not rows:
        return _nothing("none")
    head = tags.thead(tags.tr(*(tags.th(name) for name in names)))
    return tags.table(head, tags.tbody(*rows))


def _cell(name: str, text: Any, kind: str = "") -> Tag:
    """On a narrow screen, where the table has no head, `name` stands before the text."""
    cell = tags.td(text)
    if name and text:
        cell(**{"data-name": name})
    return cell(class_=kind) if kind else cell


def _fact(facts: Tag, name: str, text: Any) -> None:
    facts(tags.dt(name), tags.dd(text))


def _nothing(text: str) -> Tag:
    return tags.p(text, class_="faint")


def _more(number: int) -> Tag | str:
    return tags.p(f"and {number} more", class_="faint") if number > 0 else ""


def _ago(seconds: float) -> str:
    return "just now" if seconds < 1 else f"{span(seconds)} ago"


def _client(text: str) -> list[Any]:
    """`name[address]`, the address first: it never breaks, and the name may be long."""
    name, _, address = clipped(text).rpartition("[")
    found: list[Any] = [tags.span(address.removesuffix("]"), class_="keep")]
    if name and name != "unknown":
        found += [" ", tags.span(name, class_="faint")]
    return found


def _clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(seconds))


def clipped(text: str, longest: int = LONGEST) -> str:
    """What peers said, without what cannot be seen, or turns round what is; and not too long."""
    text = text if len(text) <= longest else f"{text[: longest - 1]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
