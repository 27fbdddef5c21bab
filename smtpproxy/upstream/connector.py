"""Connecting to an upstream: its addresses in turn, each with its share of the time."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from random import Random
from typing import Protocol

from smtpproxy.deadlines import Deadlines, TimedOut
from smtpproxy.mail import Client, Peer
from smtpproxy.routing import Server, Upstream
from smtpproxy.smtp.extensions import Extensions
from smtpproxy.stream import Disconnected, NoRoom, Stream
from smtpproxy.upstream.connection import Connection
from smtpproxy.upstream.ends import End, Ends, LeftOut, LookUp
from smtpproxy.upstream.errors import (
    Broken,
    GreetingRefused,
    NotEncrypted,
    NotIntroduced,
    NotVerified,
    Ourselves,
    Unreachable,
    UpstreamError,
)
from smtpproxy.upstream.handshake import (
    Caller,
    Manners,
    NotResumed,
    TlsFailed,
    announce,
    greet,
    hello,
    introduce,
    secure,
)
from smtpproxy.upstream.health import SLOW, Health, Trouble
from smtpproxy.upstream.standing import Standing, Standings
from smtpproxy.values import value

SILENT = 20.0  # seconds: who says nothing for so long is down, even if nobody waits any longer

Failed = Callable[[Server, str, str], object]  # told of an address and why it was given up
Asked = Callable[[Server, str, Extensions], object]  # told what an address announces
Heard = Callable[[Upstream, Server, str, Extensions], object]  # the same, and of which upstream


@value
class _Attempt:
    """An address that is tried; without a caller, for no mail.

    If it says nothing, it was given its chance at `fair` on the clock, and not before.
    """

    upstream: Upstream
    end: End
    caller: Caller | None
    fair: float


class Dial(Protocol):
    """Opens a stream to a port of an address, or to a Unix socket, whose path is the address.

    Raises `Disconnected` or `TimedOut`.
    """

    async def __call__(self, address: str, port: int, seconds: float) -> Stream: ...


class Connector:
    """Makes connections that are ready for mail."""

    def __init__(
        self,
        *,
        dial: Dial,
        resolve: LookUp,
        mail_hosts: LookUp,
        is_ourselves: Callable[[str, int], bool],
        manners: Manners,
        deadlines: Deadlines,
        random: Random | None = None,
        heard: Heard | None = None,
        health: Health | None = None,
        standings: Standings | None = None,
    ) -> None:
        """`mail_hosts` gives the hosts of a domain's MX records, best first.

        `heard` is told what each connection's upstream announced to a client that said EHLO.
        `health` is told how each address does; mail goes by it, and by `standings`.
        """
        self._dial = dial
        self._is_ourselves = is_ourselves
        self._manners = manners
        self._deadlines = deadlines
        self._heard = heard
        # Where all is well, they are false.
        self._health = Health(deadlines.seconds) if health is None else health
        self._standings = Standings() if standings is None else standings
        drawing = random or Random()  # noqa: S311 (it spreads load)
        self._ends = Ends(resolve, mail_hosts, drawing, self._health, self._standings)

    async def connect(
        self, upstream: Upstream, caller: Caller | None, seconds: float, failed: Failed
    ) -> Connection:
        """A connection that took EHLO, STARTTLS and XCLIENT; at most `seconds` for all of it.

        Without a caller it is told of nobody, and is not ready for mail where it must be.  Raises
        `UpstreamError`, that of the last address; `failed` hears of each.
        """
        until = self._deadlines.seconds() + seconds
        last: UpstreamError | None = None
        left_out = LeftOut()
        async for end in self._ends.for_mail(upstream, left_out):
            now = self._deadlines.seconds()
            share = (until - now) / end.left
            try:
                connection = await self._try(_Attempt(upstream, end, caller, now + share), share)
            except UpstreamError as error:
                failed(end.server, end.address, str(error))
                if not error.elsewhere:
                    raise
                # That one is ourselves, for good, says nothing of the others.
                if last is None or not isinstance(error, Ourselves):
                    last = error
                continue
            connection.first_choice = last is None and not left_out.down
            if caller is not None:
                await self._tell(connection, caller)
            return connection
        raise self._ends.error(left_out, last)

    async def check(self, trouble: Trouble, seconds: float) -> None:
        """Try an address that failed; at most `seconds`.  Raises `UpstreamError`."""
        end = End(trouble.server, trouble.address)
        until = self._deadlines.seconds() + seconds
        connection = await self._try(_Attempt(trouble.upstream, end, None, until), seconds)
        await connection.quit()

    async def ask(self, upstream: Upstream, seconds: float, heard: Asked, failed: Failed) -> None:
        """Have each address of each server say what it announces, to us and not to a client.

        Each has `seconds`.  No mail is sent, and no client introduced.  A server in maintenance is
        not asked.
        """
        async for end in self._ends.of(upstream.servers):
            if self._standings.of(upstream, end.server) is Standing.MAINTENANCE:
                continue
            try:
                connection = await self._try(_Attempt(upstream, end, None, inf), seconds)
            except UpstreamError as error:
                failed(end.server, end.address, str(error))
                continue
            heard(end.server, end.address, connection.extensions)
            await connection.quit()

    async def introduce(self, connection: Connection, caller: Caller) -> None:
        """Tell a connection that was made before of the caller, where it wants to be told.

        Raises `Broken` or `UpstreamError`; also where it was told of another, and that stands.
        """
        before = connection.told
        await introduce(connection, caller, self._manners)
        if before is not None and connection.told is before:
            raise NotIntroduced
        await self._tell(connection, caller)

    async def _tell(self, connection: Connection, caller: Caller) -> None:
        """Tell who listens what was announced."""
        if self._heard is None:
            return
        if connection.server.lmtp or (await caller.identify(False)).esmtp:
            self._heard(
                connection.upstream, connection.server, connection.address, connection.extensions
            )

    async def _try(self, attempt: _Attempt, seconds: float) -> Connection:
        """One address; raises `UpstreamError`, also where it takes longer than `seconds`."""
        if attempt.end.error is not None:
            raise attempt.end.error
        try:
            return await self._deadlines.limit(self._connect(attempt), seconds)
        except TimedOut as error:
            raise Unreachable(f"no answer in {error.seconds:.0f} s") from error

    async def _connect(self, attempt: _Attempt) -> Connection:
        if self._is_ourselves(attempt.end.address, attempt.end.server.port):
            raise Ourselves
        try:
            try:
                return await self._open(attempt, starttls=True)
            except NotResumed:  # it may be that alone which the other side cannot bear
                return await self._open(attempt, starttls=True, resume=False)
        except TlsFailed:
            # Encryption nobody can rely on is not worth the mail: again, in clear.
            return await self._open(attempt, starttls=False)

    async def _open(self, attempt: _Attempt, starttls: bool, resume: bool = True) -> Connection:
        """Ready for the mail of its caller; without one, for none."""
        end, caller = attempt.end, attempt.caller
        began = self._deadlines.seconds()
        connection: Connection | None = None
        well = False
        try:
            stream = await self._dial(end.address, end.server.port, self._manners.connect_time)
            connection = Connection(stream, attempt.upstream, end.server, end.address)
            if caller is not None:
                connection.serve(caller.session, caller.tap)
            manners = await announce(connection, caller or self._nobody, self._manners)
            await greet(connection, manners)
            await hello(connection, manners)
            if starttls:
                await secure(connection, manners, resume)
            well = True  # what is said from here on, is said of the client
            if self._health:
                self._health.well(end.server, end.address)
            if caller is not None:
                await introduce(connection, caller, manners)
        except BaseException as error:
            lost = isinstance(error, Disconnected | TimedOut | Broken)
            told = Unreachable(str(error)) if lost else error
            if not well and not isinstance(error, NoRoom):
                self._note(attempt, told, began, connection is not None)
            if lost:
                raise told from error
            if connection is not None:
                if isinstance(error, UpstreamError):
                    connection.leave()
                else:
                    connection.abort()
            raise
        return connection

    def _note(self, attempt: _Attempt, error: BaseException, began: float, connected: bool) -> None:
        """Tell the health what an error says of an address, before the client counted there."""
        now = self._deadlines.seconds()
        took = now - began
        server, address = attempt.end.server, attempt.end.address
        silent = took >= SILENT or (took >= SLOW and now >= attempt.fair)
        if isinstance(error, Unreachable | GreetingRefused):
            reason = str(error)
        elif silent and not isinstance(error, TlsFailed | NotResumed):
            reason = str(error) or f"no answer in {took:.0f} s"
        elif isinstance(error, NotVerified | NotEncrypted | TlsFailed | NotResumed):  # it answers
            self._health.well(server, address)
            return
        else:
            return
        # Behind a PROXY header it may be the client that it does not want.
        sure = not (connected and attempt.caller and attempt.upstream.identity.prefaced)
        self._health.failed(attempt.upstream, server, address, reason, took, sure)

    @property
    def _nobody(self) -> Caller:
        """The caller where there is no client: without an address, a PROXY header says so."""
        peer = Peer("", 0, "", 0)

        async def identify(with_name: bool) -> Client:
            return Client(peer, helo=self._manners.domain)

        return Caller(peer, identify)
