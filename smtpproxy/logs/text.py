"""Lines in Postfix's shape, so that pflogsumm, fail2ban and people's habits go on working.

The program in `smtpproxy/program[pid]` is the one of Postfix that would have written the
line: pflogsumm takes clients and refusals from `smtpd` only, deliveries from others only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from smtpproxy.events import (
    Connected,
    Disconnected,
    Event,
    Introduced,
    NotIntroduced,
    Refused,
    ShadowAnswered,
    TlsStarted,
    TransactionEnded,
    UpstreamFailed,
)
from smtpproxy.logs.escape import bare, bracketed, clipped, quoted, reply_text, shown
from smtpproxy.logs.fields import Value, remarks
from smtpproxy.logs.levels import Level
from smtpproxy.logs.words import counts, endpoint, named, relay, relays, rounded, tls

Line = tuple[str, str]  # the program, and what it says

_SMTPD, _QMGR, _SMTP = "smtpd", "qmgr", "smtp"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LONGEST_NOTE = 8000  # characters; a traceback needs them
SUMMARY_RECIPIENTS = 20  # named in a summary; each has a line of its own as well

_word = lru_cache(256)(quoted)  # of what comes again and again: a HELO name, an upstream


class TextShape:
    """Whole lines: with date, host and ident, or with a priority only, for the journal.

    `now` gives seconds since 1970; dates are in local time, as syslog's are.
    """

    def __init__(
        self, now: Callable[[], float], host: str, pid: Callable[[], int], journal: bool
    ) -> None:
        self._now = now
        self._host = bare(host.partition(".")[0]) or "localhost"
        self._pid = pid  # asked again each second: a daemon forks after the first lines
        self._journal = journal
        self._second = -1
        self._prefixes: dict[str, str] = {}

    def event(self, level: Level, event: Event) -> str:
        """The lines that tell of `event`, each with its line end."""
        return self._lines(level, lines(event))

    def note(self, level: Level, text: str, source: str = "") -> str:
        """One line that belongs to no session."""
        words = [f"{level.word}: "] if level <= Level.WARNING else []
        if source:
            words.append(f"{bare(source)}: ")
        words.append(shown(text, _LONGEST_NOTE))
        return self._lines(level, [(_SMTPD, "".join(words))])

    def _lines(self, level: Level, found: list[Line]) -> str:
        if self._journal:  # sd-daemon(3): the journal has date, host and ident already
            return "".join([f"<{level:d}>{text}\n" for _, text in found])
        prefixes = self._dated()
        return "".join([f"{prefixes[program]}{text}\n" for program, text in found])

    def _dated(self) -> dict[str, str]:
        second = int(self._now())
        if second != self._second:
            self._second = second
            t = time.localtime(second)
            date = (
                f"{_MONTHS[t.tm_mon - 1]} {t.tm_mday:2} {t.tm_hour:02}:{t.tm_min:02}:{t.tm_sec:02}"
            )
            self._prefixes = {
                program: f"{date} {self._host} smtpproxy/{program}[{self._pid()}]: "
                for program in (_SMTPD, _QMGR, _SMTP)
            }
        return self._prefixes


def lines(event: Event) -> list[Line]:
    """The lines that tell of `event`, without prefix."""
    return _LINES[type(event)](event)


def _connected(event: Connected) -> list[Line]:
    client = event.client
    via = f" via={client.peer.via}" if client.peer.via else ""
    return [(_SMTPD, f"connect from {named(client)}{via} session={event.session}")]


def _not_introduced(event: NotIntroduced) -> list[Line]:
    warning = "" if event.silent else "warning: "
    who, why = endpoint(event.peer.address, event.peer.port), shown(event.reason)
    return [(_SMTPD, f"{warning}no PROXY header from {who}: {why} session={event.session}")]


def _introduced(event: Introduced) -> list[Line]:
    who, client = event.client.peer.via, named(event.client)
    return [(_SMTPD, f"XCLIENT from {who}: client is {client} session={event.session}")]


def _tls_started(event: TlsStarted) -> list[Line]:
    tls = event.tls
    trust = "Trusted" if tls.verified else "Anonymous"
    name = f" to {bare(tls.server_name)}" if tls.server_name else ""
    text = (
        f"{trust} TLS connection established from {named(event.client)}{name}:"
        f" {shown(tls.version)} with cipher {shown(tls.cipher)} session={event.session}"
    )
    return [(_SMTPD, text)]


def _refused(event: Refused) -> list[Line]:
    return [(_SMTPD, _reject(event))]


def _upstream_failed(event: UpstreamFailed) -> list[Line]:
    # No "warning:" in front: so pflogsumm counts by reason and host, not by session.
    host, _, port = relay(event.server, event.address).partition("]:")
    port = f" (port {port})" if port else ""
    text = f"connect to {host.removesuffix(']')}]: {shown(event.reason)}{port}"
    return [(_SMTP, f"{event.session}: {text}")]


def _shadow_answered(event: ShadowAnswered) -> list[Line]:
    return [(_SMTPD, _shadow(event))]


def _disconnected(event: Disconnected) -> list[Line]:
    text = f"{counts(event)} seconds={event.seconds:.3f} session={event.session}"
    end = (_SMTPD, f"disconnect from {named(event.client)} {text}")
    return [(_SMTPD, _lost(event)), end] if event.after else [end]


def _reject(event: Refused) -> str:
    client, reply = event.client, event.reply
    text = shown(reply_text(reply))
    words = []
    if event.sender is not None:
        words.append(f"from={bracketed(event.sender)}")
    if event.recipient is not None:
        words.append(f"to={bracketed(event.recipient)}")
    if ": " not in text:  # where pflogsumm takes the reason to begin
        rest = text.removeprefix(reply.enhanced).lstrip()
        text = f"{reply.enhanced} {bracketed(_subject(event))}: {rest}".lstrip()
    words.append(f"proto={client.protocol}")
    if client.helo:
        words.append(f"helo={bracketed(client.helo)}")
    upstream = f" upstream={relays(event.server, event.address)}" if event.server else ""
    error = f" error={quoted(clipped(event.error))}" if event.error else ""
    # The comma is where pflogsumm stops reading a reason: the id would make each unique.
    return (
        f"NOQUEUE: reject: {bare(event.stage)} from {named(client)}: {reply.code} {text};"
        f" {' '.join(words)}, by={event.by.value}{upstream}{error} session={event.session}"
    )


def _shadow(event: ShadowAnswered) -> str:
    said, shadows = (
        quoted(f"{reply.code} {reply_text(reply)}") for reply in (event.reply, event.shadow_reply)
    )
    what = "differs" if event.differs else "agrees"
    return (
        f"shadow {what}: to={bracketed(event.recipient)} reply={said} "
        f"shadow={quoted(clipped(event.shadow))} shadow_reply={shadows} session={event.session}"
    )


def _subject(event: Refused) -> str:
    """What was refused, as Postfix puts it before the reason."""
    match event.stage:
        case "CONNECT":
            return named(event.client)
        case "MAIL":
            return event.sender or ""
        case "RCPT":
            return event.recipient or ""
        case stage:
            return stage


def _transaction_ended(event: TransactionEnded) -> list[Line]:
    id_, reply, phases = event.transaction, event.reply, event.phases
    client, server = named(event.client), relay(event.server, event.address)
    sender, recipients = bracketed(event.sender), [bracketed(to) for to in event.recipients]
    status, digit = _status(event)
    enhanced, said = reply.enhanced, reply_text(reply)
    dsn = enhanced if enhanced.startswith(digit) else f"{digit}.0.0"
    # Postfix: before the queue manager, in it, connection set-up, transmission.
    total, before, setup = sum(phases.values()), phases.get("lookup", 0), phases.get("connect", 0)
    delays = f"{before:.3f}/0/{setup:.3f}/{max(total - before - setup, 0):.3f}"
    outcome = (
        f"relay={server}, delay={total:.3f}, delays={delays}, dsn={dsn},"
        f" status={status} ({reply.code} {shown(said)})"
    )
    warnings = []
    if event.in_doubt:
        warnings.append(f"in doubt: {server} may have the message: no answer that counts came")
    if event.duplicate:
        warnings.append("likely duplicate: it came before, and may have been taken then")
    return [
        (_SMTPD, f"{id_}: client={client}"),
        (_QMGR, f"{id_}: from={sender}, size={event.size}, nrcpt={len(recipients)} (queue active)"),
        *[(_SMTP, f"{id_}: to={to}, {outcome}") for to in recipients],
        *[(_SMTPD, f"warning: {id_}: {each}") for each in warnings],
        (_SMTPD, f"{id_}: summary {_summary(event, client, sender, recipients, server, said)}"),
        (_QMGR, f"{id_}: removed"),
    ]


def _summary(
    event: TransactionEnded,
    client: str,
    sender: str,
    recipients: list[str],
    server: str,
    said: str,
) -> str:
    """`key=value` words: what `fields` has, under the same names; addresses in angle brackets."""
    login = f" login={_word(clipped(event.client.login))}" if event.client.login else ""
    phases = [f" {phase}_s={rounded(seconds)}" for phase, seconds in event.phases.items()]
    to = ",".join(recipients[:SUMMARY_RECIPIENTS])
    if len(recipients) > SUMMARY_RECIPIENTS:
        to += ",..."
    return (
        f"client={client} helo={_word(clipped(event.client.helo))}{login}"
        f" client_tls={_word(tls(event.client_tls))} from={quoted(sender)} to={quoted(to)}"
        f" nrcpt={len(recipients)} upstream={_word(server)}"
        f" upstream_tls={_word(tls(event.upstream_tls))}"
        f" reply={quoted(f'{event.reply.code} {said}')} bytes={event.size}"
        f"{''.join(phases)}{''.join(map(_remark, remarks(event).items()))}"
    )


def _remark(found: tuple[str, Value]) -> str:
    name, value = found
    return f" {name}={quoted(value) if isinstance(value, str) else 'true'}"


def _status(event: TransactionEnded) -> tuple[str, str]:
    """Postfix's word for what became of the message, and the class of its status code."""
    if event.reply.success and not event.error:
        return "sent", "2"
    return ("bounced", "5") if event.reply.permanent else ("deferred", "4")


def _lost(event: Disconnected) -> str:
    """Why the client left; fail2ban takes the first words, and `too many` up to the line's end."""
    client, session = named(event.client), f"session={event.session}"
    after = bare(event.after)
    what, _, why = event.reason.partition(": ")
    if what in ("too many errors", "too many commands"):
        return f"{what} after {after},{session} from {client}"
    if what not in ("lost connection", "timeout"):
        what, why = "lost connection", event.reason
    return f"{what} after {after} from {client} {session}" + (f": {shown(why)}" if why else "")


_LINES: dict[type[Event], Callable[[Any], list[Line]]] = {
    Connected: _connected,
    NotIntroduced: _not_introduced,
    Introduced: _introduced,
    TlsStarted: _tls_started,
    Refused: _refused,
    UpstreamFailed: _upstream_failed,
    ShadowAnswered: _shadow_answered,
    TransactionEnded: _transaction_ended,
    Disconnected: _disconnected,
}
