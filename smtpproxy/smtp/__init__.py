"""The SMTP wire, pure: bytes in, events out; events in, bytes out (RFC 5321).

Nothing here does I/O, waits, or imports Twisted.  A parser gives a value, an
error that carries its reply, or "need more".
"""
