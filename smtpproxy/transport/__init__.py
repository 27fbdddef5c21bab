"""Sockets, with the manners of Twisted's transports and half their cost.

`Transport` is one connection: it writes to the socket at once, and asks to be told when it takes
more only where it is full. TLS runs on the socket itself (`secured`), not on buffers in between.
`Acceptor` accepts connections, `connect` makes them, and `Poll` tells all of them what is ready.
"""

from smtpproxy.transport.acceptor import Acceptor
from smtpproxy.transport.connecting import connect
from smtpproxy.transport.poll import Poll
from smtpproxy.transport.secured import Lost
from smtpproxy.transport.transport import Transport

__all__ = ["Acceptor", "Lost", "Poll", "Transport", "connect"]
