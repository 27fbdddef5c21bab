"""Whole pages, made of plain values.

What peers have said is in them as text alone: `twisted.web.template` escapes all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.web.template import Tag, flattenString, tags

from smtpproxy.amounts import span
from smtpproxy.web import live
from smtpproxy.web.lookup import result
from smtpproxy.web.style import SCRIPT, STYLE

Said = Mapping[str, Any]


async def status_page(said: Said) -> bytes:
    """How the program does, kept fresh while somebody looks at it."""
    box = tags.section(tags.h2("Look an address up"), _box(""))
    body = Tag("main")(*map(live.warning, said["warnings"]), box, live.parts(said), _footer())
    return await _rendered(said["domain"] or "smtpproxy", _header(said), body, fresh=True)


async def lookup_page(address: str, said: Said | None, error: str) -> bytes:
    """What the mappings say of an address, or why they were not asked."""
    answer = result(said) if said is not None else tags.p(live.clipped(error), class_="note bad")
    section = tags.section(tags.h2("Look an address up"), _box(address), answer)
    head = tags.header(tags.h1(tags.a("smtpproxy", href="/")))
    return await _rendered("look-up", head, Tag("main")(section), fresh=False)


def _header(said: Said) -> Tag:
    if said["stopping"]:
        badge = tags.span("stopping", class_="badge warn")
    elif said["ready"]:
        badge = tags.span("ready", class_="badge good")
    else:
        badge = tags.span("not listening", class_="badge bad")
    workers = len(said["processes"])
    facts = [f"smtpproxy {said['version']}", f"up {span(said['uptime'])}"]
    facts += [f"{workers} workers"] if workers > 1 else []
    facts += [f"configuration {said['configuration']['generation']}"]
    facts += [f"listening on {', '.join(said['listening']) or 'nothing'}"]
    return tags.header(tags.h1(said["domain"]), badge, tags.p(" · ".join(facts)), id="head")


def _box(address: str) -> Tag:
    entry = tags.input(
        type="text",
        name="address",
        value=address,
        placeholder="user@example.com",
        autocapitalize="none",
        autocomplete="off",
        spellcheck="false",
        required="required",
        maxlength="1000",
        **{"aria-label": "address"},
    )
    return tags.form(entry, tags.button("Look up"), action="/lookup", method="get")


def _footer() -> Tag:
    links = ("status.json", "metrics", "healthz", "readyz")
    return tags.footer(*((tags.a(name, href=f"/{name}"), " ") for name in links))


async def _rendered(title: str, head: Tag, body: Tag, fresh: bool) -> bytes:
    reload = tags.meta(**{"http-equiv": "refresh", "content": "30"})
    page = tags.html(
        tags.head(
            tags.meta(charset="utf-8"),
            tags.meta(name="viewport", content="width=device-width, initial-scale=1"),
            tags.title(title),
            tags.style(STYLE),
            tags.noscript(reload) if fresh else "",
        ),
        tags.body(head, body, tags.script(SCRIPT) if fresh else ""),
        lang="en",
    )
    return b"<!DOCTYPE html>\n" + await flattenString(None, page)
