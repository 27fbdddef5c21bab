"""What is worth trying: for each target, the pieces that its inputs are often made of."""

from __future__ import annotations

ENDS = (b"\r\n", b"\r\n", b"\r", b"\n", b".", b"\0", b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"..", b"x")
SAID = (
    *(b"EHLO x\r\n", b"LHLO x\r\n", b"HELO x\r\n", b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n"),
    *(b"MAIL FROM:<a@example.org>\r\n", b"RCPT TO:<b@example.com>\r\n", b"RCPT TO:<c@example.net>"),
    *(b"DATA\r\n", b"BDAT 7\r\n", b"BDAT 4 LAST\r\n", b"BDAT 0 LAST\r\n", b"BDAT x\r\n"),
    *(b" SIZE=9", b" BODY=8BITMIME", b" BODY=BINARYMIME", b" SMTPUTF8", b" NOTIFY=NEVER", b" PRDR"),
    *(
        b"MAIL FROM:<>",
        b"STARTTLS\r\n",
        b"VRFY a\r\n",
        b"AUTH PLAIN =\r\n",
        b"GET / HTTP/1.1\r\n",
        b"XCLIENT A=b\r\n",
    ),
)
PARTS = (
    *(b"a", b"postmaster", b"@", b".", b"+", b"-", b"_", b'"', b"\\", b"[", b"]", b"IPv6:", b":"),
    *(b"2001:db8::1", b",", b" ", b"<", b">", b"example.com", "\u00fc".encode(), b"\xff", b"xn--"),
    *("\u2028".encode(), "\uff20".encode(), "\u3002".encode(), b"\0", b"\r\n", b"x" * 64),
)
PARAMETERS = (
    *(b"SIZE", b"BODY", b"BY", b"HOLDFOR", b"HOLDUNTIL", b"ORCPT", b"ENVID", b"=", b"rfc822;"),
    *(b"utf-8;", b"\\x{FC}", b"+2B", b"12;R", b"2026-01-01T00:00:00Z", b"9999999999", b"-"),
)
LINES = (
    *(b"250-", b"250 ", b"220 ", b"354 ", b"421 ", b"550 5.1.1 ", b"353 ", b"\r\n", b"\n", b"25"),
    *(b"SIZE ", b"99999999999999999999", b"LIMITS RCPTMAX=1", b"AUTH=", b"PIPELINING", b"\0"),
    *(b"x" * 600, b"\x1b[2J", b"\xff", "\u2028".encode()),
)
WORDS = (
    *(b" NAME=", b" ADDR=", b" PORT=", b" PROTO=ESMTP", b" HELO=", b" LOGIN=", b" DESTADDR="),
    *(b" DESTPORT=", b" IDENT=", b" SOURCE=", b"[UNAVAILABLE]", b"[TEMPUNAVAIL]", b"IPV6:", b"::1"),
    *(
        b"192.0.2.1",
        b"25",
        b"+0D+0A",
        b"+00",
        b"+E2+80+A8",
        b"+ED+A0+80",
        b"%eth0",
        b"a.test",
        b"=",
    ),
)
HEADERS = (
    *(b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", b"192.0.2.1 ", b"2001:db8::1 ", b"25 "),
    *(b"40000\r\n", b"\r\n\r\n\0\r\nQUIT\n", b"\x21\x11\0\x0c", b"\x21\x21\0\x24", b"\x20\0\0\0"),
    *(
        b"\x21\x31\0\xd8",
        b"\x03\0\x04",
        b"\x21\x11\0\x13",
        b"\0" * 12,
        b"\xff" * 36,
        b"\r\n",
        b"\n",
    ),
)
