"""Every state of both conversations times every command, as two literal tables.

A row says what a command leads to once it is taken: the next state, or, for a server,
the reply that refuses it there (RFC 5321 sections 3.3 and 4.1.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from smtpproxy.smtp.commands import Verb
from smtpproxy.smtp.replies import Reply


class State(Enum):
    """Where a connection is, seen from either end."""

    NEW = "before the greeting"
    GREETED = "before EHLO"
    READY = "between transactions"
    SENDER = "after MAIL"
    RECIPIENTS = "after an accepted RCPT"
    CONTENT = "inside the content"
    CHUNKS = "between two chunks"
    ENDED = "after QUIT, or broken"

    __hash__ = object.__hash__  # Enum's own is slow, and keys of tables are hashed all the time


_HELLO_FIRST = Reply.of(503, "5.5.1", "Send EHLO first")
_MAIL_FIRST = Reply.of(503, "5.5.1", "Send MAIL first")
_NESTED = Reply.of(503, "5.5.1", "A transaction is under way; send RSET to leave it")
_NO_RECIPIENTS = Reply.of(554, "5.5.1", "No valid recipients")
_CHUNKED = Reply.of(503, "5.5.1", "The message goes on with BDAT; send RSET to leave it")
_NO_AUTH = Reply.of(503, "5.5.1", "Authentication is not enabled here")

_S = State
_V = Verb

# A server never takes a command in NEW, CONTENT and ENDED: there it reads none.
SERVER: Mapping[State, Mapping[Verb, State | Reply]] = {
    _S.GREETED: {
        _V.EHLO: _S.READY,
        _V.HELO: _S.READY,
        _V.LHLO: _S.READY,
        _V.STARTTLS: _S.GREETED,
        _V.XCLIENT: _S.GREETED,
        _V.XFORWARD: _S.GREETED,
        _V.MAIL: _HELLO_FIRST,
        _V.RCPT: _HELLO_FIRST,
        _V.DATA: _HELLO_FIRST,
        _V.BDAT: _HELLO_FIRST,
        _V.RSET: _S.GREETED,
        _V.NOOP: _S.GREETED,
        _V.VRFY: _S.GREETED,
        _V.EXPN: _S.GREETED,
        _V.HELP: _S.GREETED,
        _V.AUTH: _NO_AUTH,
        _V.QUIT: _S.ENDED,
    },
    _S.READY: {
        _V.EHLO: _S.READY,
        _V.HELO: _S.READY,
        _V.LHLO: _S.READY,
        _V.STARTTLS: _S.GREETED,
        _V.XCLIENT: _S.GREETED,
        _V.XFORWARD: _S.READY,
        _V.MAIL: _S.SENDER,
        _V.RCPT: _MAIL_FIRST,
        _V.DATA: _MAIL_FIRST,
        _V.BDAT: _MAIL_FIRST,
        _V.RSET: _S.READY,
        _V.NOOP: _S.READY,
        _V.VRFY: _S.READY,
        _V.EXPN: _S.READY,
        _V.HELP: _S.READY,
        _V.AUTH: _NO_AUTH,
        _V.QUIT: _S.ENDED,
    },
    _S.SENDER: {
        _V.EHLO: _S.READY,
        _V.HELO: _S.READY,
        _V.LHLO: _S.READY,
        _V.STARTTLS: _NESTED,
        _V.XCLIENT: _NESTED,
        _V.XFORWARD: _NESTED,
        _V.MAIL: _NESTED,
        _V.RCPT: _S.RECIPIENTS,
        _V.DATA: _NO_RECIPIENTS,
        _V.BDAT: _NO_RECIPIENTS,
        _V.RSET: _S.READY,
        _V.NOOP: _S.SENDER,
        _V.VRFY: _S.SENDER,
        _V.EXPN: _S.SENDER,
        _V.HELP: _S.SENDER,
        _V.AUTH: _NO_AUTH,
        _V.QUIT: _S.ENDED,
    },
    _S.RECIPIENTS: {
        _V.EHLO: _S.READY,
        _V.HELO: _S.READY,
        _V.LHLO: _S.READY,
        _V.STARTTLS: _NESTED,
        _V.XCLIENT: _NESTED,
        _V.XFORWARD: _NESTED,
        _V.MAIL: _NESTED,
        _V.RCPT: _S.RECIPIENTS,
        _V.DATA: _S.CONTENT,
        _V.BDAT: _S.CONTENT,
        _V.RSET: _S.READY,
        _V.NOOP: _S.RECIPIENTS,
        _V.VRFY: _S.RECIPIENTS,
        _V.EXPN: _S.RECIPIENTS,
        _V.HELP: _S.RECIPIENTS,
        _V.AUTH: _NO_AUTH,
        _V.QUIT: _S.ENDED,
    },
    _S.CHUNKS: {
        _V.EHLO: _S.READY,
        _V.HELO: _S.READY,
        _V.LHLO: _S.READY,
        _V.STARTTLS: _NESTED,
        _V.XCLIENT: _NESTED,
        _V.XFORWARD: _NESTED,
        _V.MAIL: _NESTED,
        _V.RCPT: _CHUNKED,
        _V.DATA: _CHUNKED,
        _V.BDAT: _S.CONTENT,
        _V.RSET: _S.READY,
        _V.NOOP: _S.CHUNKS,
        _V.VRFY: _S.CHUNKS,
        _V.EXPN: _S.CHUNKS,
        _V.HELP: _S.CHUNKS,
        _V.AUTH: _NO_AUTH,
        _V.QUIT: _S.ENDED,
    },
}

# What a client may send; what a state does not list is never sent there.  Above all,
# inside the content there is nothing to say but content and its end: a QUIT there would be
# a line of the message, and a final dot, or a last chunk, would deliver half of it.
CLIENT: Mapping[State, Mapping[Verb, State]] = {
    _S.NEW: {},
    _S.GREETED: {
        _V.EHLO: _S.READY,
        _V.HELO: _S.READY,
        _V.LHLO: _S.READY,
        _V.XCLIENT: _S.GREETED,
        _V.NOOP: _S.GREETED,
        _V.QUIT: _S.ENDED,
    },
    _S.READY: {
        _V.EHLO: _S.READY,
        _V.HELO: _S.READY,
        _V.LHLO: _S.READY,
        _V.STARTTLS: _S.GREETED,
        _V.XCLIENT: _S.GREETED,
        _V.MAIL: _S.SENDER,
        _V.RSET: _S.READY,
        _V.NOOP: _S.READY,
        _V.VRFY: _S.READY,
        _V.EXPN: _S.READY,
        _V.HELP: _S.READY,
        _V.QUIT: _S.ENDED,
    },
    _S.SENDER: {
        _V.RCPT: _S.RECIPIENTS,
        _V.RSET: _S.READY,
        _V.NOOP: _S.SENDER,
        _V.VRFY: _S.SENDER,
        _V.EXPN: _S.SENDER,
        _V.HELP: _S.SENDER,
        _V.QUIT: _S.ENDED,
    },
    _S.RECIPIENTS: {
        _V.RCPT: _S.RECIPIENTS,
        _V.DATA: _S.CONTENT,
        _V.BDAT: _S.CHUNKS,
        _V.RSET: _S.READY,
        _V.NOOP: _S.RECIPIENTS,
        _V.VRFY: _S.RECIPIENTS,
        _V.EXPN: _S.RECIPIENTS,
        _V.HELP: _S.RECIPIENTS,
        _V.QUIT: _S.ENDED,
    },
    _S.CONTENT: {},
    _S.CHUNKS: {
        _V.BDAT: _S.CHUNKS,
    },
    _S.ENDED: {},
}

# The commands behind which others may be sent before their reply came (RFC 2920
# section 3.1, RFC 3030 section 2).
PIPELINED = frozenset({_V.MAIL, _V.RCPT, _V.RSET, _V.BDAT})
