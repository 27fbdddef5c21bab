"""Which limit a reply of ours tells of, by the name of its setting."""

from __future__ import annotations

from smtpproxy.listener import replies, tally, visitors
from smtpproxy.relay import TOO_BIG, message, transaction
from smtpproxy.smtp import server
from smtpproxy.smtp.replies import Reply
from smtpproxy.upstream.errors import Busy

MOST_CONNECTIONS = "limits.max_connections"

LIMITS: dict[Reply, str] = {
    visitors.TOO_MANY: MOST_CONNECTIONS,
    replies.CROWDED: "limits.max_waiting",
    visitors.TOO_MANY_FROM_YOU: "limits.max_connections_per_address",
    visitors.TOO_OFTEN: "limits.max_connections_per_minute",
    visitors.TOO_MUCH_MAIL: "limits.max_messages_per_minute",
    visitors.TOO_MANY_RECIPIENTS: "limits.max_recipients_per_minute",
    tally.TOO_MANY_ERRORS: "limits.max_errors",
    tally.TOO_MANY_COMMANDS: "limits.max_commands",
    tally.MANY_MESSAGES: "limits.max_session_messages",
    tally.MANY_RECIPIENTS: "limits.max_session_recipients",
    transaction.TOO_MANY_RECIPIENTS: "limits.max_recipients",
    server.TOO_LONG: "limits.max_command_bytes",
    TOO_BIG: "limits.max_message_bytes",
    message.HEADER_TOO_BIG: "limits.max_header_bytes",
    Busy(0).reply: "upstreams.max_connections",
}
