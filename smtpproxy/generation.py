"""What one configuration makes: the object graph that serves its sessions.

A reload makes another one beside it.  The sessions that are under way keep the one they began
with, and when the last of them has ended, what only they needed is let go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress

from smtpproxy.announcing import Announcing
from smtpproxy.config import Address, Config, Listener
from smtpproxy.config import Dns as DnsSettings
from smtpproxy.dns import MailHosts, NoReverseNames, ReverseNames
from smtpproxy.doors import Receive
from smtpproxy.lasting import Lasting
from smtpproxy.limits import connection_limits, pool_limits, session_limits
from smtpproxy.listener import Offer, Profile
from smtpproxy.mail import Peer
from smtpproxy.networks import Networks
from smtpproxy.opening import Opened
from smtpproxy.parts import Parts
from smtpproxy.periodic import Periodic
from smtpproxy.relay import DeliveryTimes, Guard, Relaying, Shadows
from smtpproxy.stream import Stream
from smtpproxy.upstream import Connector, Heard, Manners, Pool, Survey


class Dns:
    """Who asks DNS, and what they remember; `settings` are theirs."""

    def __init__(self, reactor: Any, settings: DnsSettings) -> None:
        self.mail_hosts = MailHosts(reactor, settings.servers, settings.timeout)
        self.reverse_names = (
            ReverseNames(reactor, settings.servers, settings.timeout)
            if settings.reverse
            else NoReverseNames()
        )

    def stop(self) -> None:
        """Give up the look-ups under way."""
        self.reverse_names.stop()
        self.mail_hosts.stop()


class Generation:
    """All that serves the sessions of one configuration."""

    def __init__(
        self,
        config: Config,
        parts: Parts,
        lasting: Lasting,
        before: Generation | None = None,
    ) -> None:
        """`before` is the one that this one takes the place of."""
        self.config = config
        self.parts = parts
        self._lasting = lasting
        self.number: int = before.number + 1 if before else 1
        self.since = lasting.deadlines.seconds()
        self.running = 0  # sessions
        self._ended: Callable[[], object] | None = None  # called after the last one
        deadlines = lasting.deadlines
        same_dns = before is not None and before.config.dns == config.dns
        self.dns: Dns = before.dns if before and same_dns else Dns(lasting.reactor, config.dns)
        self.announcing: Announcing = Announcing(
            config,
            parts.chain.router,
            lasting.learnt,
            deadlines,
            lasting.note,
            before.announcing if before else None,
        )
        self._connecting = connector = self._connector(lasting.learnt.heard)
        upkeep = lasting.upkeep
        self._pool = Pool(
            connector, pool_limits(config.upstreams), deadlines, upkeep.slots, upkeep.standings
        )
        self._survey = Survey(connector, lasting.learnt, deadlines, config.upstreams.ask_every)
        # What shadows offer is not to be kept: they get no mail.
        self._shadows = Shadows(self._connector(None), lasting.shadow_counts.skipped)
        self._profiles: list[Profile] = []
        self._take_certificates()
        for certificate in filter(None, parts.certificates):
            certificate.renewed = self._take_certificates
        every = config.upstreams.ask_every
        asking = partial(_ask, self._survey)
        self._asking = Periodic(lasting.reactor, every, asking, "asking the upstreams")

    def __repr__(self) -> str:
        return f"<Generation: {len(self.config.listeners)} listeners, {self.running} sessions>"

    @property
    def kept(self) -> int:
        """Connections to upstreams that wait for somebody to use them."""
        return len(self._pool)

    def receivers(self) -> list[tuple[Address, Receive]]:
        """The address of each listener, and who receives those that come in there."""
        return [
            (listener.listen, self._receiver(number))
            for number, listener in enumerate(self.config.listeners)
        ]

    def begin(self) -> None:
        """From now on, this is the one that serves; its receivers are told of by the caller."""
        self._lasting.sessions.visitors.limits = connection_limits(self.config.limits)
        self._lasting.sharing.at(self.parts.shared)
        self._lasting.learnt.changed = self.announcing.follow
        self._lasting.upkeep.checks.connector = self._connecting
        self._lasting.upkeep.health.longest = self.config.upstreams.check_every
        if self.config.upstreams.guard_time:
            self._lasting.guard.limit(self.config.upstreams.guard_time)
        self.announcing.refresh()
        if self.config.upstreams.ask_every:
            self._asking.start(now=True)

    def retire(self, ended: Callable[[], object]) -> None:
        """Another one serves: this one has its own sessions alone; `ended` once there are none."""
        self._cease()
        self._ended = ended
        if not self.running:
            ended()

    def release(self, others: Sequence[Generation]) -> list[Opened]:
        """Let go of all that served its sessions, but for what `others` have, too.

        What is given are mappings whose rows are still to be discarded.
        """
        self._cease()
        self._shadows.stop()
        # No circles: what is not needed goes now, and not when the collector comes by.
        self._ended = None
        for certificate in filter(None, self.parts.certificates):
            certificate.renewed = _nothing
        if not any(each.dns is self.dns for each in others):
            self.dns.stop()
        return self.parts.chain.stop([each.parts.chain for each in others])

    def _cease(self) -> None:
        """Do nothing more that no session asks for."""
        self._asking.stop()
        self._survey.stop()
        self._pool.stop()

    def _receiver(self, number: int) -> Receive:
        name = str(self.config.listeners[number].listen)
        ended = self._one_ended

        def receive(stream: Stream) -> None:
            here, there = stream.ends()
            peer = _peer(there, here, name)
            self.running += 1
            self._lasting.sessions.begin(peer, stream, self._profiles[number], ended)

        return receive

    def _one_ended(self) -> None:
        self.running -= 1
        if not self.running and self._ended is not None:
            self._ended()

    def report(self) -> dict[str, Any]:
        """What is known of upstreams, and announced for them."""
        upkeep = self._lasting.upkeep
        known = self.announcing.report(
            lambda each: {**upkeep.report(each), "kept": self._pool.kept(each)}
        )
        return {**known, "standings": upkeep.of_nobody()}

    def list_upstreams(self) -> None:
        """Learn which upstreams there are by now, and ask those that are new."""
        self.announcing.refresh()
        if self._asking.running:
            self._survey.start()

    def _connector(self, heard: Heard | None) -> Connector:
        times = self.config.timeouts
        return Connector(
            dial=self._lasting.dial,
            resolve=self._lasting.addresses.resolve,
            mail_hosts=self.dns.mail_hosts.of,
            is_ourselves=self._lasting.is_ourselves,
            manners=Manners(
                self.config.domain,
                self.parts.client_context,
                times.upstream_connect,
                times.upstream_reply,
            ),
            deadlines=self._lasting.deadlines,
            heard=heard,
            health=self._lasting.upkeep.health,
            standings=self._lasting.upkeep.standings,
        )

    def _guard(self) -> Guard | None:
        return self._lasting.guard if self.config.upstreams.guard_time else None

    def _take_certificates(self) -> None:
        """What sessions are like that begin from now on."""
        contexts = [each.context if each else None for each in self.parts.certificates]
        self._profiles = list(
            map(self._profile, self.config.listeners, contexts, self.announcing.offers)
        )

    def _profile(
        self, listener: Listener, tls_context: SSL.Context | None, offer: Offer
    ) -> Profile:
        config, times, limits = self.config, self.config.timeouts, self.config.limits
        return Profile(
            domain=config.domain,
            tls_context=tls_context,
            relaying=Relaying(
                router=self.parts.chain.router,
                shadows=self._shadows,
                deadlines=self._lasting.deadlines,
                times=DeliveryTimes(times.upstream_reply, times.upstream_final),
                recipient_time=times.recipient,
                max_message_bytes=limits.max_message_bytes,
                max_recipients=limits.max_recipients,
                reject_bare_newline=config.bare_newline == "reject",
                prefer_chunks=config.upstreams.chunking == "preferred",
                guard=self._guard(),
                doubts=self._lasting.doubts,
                max_header_bytes=limits.max_header_bytes,
            ),
            offer=offer,
            command_time=times.client_command,
            data_time=times.client_data,
            tls_time=times.upstream_connect,
            limits=session_limits(limits),
            session_time=times.client_session,
            pool=self._pool,
            reverse_name=self.dns.reverse_names.name,
            lmtp=listener.protocol == "lmtp",
            proxy_from=Networks(listener.proxy_from),
            header_time=times.proxy_header,
            xclient_from=Networks(listener.xclient_from),
            xforward_from=Networks(listener.xforward_from),
            signs=config.session_in_replies,
        )


async def _ask(survey: Survey) -> None:
    survey.start()


def _nothing() -> None:
    """A generation that is over takes no certificate."""


def _peer(there: IAddress, here: IAddress, name: str) -> Peer:
    """Both ends of a connection to the listener of this name."""
    if isinstance(there, IPv4Address) and isinstance(here, IPv4Address):
        return Peer(there.host, there.port, here.host, here.port, listener=name)
    if isinstance(there, IPv6Address) and isinstance(here, IPv6Address):
        ends = _plain(there.host), there.port, _plain(here.host), here.port
        return Peer(*ends, listener=name)
    return Peer("", 0, "", 0, listener=name)  # a Unix socket


def _plain(address: str) -> str:
    """Without a zone; and an IPv4 address as such, where one socket takes IPv4 and IPv6."""
    address = address.partition("%")[0]
    return address.removeprefix("::ffff:") if "." in address else address
