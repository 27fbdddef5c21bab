"""A relay of aiosmtpd and aiosmtplib, as one would write it: what smtpproxy is measured against.

`PYTHON aiosmtpd_relay.py PORT UPSTREAM_PORT TLS_TO_UPSTREAM [CHAIN KEY]`, with a Python that has
both; nothing else of this folder is needed.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any

import aiosmtplib
from aiosmtpd.smtp import SMTP


class Relay:
    """Sends each message on before it answers, with the upstream's reply."""

    def __init__(self, port: int, tls: bool) -> None:
        self._port = port
        self._tls = tls
        self._context = ssl.create_default_context()  # made once: that takes 20 ms
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        upstream = aiosmtplib.SMTP(
            hostname="127.0.0.1", port=self._port, start_tls=self._tls, tls_context=self._context
        )
        async with upstream:
            _, said = await upstream.sendmail(
                envelope.mail_from, envelope.rcpt_tos, envelope.original_content
            )
        return f"250 {said}"


async def main(port: str, upstream: str, tls: str, *certificate: str) -> None:
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
    relay = Relay(int(upstream), tls == "yes")

    def session() -> Any:
        return SMTP(relay, hostname="mx.example.net", tls_context=context)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(session, "127.0.0.1", int(port), backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
