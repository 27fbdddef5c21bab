"""`smtpproxy probe`: would a server take mail from this proxy?"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence

from twisted.internet.defer import DeferredSemaphore

from smtpproxy.chain import Loop, open_chain
from smtpproxy.cli import explaining, lookup
from smtpproxy.cli.visit import Heard, NotSecured, Prefaced, Said, Secured, Visit
from smtpproxy.cli.visiting import Attempt, Report, Visitor
from smtpproxy.cli.waiting import with_reactor
from smtpproxy.cli.wording import IDENTITY, complain, extensions, harmless, server, too_small
from smtpproxy.config import Config, config_file, load
from smtpproxy.explain import explained
from smtpproxy.faults import Faults
from smtpproxy.routing import Found, Identity, Tls, Upstream, parse_servers
from smtpproxy.smtp import keywords
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.paths import Path
from smtpproxy.tasks import start
from smtpproxy.upstream import UpstreamError

FINE, NOT_FINE, ERROR = 0, 1, 2

AT_ONCE = 10  # upstreams
PATIENCE = 30.0  # seconds for each database to answer


def run(options: Namespace) -> int:
    """0 where every server would take mail, 1 where one would not, 2 where nothing was probed."""
    config = load(config_file(options.config, os.environ), os.environ)
    recipient = _recipient(options)
    named: list[Upstream] = []
    if options.target and recipient is None:
        try:
            named.append(_named(options))
        except ValueError as error:
            complain(f"neither a recipient nor a server: {error}")
            return ERROR
    elif options.no_verify or options.tls or options.identity:
        complain(
            "--no-verify, --tls and --identity are for a SERVER; for others the mappings say how"
        )
        return ERROR

    async def work(loop: Loop) -> int:
        chosen = named or await _chosen(config, recipient, loop)
        if isinstance(chosen, int):
            return chosen
        visitor = Visitor(loop.reactor, config, options.timeout, options.client, options.helo)
        try:
            return await probe(visitor, chosen)
        finally:
            visitor.stop()

    return with_reactor(work)


def _recipient(options: Namespace) -> Path | None:
    """The recipient that the command line names, if it names one."""
    try:
        return lookup.recipient_in(options.target or "")
    except ValueError:
        return None


def _named(options: Namespace) -> Upstream:
    """The upstream that the command line describes; raises `ValueError`."""
    tls = Tls(options.tls) if options.tls else Tls.MAY if options.no_verify else Tls.OFFERED
    return Upstream(parse_servers(options.target), tls, Identity(options.identity or "auto"))


async def _chosen(config: Config, recipient: Path | None, loop: Loop) -> Sequence[Upstream] | int:
    """The upstreams that the mappings name, or the exit status where there are none."""
    chain = open_chain(config, lambda: loop)
    try:
        if recipient is None:
            if silent := await chain.check(lambda: loop, PATIENCE):
                raise Faults(silent)
            if upstreams := chain.router.upstreams():
                return upstreams
            complain("the mappings list no server: name one, or a recipient")
            return ERROR
        explanation = await chain.router.explain(recipient)
    finally:
        chain.stop()
    if isinstance(explanation.answer, Found):
        return [explanation.answer.route.upstream]
    said = explained(explanation)
    complain(explaining.outcome(said))
    return lookup.STATUS[said["answer"]]


async def probe(visitor: Visitor, upstreams: Sequence[Upstream]) -> int:
    """Print a report on each of `upstreams`, in their order; the exit status."""
    turns = DeferredSemaphore(AT_ONCE)
    visits = [turns.run(lambda each: start(visitor.visit(each)), each) for each in upstreams]
    status = FINE
    for visit in visits:
        report = await visit
        print("\n".join(_lines(report)), flush=True)
        if report.error is not None:
            status = NOT_FINE
    return status


def _lines(report: Report) -> Iterator[str]:
    upstream = report.upstream
    yield server(upstream)
    several = len(upstream.servers) > 1 or upstream.servers[0].mx
    for attempt in report.attempts:
        where = attempt.address or attempt.server.host
        if several:
            where = f"{attempt.server} at {where}" if attempt.address else str(attempt.server)
        yield f"  {where}"
        for name, text in _facts(attempt, upstream):
            yield f"    {name:<11}  {text}"
    if len(report.attempts) > 1:
        yield f"  {_result(report.error)}"


def _facts(attempt: Attempt, upstream: Upstream) -> Iterator[tuple[str, str]]:
    for number, visit in enumerate(attempt.visits):
        if number:
            yield "again", "a new connection, in clear"
        for heard in visit.heard:
            yield from _fact(heard)
        if number == len(attempt.visits) - 1 and attempt.error is None:
            yield from _missing(visit, attempt, upstream)
    yield "result", _result(attempt.error)


def _fact(heard: Heard) -> Iterator[tuple[str, str]]:
    match heard:
        case Prefaced(version):
            yield "PROXY", f"a header of version {version} was sent"
        case Said("", reply):
            yield "greeting", harmless(str(reply))
        case Said(command, reply):
            verb, _, argument = command.partition(" ")
            if verb in ("EHLO", "LHLO") and reply.success:
                yield verb, extensions(Extensions.of(reply).lines())
            elif verb == "XCLIENT":
                taken = "accepted" if reply.success else "refused"
                yield verb, f"{taken}: {harmless(str(reply))} (to {harmless(argument)})"
            elif verb != "QUIT" and not (verb == "STARTTLS" and reply.success):
                yield verb, harmless(str(reply))
        case Secured(tls, certificate, flaw):
            yield "STARTTLS", f"{tls.version} {tls.cipher}"
            yield "certificate", harmless(certificate)
            yield "verifies", f"no: {harmless(flaw)}" if flaw else "yes"
        case NotSecured(reason):
            yield "STARTTLS", f"the handshake failed: {harmless(reason)}"


def _missing(visit: Visit, attempt: Attempt, upstream: Upstream) -> Iterator[tuple[str, str]]:
    """What would have been said by now, had the server offered it or the mapping asked for it.

    And what it should not have said.
    """
    if (size := _size(visit)) is not None and keywords.too_small(size):
        yield "SIZE", too_small(size)
    commands = [heard.command.partition(" ")[0] for heard in visit.heard if isinstance(heard, Said)]
    if upstream.tls is Tls.NONE or (attempt.server.path and not upstream.tls.required):
        yield "STARTTLS", "not asked for: mail goes in clear"
    elif "STARTTLS" not in commands and len(attempt.visits) == 1:
        yield "STARTTLS", "not offered: mail goes in clear"
    if upstream.identity in (Identity.NONE, Identity.RECEIVED):
        yield "identity", IDENTITY[upstream.identity.value]
    elif upstream.identity is Identity.AUTO and "XCLIENT" not in commands:
        yield "XCLIENT", "not offered: the server sees this proxy as the client"


def _size(visit: Visit) -> int | None:
    """The limit in octets in what was announced last."""
    for heard in reversed(visit.heard):
        if isinstance(heard, Said) and heard.command[:4] in ("EHLO", "LHLO"):
            return Extensions.of(heard.reply).size_limit
    return None


def _result(error: UpstreamError | None) -> str:
    if error is None:
        return "would take mail"
    told = harmless(str(error.reply))
    return f"would not take mail: {harmless(str(error))}; clients are told {told}"
