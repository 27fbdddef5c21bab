"""The program: the object graph of a configuration, started and stopped by twistd."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.failure import Failure

from smtpproxy import __version__
from smtpproxy.administration import Administration, ShadowCounts
from smtpproxy.announcing import Announcing
from smtpproxy.chain import Loop
from smtpproxy.config import DEFAULT_FILE, Address, Config, Listener, config_file, load
from smtpproxy.control import ControlError, ControlFactory
from smtpproxy.deadlines import Deadlines
from smtpproxy.dns import Addresses, MailHosts, NoReverseNames, ReverseNames
from smtpproxy.events import Event
from smtpproxy.faults import Fault, Faults
from smtpproxy.listener import ConnectionLimits, Offer, Profile, Sessions, session_names
from smtpproxy.logs import Level, TwistedLog, open_log
from smtpproxy.mail import Peer
from smtpproxy.parts import Parts, open_parts
from smtpproxy.periodic import Periodic
from smtpproxy.relay import DeliveryTimes, Relaying, Shadows
from smtpproxy.reload import Outcome, Reloader
from smtpproxy.sockets import bind, is_ourselves, listen_privately
from smtpproxy.stream import ClientStream, Stream
from smtpproxy.threads import Threads
from smtpproxy.transport import Acceptor, Poll
from smtpproxy.upstream import (
    Connector,
    Heard,
    Manners,
    Pool,
    PoolLimits,
    SocketDial,
    Survey,
)

REFRESH_EVERY = 300.0  # seconds after which databases are asked for their upstreams again

log = Logger()


class Options(usage.Options):
    """What stands behind `twistd smtpproxy`."""

    synopsis = "[options]"
    longdesc = (
        "A transparent, recipient-routed MX proxy. The configuration is described in "
        f"{DEFAULT_FILE}; `smtpproxy check` reads it without starting anything."
    )
    optFlags: ClassVar = [
        ["check", None, "Check configuration, certificates and mappings, and exit."]
    ]
    optParameters: ClassVar = [
        [
            "config",
            "c",
            None,
            f"The configuration file (default: $SMTPPROXY_CONFIG, else {DEFAULT_FILE}).",
        ]
    ]


def makeService(options: Options) -> Proxy:
    """The service that the plugin makes; ends the program where the configuration has faults."""
    file = config_file(options["config"], os.environ)
    deadlines = Deadlines(reactor)
    try:
        config = load(file, os.environ)
        parts = open_parts(config, lambda: Loop(reactor, deadlines))
    except Faults as error:
        raise SystemExit(f"smtpproxy: not started, for these faults:\n{error}") from None
    if options["check"]:
        for warning in parts.warnings:
            sys.stderr.write(f"warning: {warning}\n")
        raise SystemExit(0)
    return Proxy(config, parts, deadlines, reactor)


class Proxy(Service):
    """One process: its listeners, sessions, connections and log."""

    def __init__(self, config: Config, parts: Parts, deadlines: Deadlines, reactor: Any) -> None:
        self._config = config
        self._parts = parts
        self._deadlines = deadlines
        self._reactor = reactor
        self._sockets: list[tuple[socket.socket, Profile]] = []
        self._listening: list[tuple[str, int]] = []
        self._ports: list[Acceptor | IListeningPort] = []
        self._poll = Poll(reactor)
        try:
            self._log = open_log(
                config.log.format, config.log.level, config.log.file, reactor.callLater
            )
        except OSError as error:
            raise SystemExit(
                f"smtpproxy: {config.log.file}: cannot be opened: {error.strerror}"
            ) from None
        self._addresses = Addresses(reactor)
        self._mail_hosts = MailHosts(reactor, config.dns.servers, config.dns.timeout)
        self._reverse_names = (
            ReverseNames(reactor, config.dns.servers, config.dns.timeout)
            if config.dns.reverse
            else NoReverseNames()
        )
        self._announcing = Announcing(config, parts.chain.router, deadlines, self._told)
        connector = self._connector(self._announcing.learnt.heard)
        self._pool = Pool(connector, self._pool_limits(), deadlines)
        self._survey = Survey(
            connector, self._announcing.learnt, deadlines, config.upstreams.ask_every
        )
        self._shadow_counts = ShadowCounts(
            deadlines, lambda text: self._log.note(Level.WARNING, text)
        )
        # What shadows offer is not to be kept: they get no mail.
        self._shadows = Shadows(self._connector(None), self._shadow_counts.skipped)
        self._profiles = list(
            map(self._profile, config.listeners, parts.server_contexts, self._announcing.offers)
        )
        limits = config.limits
        self._sessions = Sessions(
            names=session_names(time.time),
            pool=self._pool,
            reverse_name=self._reverse_names.name,
            observe=self._observe,
            limits=ConnectionLimits(limits.max_connections, limits.max_connections_per_address),
            deadlines=deadlines,
        )
        self._reloader = Reloader(
            parts.chain.files, Threads(reactor, "reload", most=1), reactor, self._reloaded
        )
        self._administration = Administration(
            parts.chain, self._reloader, self._shadow_counts, self._announcing.report
        )
        self._refreshing = Periodic(reactor, REFRESH_EVERY, self._refresh, "asking the databases")
        every = config.upstreams.ask_every
        self._asking = Periodic(reactor, every, self._ask, "asking the upstreams")

    def _connector(self, heard: Heard | None) -> Connector:
        times = self._config.timeouts
        return Connector(
            dial=SocketDial(self._poll, self._deadlines, lambda: Stream(self._deadlines)),
            resolve=self._addresses.resolve,
            mail_hosts=self._mail_hosts.of,
            is_ourselves=lambda address, port: is_ourselves(self._listening, address, port),
            manners=Manners(
                self._config.domain,
                self._parts.client_context,
                times.upstream_connect,
                times.upstream_reply,
            ),
            deadlines=self._deadlines,
            heard=heard,
        )

    def _pool_limits(self) -> PoolLimits:
        upstreams = self._config.upstreams
        return PoolLimits(
            idle=upstreams.keep_idle,
            age=upstreams.keep_age,
            uses=upstreams.keep_uses,
            each=upstreams.keep_connections,
            ready=upstreams.ready_connections,
        )

    def _times(self) -> DeliveryTimes:
        times = self._config.timeouts
        return DeliveryTimes(times.upstream_reply, times.upstream_final)

    def _profile(
        self, listener: Listener, tls_context: SSL.Context | None, offer: Offer
    ) -> Profile:
        config, times, limits = self._config, self._config.timeouts, self._config.limits
        return Profile(
            domain=config.domain,
            tls_context=tls_context,
            relaying=Relaying(
                router=self._parts.chain.router,
                shadows=self._shadows,
                deadlines=self._deadlines,
                times=self._times(),
                recipient_time=times.recipient,
                max_message_bytes=limits.max_message_bytes,
                max_recipients=limits.max_recipients,
                reject_bare_newline=config.bare_newline == "reject",
                prefer_chunks=config.upstreams.chunking == "preferred",
            ),
            offer=offer,
            command_time=times.client_command,
            data_time=times.client_data,
            tls_time=times.upstream_connect,
            max_errors=limits.max_errors,
            lmtp=listener.protocol == "lmtp",
        )

    def setServiceParent(self, parent: Any) -> None:
        """Have twistd write its own lines into our log."""
        parent.setComponent(ILogObserver, TwistedLog(self._log))
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def privilegedStartService(self) -> None:
        """Bind, while there may still be the right to."""
        faults: list[Fault] = []
        for listener, profile in zip(self._config.listeners, self._profiles, strict=True):
            try:
                self._sockets += ((each, profile) for each in bind(listener.listen))
            except Faults as error:
                faults += error.faults
        if faults:
            raise SystemExit(f"smtpproxy: not started, for these faults:\n{Faults(faults)}")

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        # Twisted leaves SIGHUP as it is, which ends the program.
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._hang_up))
        signal.signal(signal.SIGUSR1, lambda *_: self._reactor.callFromThread(self._log.reopen))
        for bound, profile in self._sockets:
            unix = bound.family == socket.AF_UNIX
            name = bound.getsockname()
            self._listening.append((name, 0) if unix else name[:2])
            make = partial(ClientStream, self._deadlines, self._begin(profile))
            self._ports.append(Acceptor(bound, make, self._poll))
            self._log.note(Level.INFO, f"listening on {_written(bound)}")
        self._sockets.clear()
        self._listen_for_commands()
        self._announcing.refresh()
        self._reloader.start()
        self._refreshing.start(now=True)
        if self._config.upstreams.ask_every:
            self._asking.start(now=True)
        for warning in self._parts.warnings:
            self._log.note(Level.WARNING, str(warning))
        self._log.note(Level.INFO, f"smtpproxy {__version__} started")
        gc.freeze()  # what is there now stays: 2 % less work a session

    def stopService(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        # Asked a second time, it does not wait for anybody.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self._sessions.cut))
        self._asking.stop()
        self._survey.stop()
        try:
            for port in self._ports:
                await maybeDeferred(port.stopListening)
            if len(self._sessions):
                self._log.note(Level.INFO, f"stopping: {len(self._sessions)} sessions to end")
            await self._sessions.stop(self._config.timeouts.drain)
        finally:
            self._pool.stop()
            self._shadows.stop()
            self._shadow_counts.stop()
            self._reloader.stop()
            self._refreshing.stop()
            self._parts.chain.stop()
            self._deadlines.stop()
            for each in (self._reverse_names, self._mail_hosts, self._addresses):
                each.stop()
            self._log.note(Level.INFO, "stopped")
            self._log.stop()

    # Reloading, and the administrator's commands.

    def _hang_up(self) -> None:
        """SIGHUP: read all files of rows, forget what databases said, begin a new log file."""
        self._log.reopen()
        Deferred.fromCoroutine(self._administration.reload()).addErrback(self._failed)

    def _observe(self, event: Event) -> None:
        self._log(event)
        self._shadow_counts(event)

    def _reloaded(self, outcome: Outcome) -> None:
        for line in outcome.lines:
            self._log.note(Level.INFO if outcome.ok else Level.ERROR, line)
        self._list_upstreams()

    async def _refresh(self) -> None:
        await self._parts.chain.refresh(self._told)
        self._list_upstreams()

    def _list_upstreams(self) -> None:
        """Learn which upstreams there are by now, and ask those that are new."""
        self._announcing.refresh()
        if self._asking.running:
            self._survey.start()

    async def _ask(self) -> None:
        self._survey.start()

    def _told(self, well: bool, text: str) -> None:
        self._log.note(Level.INFO if well else Level.WARNING, text)

    def _listen_for_commands(self) -> None:
        """Open the control socket, where one is configured; without it mail flows all the same."""
        path = self._config.control
        if not path:
            return
        factory = ControlFactory(self._administration.commands(), self._reactor)
        try:
            self._ports.append(listen_privately(self._reactor, path, factory))
        except OSError as error:
            self._log.note(Level.ERROR, f"no control socket {path}: {error.strerror or error}")

    def _failed(self, failure: Failure) -> None:
        if not failure.check(ControlError):  # type: ignore[no-untyped-call]
            log.failure("reloading failed", failure=failure)

    def _begin(self, profile: Profile) -> Callable[[Stream], object]:
        def begin(stream: Stream) -> None:
            here, there = stream.ends()
            self._sessions.begin(_peer(there, here), stream, profile)

        return begin


def _peer(there: IAddress, here: IAddress) -> Peer:
    if isinstance(there, IPv4Address | IPv6Address) and isinstance(here, IPv4Address | IPv6Address):
        return Peer(_unzoned(there.host), there.port, _unzoned(here.host), here.port)
    return Peer("", 0, "", 0)  # a Unix socket


def _unzoned(address: str) -> str:
    return address.partition("%")[0]


def _written(bound: socket.socket) -> str:
    """The address of a socket as the configuration writes it."""
    name = bound.getsockname()
    return str(Address(path=name) if isinstance(name, str) else Address(name[0], name[1]))
