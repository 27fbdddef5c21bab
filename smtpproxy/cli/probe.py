"""`smtpproxy probe`: would a server take mail from this proxy?"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.task import react

from smtpproxy.cli import lookup
from smtpproxy.cli.visit import NotSecured, Said, Secured, Visit
from smtpproxy.cli.visiting import Attempt, Report, Visitor
from smtpproxy.cli.wording import complain, server
from smtpproxy.config import Config, config_file, load
from smtpproxy.logs.escape import shown
from smtpproxy.parts import open_router
from smtpproxy.routing import Found, NoRoute, TryAgain, Upstream, parse_server
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.smtp.replies import Reply
from smtpproxy.upstream import UpstreamError

FINE, NOT_FINE, ERROR = 0, 1, 2
INTERRUPTED = 130  # as a shell says it of SIGINT

AT_ONCE = 10  # servers


def run(options: Namespace) -> int:
    """0 where every server would take mail, 1 where one would not, 2 where nothing was probed."""
    config = load(config_file(options.config, os.environ), os.environ)
    chosen = _chosen(config, options)
    if isinstance(chosen, int):
        return chosen
    statuses: list[int] = []

    async def work(reactor: Any) -> None:
        visitor = Visitor(reactor, config, options.timeout, options.client, options.helo)
        try:
            statuses.append(await probe(visitor, chosen))
        except CancelledError:
            statuses.append(INTERRUPTED)
        finally:
            visitor.stop()

    def main(reactor: Any) -> Deferred[None]:
        task = Deferred.fromCoroutine(work(reactor))
        reactor.addSystemEventTrigger("before", "shutdown", task.cancel)
        return task

    with suppress(SystemExit):  # `react` ends the program with a status of its own
        react(main)
    return statuses[0] if statuses else ERROR


async def probe(visitor: Visitor, upstreams: Sequence[Upstream]) -> int:
    """Print a report on each of `upstreams`, in their order; the exit status."""
    turns = DeferredSemaphore(AT_ONCE)
    visits = [turns.run(visitor.visit, upstream) for upstream in upstreams]
    status = FINE
    for visit in visits:
        report = await visit
        print("\n".join(_lines(report)), flush=True)
        if report.error is not None:
            status = NOT_FINE
    return status


def _chosen(config: Config, options: Namespace) -> Sequence[Upstream] | int:
    """The servers to probe, or the exit status where there are none."""
    target = options.target or ""
    recipient = lookup.recipient_in(target)
    if target and recipient is None:
        try:
            return [Upstream(*parse_server(target), tls_verify=not options.no_verify)]
        except ValueError as error:
            complain(f"neither a recipient nor a server: {error}")
            return ERROR
    if options.no_verify:
        complain("--no-verify is for a SERVER; for others the mappings say whether to verify")
        return ERROR
    router = open_router(config)
    if recipient is None:
        return router.upstreams() or _nothing()
    match answer := lookup.at_once(router.route(recipient)):
        case Found(route):
            return [route.upstream]
        case NoRoute() | TryAgain():
            complain(lookup.outcome(recipient, answer))
            return NOT_FINE if isinstance(answer, NoRoute) else ERROR


def _nothing() -> int:
    complain("the mappings list no server: name one, or a recipient")
    return ERROR


def _lines(report: Report) -> Iterator[str]:
    yield server(report.upstream)
    for attempt in report.attempts:
        yield f"  {attempt.address or report.upstream.host}"
        for name, text in _facts(attempt):
            yield f"    {name:<11}  {text}"
    if len(report.attempts) > 1:
        yield f"  {_result(report.error)}"


def _facts(attempt: Attempt) -> Iterator[tuple[str, str]]:
    for number, visit in enumerate(attempt.visits):
        if number:
            yield "again", "a new connection, in clear"
        for heard in visit.heard:
            yield from _fact(heard)
        if number == len(attempt.visits) - 1:
            yield from _missing(visit, attempt)
    yield "result", _result(attempt.error)


def _fact(heard: Said | Secured | NotSecured) -> Iterator[tuple[str, str]]:
    match heard:
        case Said("", reply):
            yield "greeting", shown(str(reply))
        case Said(command, reply):
            verb, _, argument = command.partition(" ")
            if verb == "EHLO" and reply.success:
                yield verb, _announced(reply)
            elif verb == "XCLIENT":
                taken = "accepted" if reply.success else "refused"
                yield verb, f"{taken}: {shown(str(reply))} (to {shown(argument)})"
            elif verb != "QUIT" and not (verb == "STARTTLS" and reply.success):
                yield verb, shown(str(reply))
        case Secured(tls, certificate, flaw):
            yield "STARTTLS", f"{tls.version} {tls.cipher}"
            yield "certificate", shown(certificate)
            yield "verifies", f"no: {shown(flaw)}" if flaw else "yes"
        case NotSecured(reason):
            yield "STARTTLS", f"the handshake failed: {shown(reason)}"


def _announced(reply: Reply) -> str:
    keywords = Extensions.of(reply).keywords
    words = (" ".join((keyword, *arguments)) for keyword, arguments in keywords.items())
    return shown(", ".join(words)) or "no extensions"


def _missing(visit: Visit, attempt: Attempt) -> Iterator[tuple[str, str]]:
    """What would have been said by now, had the server offered it."""
    if attempt.error is not None:
        return
    commands = [heard.command.partition(" ")[0] for heard in visit.heard if isinstance(heard, Said)]
    if "STARTTLS" not in commands and len(attempt.visits) == 1:
        yield "STARTTLS", "not offered: mail goes in clear"
    if "XCLIENT" not in commands:
        yield "XCLIENT", "not offered: the server sees this proxy as the client"


def _result(error: UpstreamError | None) -> str:
    if error is None:
        return "would take mail"
    return f"would not take mail: {shown(str(error))}; clients are told {shown(str(error.reply))}"
