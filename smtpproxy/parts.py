"""The parts that a configuration names, opened and checked: mappings, certificates, authorities.

Opening collects all faults, so that an administrator sees them at once.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ParamSpec, TypeVar

from OpenSSL import SSL

from smtpproxy import tls
from smtpproxy.certificate import Certificate
from smtpproxy.chain import Chain, Loop, open_chain
from smtpproxy.config import Config
from smtpproxy.dns import is_address
from smtpproxy.faults import Fault, Faults
from smtpproxy.routing import Router
from smtpproxy.sharing import place_of
from smtpproxy.sockets import is_ourselves
from smtpproxy.store import Place
from smtpproxy.values import value
from smtpproxy.watched import Watched
from smtpproxy.web import access

P = ParamSpec("P")
T = TypeVar("T")


@value
class Parts:
    """What was opened; `certificates` has one for each listener, in their order.

    Those with the same files share one.  `warnings` are what can be served, and should not be.
    """

    chain: Chain
    certificates: tuple[Certificate | None, ...]
    client_context: SSL.Context
    warnings: tuple[Fault, ...]
    shared: Place | None = None  # where limits are kept together with other processes

    @property
    def watched(self) -> Iterator[Watched]:
        """The files that are taken as soon as they change."""
        yield from self.chain.files
        yield from filter(None, dict.fromkeys(self.certificates))


def open_parts(
    config: Config,
    loop: Callable[[], Loop],
    before: Chain | None = None,
    force: bool = False,
) -> Parts:
    """All parts of `config`; raises `Faults` with all that is wrong in any of them.

    Mappings of the chain `before` are taken over as `open_chain` has it.
    """
    collected = _Collected()
    chain = collected.take(open_chain, config, loop, before, force)
    pairs = dict.fromkeys((each.tls_cert, each.tls_key) for each in config.listeners)
    certificates = {
        pair: collected.take(Certificate, *map(Path, pair)) for pair in pairs if any(pair)
    }
    client = collected.take(tls.client_context, Path(config.tls_ca) if config.tls_ca else None)
    shared = collected.take(place_of, config)
    try:
        collected.check()
        warnings = [*chain.warnings, *own_upstreams(config, chain.router)] if chain else []
        warnings += access.warnings(config)
        for certificate in {each.tls_cert: None for each in config.listeners if each.tls_cert}:
            warnings += tls.certificate_warnings(Path(certificate))
    except Faults as error:
        if chain is not None:
            chain.give_back([before] if before else [])
        raise Faults(config.naming(error.faults)) from None
    assert chain is not None
    assert client is not None
    of_listeners = (certificates.get((each.tls_cert, each.tls_key)) for each in config.listeners)
    return Parts(chain, tuple(of_listeners), client, tuple(warnings), shared)


class _Collected:
    """The faults of several things that may each fail."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def take(self, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """What `make` gives; None where it raises `Faults`, which are kept."""
        try:
            return make(*args, **kwargs)
        except Faults as error:
            self._faults += error.faults
            return None

    def check(self) -> None:
        if self._faults:
            raise Faults(self._faults)


def listening(config: Config) -> list[tuple[str, int]]:
    """Host and port of each listener, two for all addresses; a Unix socket's path and 0."""
    found: list[tuple[str, int]] = []
    for each in (listener.listen for listener in config.listeners):
        if each.name:  # known to systemd alone
            continue
        where = each.path or each.host
        found += [(host, each.port) for host in ([where] if where else ["0.0.0.0", "::"])]
    return found


def own_upstreams(config: Config, router: Router) -> list[Fault]:
    """Those that are a listener of ours: mail for them is refused with 554."""
    ours = listening(config)
    own_names = {"localhost", socket.gethostname().lower(), config.domain.lower()}
    warnings = []
    for upstream in router.upstreams():
        for server in upstream.servers:
            own = server.host in own_names and any(port == server.port for _, port in ours)
            where = server.path or (server.host if is_address(server.host) else "")
            if own or (where and is_ourselves(ours, where, server.port)):
                text = "this upstream is the proxy itself: mail for it is refused with 554 5.4.6"
                warnings.append(Fault(str(server), text))
    return warnings
