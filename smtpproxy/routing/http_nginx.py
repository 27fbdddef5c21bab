"""nginx's dialect: the protocol of its mail proxy's `auth_http`, for services written for it.

Source: the documentation of ngx_mail_auth_http_module, section "Protocol", and what the
module does.  All is in headers, of request and answer alike; the status of the answer and
its body do not count, as with nginx.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from smtpproxy.routing.answers import Question, Refused, Row
from smtpproxy.routing.http import Asked
from smtpproxy.routing.http_client import Response
from smtpproxy.routing.servers import Identity, Server, Tls, Upstream, parse_server
from smtpproxy.smtp.replies import Reply
from smtpproxy.values import value

MAX_WAIT = 60.0
"""Seconds; a client waits 5 minutes for a reply (RFC 5321 section 4.5.3.2.3)."""

_DEFAULT_CODE = "535 5.7.0"  # nginx's
_CODE = re.compile(r"(([45])[0-5][0-9])(?: (\2\.[0-9]{1,3}\.[0-9]{1,3}))?")
_CLOSING = "421"  # RFC 5321 section 3.8: the session would have to end
_MAX_TEXT = 400  # characters; RFC 5321 section 4.5.3.1.5 has 512 for the line
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


@value
class NginxDialect:
    """A service can name a server and a port, and nothing further: the rest is given here."""

    tls: Tls = Tls.OFFERED
    identity: Identity = Identity.AUTO

    def ask(self, question: Question) -> Asked:
        """As nginx asks where clients need not log in (`smtp_auth none`)."""
        headers = {
            "Auth-Method": "none",
            "Auth-User": "",
            "Auth-Pass": "",
            "Auth-Protocol": "smtp",
            "Auth-Login-Attempt": "1",
        }
        if (client := question.client) is not None:
            headers["Client-IP"] = client.peer.address or "unix:"
            headers["Client-Host"] = client.name  # the words for "no name" are nginx's too
            headers["Auth-SMTP-Helo"] = client.helo
        if question.sender is not None:
            headers["Auth-SMTP-From"] = f"MAIL FROM:<{question.sender}>"
        headers["Auth-SMTP-To"] = f"RCPT TO:<{question.recipient}>"
        return Asked({}, {name: _header(value) for name, value in headers.items()})

    def read(self, response: Response) -> Row | Refused:
        status = response.headers.get("auth-status", "")
        if status == "WAIT":  # "ask me again": the client will
            raise ValueError("it says to wait")
        if status not in ("", "OK"):
            return self._refusal(status, response)
        server, port = (response.headers.get(name, "") for name in ("auth-server", "auth-port"))
        if not server or not port:
            said = f"its answer, of status {response.status},"
            raise ValueError(f"{said} has no Auth-Server, or no Auth-Port")
        where = parse_server(f"[{server}]:{port}" if ":" in server else f"{server}:{port}")
        return Row(Upstream((Server(*where),), self.tls, self.identity))

    def _refusal(self, text: str, response: Response) -> Refused:
        code = response.headers.get("auth-error-code", "") or _DEFAULT_CODE
        match = _CODE.fullmatch(code)
        if match is None or match[1] == _CLOSING:
            raise ValueError(f"Auth-Error-Code: {code[:40]!r} is no refusal of a recipient")
        text = text[:_MAX_TEXT].encode("ascii", "replace").decode()
        wait = response.headers.get("auth-wait", "")
        seconds = min(float(wait), MAX_WAIT) if re.fullmatch("[0-9]{1,9}", wait) else 0.0
        return Refused(Reply.of(int(match[1]), match[3] or "", text), seconds)


def _header(value: str) -> str:
    """Printable ASCII, as it is; all else percent-encoded, and so no end of a line either."""
    return quote(value, safe=_PRINTABLE, errors="replace")
