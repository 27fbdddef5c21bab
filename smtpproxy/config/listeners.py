"""The settings of a listener."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator

from smtpproxy.config.table import Table, needed, setting
from smtpproxy.config.types import ExtensionWishes, FileName, Listen, Trusted
from smtpproxy.smtp.keywords import Wishes


class Listener(Table):
    """An address that clients connect to."""

    listen: Listen = needed(
        'Where to listen: "127.0.0.1:25", "[::1]:25", ":25" (all addresses, IPv4 and IPv6), '
        '"unix:/path", or "systemd:name" for a socket that systemd passes.',
        'listen = ":25"',
    )
    protocol: Literal["smtp", "lmtp"] = setting(
        'What clients speak: "smtp", or "lmtp" (a reply for each recipient of a message).',
        "smtp",
    )
    tls_cert: FileName = setting(
        'File with the certificate for STARTTLS and the chain behind it, in PEM; "" = no STARTTLS.',
        "",
    )
    tls_key: FileName = setting("File with the private key of tls_cert, in PEM.", "")
    extensions: ExtensionWishes = setting(
        'What EHLO announces whatever upstreams offer, as "+SMTPUTF8", and what it never does, as '
        '"-CHUNKING"; the rest is learnt from the upstreams.',
        (),
    )
    proxy_from: Trusted = setting(
        'The load balancers, as "192.0.2.0/24", "2001:db8::1" or "unix" (all who use the Unix '
        "socket): each connection of theirs must begin with a PROXY header, v1 or v2, which says "
        "who the client is.",
        (),
    )
    xclient_from: Trusted = setting(
        "From where XCLIENT is taken, written as in proxy_from: who is let say by it that the "
        "client is somebody else.",
        (),
    )
    xforward_from: Trusted = setting(
        "From where XFORWARD is taken, written as in proxy_from: what it says goes into the log "
        "alone.",
        (),
    )

    @field_validator("protocol")
    @classmethod
    def _lmtp_not_on_port_25(cls, protocol: str, info: ValidationInfo) -> str:
        listen = info.data.get("listen")
        if protocol == "lmtp" and listen is not None and listen.port == 25:  # RFC 2033 section 5
            raise ValueError('"lmtp" is never on port 25, where SMTP is expected: its own is 24')
        return protocol

    @field_validator("tls_key")
    @classmethod
    def _both_or_none(cls, key: str, info: ValidationInfo) -> str:
        cert = info.data.get("tls_cert", key)
        if cert and not key:
            raise ValueError("is missing: tls_cert needs the key that belongs to it")
        if key and not cert:
            raise ValueError("stands alone: set tls_cert too, or neither")
        return key

    @field_validator("extensions")
    @classmethod
    def _can_be_offered(cls, texts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        wishes = Wishes.of(texts)
        if not info.data.get("tls_cert", True):
            for keyword in sorted({"STARTTLS", "REQUIRETLS"} & wishes.always):
                raise ValueError(f'"+{keyword}" cannot work without tls_cert and tls_key')
        if "PRDR" in wishes.always and info.data.get("protocol") == "lmtp":
            raise ValueError('"+PRDR" is not for "lmtp", which has a reply for each recipient')
        return texts
