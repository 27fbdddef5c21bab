"""What a session says in its own words."""

from __future__ import annotations

from smtpproxy.smtp.commands import Verb
from smtpproxy.smtp.replies import Reply

OK = Reply.of(250, "2.0.0", "Ok")
SENDER_OK = Reply.of(250, "2.1.0", "Ok")
CANNOT_VERIFY = Reply.of(252, "2.0.0", "Cannot verify; send some mail and see")
NOT_EXPANDED = Reply.of(502, "5.5.1", "Lists are not expanded here")
HELP = Reply.of(214, "2.0.0", "This server speaks SMTP (RFC 5321)")
TLS_READY = Reply.of(220, "2.0.0", "Ready to start TLS")
TLS_ACTIVE = Reply.of(503, "5.5.1", "TLS is active already")
# RFC 3207 section 4.2: what came in clear counts no more then, and with it went who the client is.
TLS_TOO_LATE = Reply.of(503, "5.5.1", "STARTTLS comes before XCLIENT")
ABANDONED = Reply.of(451, "4.4.0", "The client ended the transaction")
CROWDED = Reply.of(451, "4.4.5", "Too many wait for their server; try again later")
TIMEOUT = Reply.of(421, "4.4.2", "Timeout, closing the connection")
INTERNAL_ERROR = Reply.of(421, "4.3.0", "Internal error, closing the connection")
NO_TLS = Reply.of(502, "5.5.1", "STARTTLS is not offered")
NOT_ASCII = Reply.of(553, "5.6.7", "The address is not ASCII; MAIL did not say SMTPUTF8")
NEEDS_BDAT = Reply.of(503, "5.5.1", "Binary content is sent with BDAT")
CHUNK_OK = Reply.of(250, "2.0.0", "Ok, go on")
PRDR = Reply.of(353, "", "A reply for each recipient follows")
PRDR_OK = Reply.of(250, "2.0.0", "Ok, as said of each recipient")

# What is answered to commands that no upstream answers.
OURS = {
    Verb.RSET: OK,
    Verb.NOOP: OK,
    Verb.VRFY: CANNOT_VERIFY,
    Verb.EXPN: NOT_EXPANDED,
    Verb.HELP: HELP,
}
