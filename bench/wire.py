"""Many connections in one thread, with or without TLS, at few system calls: for load and sink."""

from __future__ import annotations

import heapq
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
_BLOCK = 1 << 20  # octets read at most at once
_WAIT = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)


class Loop:
    """Waits for connections and for times."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_BLOCK))
        self.progress = time.monotonic()  # when the last octets came or went
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._times: list[tuple[float, int, Callable[[], None]]] = []
        self._count = count()

    def add(self, descriptor: int, ready: Callable[[int], None], events: int = READ) -> None:
        self._ready[descriptor] = ready
        self._epoll.register(descriptor, events)

    def want(self, descriptor: int, events: int) -> None:
        self._epoll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        """It is about to be closed, which takes it out of the kernel's set."""
        del self._ready[descriptor]

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._times, (time.monotonic() + seconds, next(self._count), call))

    def turn(self, timeout: float = 1.0) -> None:
        """Wait once, at most so many seconds, and do what is to do."""
        if self._times:
            timeout = min(timeout, max(self._times[0][0] - time.monotonic(), 0))
            select.select([self._epoll], [], [], timeout)  # epoll itself counts milliseconds
            timeout = 0
        for descriptor, events in self._epoll.poll(timeout, 256):
            ready = self._ready.get(descriptor)
            if ready is not None:
                ready(events)
        while self._times and self._times[0][0] <= time.monotonic():
            heapq.heappop(self._times)[2]()


class Connection:
    """One connection.  `received`, `secured` and `ended` are for those who inherit."""

    def __init__(self, loop: Loop, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop = loop
        self.closed = False
        self._socket = connection
        self._descriptor = connection.fileno()
        self._out: deque[memoryview] = deque()
        self._shaking_hands = False
        self._ending = False
        loop.add(self._descriptor, self.ready)

    @property
    def stuck(self) -> bool:
        """The other side does not take what is to be sent."""
        return bool(self._out)

    def received(self, data: memoryview) -> None:
        """Octets came; `data` is only valid during this call."""
        raise NotImplementedError

    def secured(self) -> None:
        """The handshake is done."""

    def ended(self) -> None:
        """The other side is gone."""

    def send(self, *parts: bytes) -> None:
        """Write them, or keep what the socket does not take now."""
        for part in parts:
            view = memoryview(part)
            if not self._out:
                view = view[self._write(view) :]
            if view:
                self._out.append(view)
                self.loop.want(self._descriptor, READ | WRITE)

    def start_tls(self, context: ssl.SSLContext, server: bool = False) -> None:
        self._socket = context.wrap_socket(
            self._socket, server_side=server, do_handshake_on_connect=False
        )
        self._shaking_hands = True
        self.ready(READ)

    def end(self) -> None:
        """Close it when all is written."""
        self._ending = True
        if not self._out:
            self.close()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.loop.forget(self._descriptor)
            self._socket.close()

    def ready(self, events: int) -> None:
        try:
            if self._shaking_hands and not self._shake_hands():
                return
            if events & WRITE and self._out:
                self._flush()
            if events & ~WRITE:
                self.read()
        except OSError:
            self._lost()

    def read(self) -> None:
        """All there is: octets inside OpenSSL wake no epoll, so with TLS until it wants more."""
        buffer = self.loop.buffer
        while not self.closed and not self._shaking_hands:
            try:
                got = self._socket.recv_into(buffer)
            except _WAIT:
                return
            if not got:
                self._lost()
                return
            self.loop.progress = time.monotonic()
            self.received(buffer[:got])
            if not isinstance(self._socket, ssl.SSLSocket):
                return

    def pause(self) -> None:
        """Read nothing until `resume`."""
        self.loop.want(self._descriptor, 0)

    def resume(self) -> None:
        self.loop.want(self._descriptor, READ)

    def _shake_hands(self) -> bool:
        assert isinstance(self._socket, ssl.SSLSocket)
        try:
            self._socket.do_handshake()
        except _WAIT:
            return False
        self._shaking_hands = False
        self.secured()
        return True

    def _flush(self) -> None:
        while self._out:
            view = self._out[0][self._write(self._out[0]) :]
            if view:
                self._out[0] = view
                return
            self._out.popleft()
        if self._ending:
            self.close()
        else:
            self.loop.want(self._descriptor, READ)

    def _write(self, view: memoryview) -> int:
        with suppress(*_WAIT):
            sent = self._socket.send(view)
            if len(view) > sent > 0:
                self.loop.progress = time.monotonic()
            return sent
        return 0

    def _lost(self) -> None:
        self.close()
        self.ended()
