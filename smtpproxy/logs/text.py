"""Lines in Postfix's shape, so that pflogsumm, fail2ban and people's habits go on working.

The program in `smtpproxy/program[pid]` is the one of Postfix that would have written the
line: pflogsumm takes clients and refusals from `smtpd` only, deliveries from others only.
"""

from __future__ import annotations

import time
from collections.abc import Callable

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
from smtpproxy.logs.fields import counts, endpoint, logfmt, named, relay, relays, transaction
from smtpproxy.logs.levels import Level

Line = tuple[str, str]  # the program, and what it says

_SMTPD, _QMGR, _SMTP = "smtpd", "qmgr", "smtp"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LONGEST_NOTE = 8000  # characters; a traceback needs them


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
    session = f"session={event.session}"
    match event:
        case Connected():
            via = f" via={event.client.peer.via}" if event.client.peer.via else ""
            return [(_SMTPD, f"connect from {named(event.client)}{via} {session}")]
        case NotIntroduced(peer=peer, reason=reason):
            warning = "" if event.silent else "warning: "
            who = endpoint(peer.address, peer.port)
            return [(_SMTPD, f"{warning}no PROXY header from {who}: {shown(reason)} {session}")]
        case Introduced(client=client):
            return [
                (_SMTPD, f"XCLIENT from {client.peer.via}: client is {named(client)} {session}")
            ]
        case TlsStarted(tls=tls):
            trust = "Trusted" if tls.verified else "Anonymous"
            name = f" to {bare(tls.server_name)}" if tls.server_name else ""
            return [
                (
                    _SMTPD,
                    f"{trust} TLS connection established from {named(event.client)}{name}:"
                    f" {shown(tls.version)} with cipher {shown(tls.cipher)} {session}",
                )
            ]
        case Refused():
            return [(_SMTPD, _reject(event))]
        case UpstreamFailed():
            # No "warning:" in front: so pflogsumm counts by reason and host, not by session.
            host, _, port = relay(event.server, event.address).partition("]:")
            port = f" (port {port})" if port else ""
            reason = shown(event.reason)
            return [
                (_SMTP, f"{event.session}: connect to {host.removesuffix(']')}]: {reason}{port}")
            ]
        case ShadowAnswered():
            return [(_SMTPD, _shadow(event))]
        case TransactionEnded():
            return _transaction(event)
        case Disconnected():
            ends = [(_SMTPD, _lost(event))] if event.after else []
            text = f"{counts(event)} seconds={event.seconds:.3f} {session}"
            return [*ends, (_SMTPD, f"disconnect from {named(event.client)} {text}")]


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


def _transaction(event: TransactionEnded) -> list[Line]:
    id_, reply, phases = event.transaction, event.reply, event.phases
    client, server = named(event.client), relay(event.server, event.address)
    status, digit = _status(event)
    enhanced = reply.enhanced
    dsn = enhanced if enhanced.startswith(digit) else f"{digit}.0.0"
    # Postfix: before the queue manager, in it, connection set-up, transmission.
    total, before, setup = sum(phases.values()), phases.get("lookup", 0), phases.get("connect", 0)
    delays = f"{before:.3f}/0/{setup:.3f}/{max(total - before - setup, 0):.3f}"
    outcome = (
        f"relay={server}, delay={total:.3f}, delays={delays}, dsn={dsn},"
        f" status={status} ({reply.code} {shown(reply_text(reply))})"
    )
    sender = f"from={bracketed(event.sender)}, size={event.size}, nrcpt={len(event.recipients)}"
    warnings = []
    if event.in_doubt:
        warnings.append(f"in doubt: {server} may have the message: no answer that counts came")
    if event.duplicate:
        warnings.append("likely duplicate: it came before, and may have been taken then")
    return [
        (_SMTPD, f"{id_}: client={client}"),
        (_QMGR, f"{id_}: {sender} (queue active)"),
        *[(_SMTP, f"{id_}: to={bracketed(to)}, {outcome}") for to in event.recipients],
        *[(_SMTPD, f"warning: {id_}: {each}") for each in warnings],
        (_SMTPD, f"{id_}: summary client={client} {logfmt(transaction(event))}"),
        (_QMGR, f"{id_}: removed"),
    ]


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
