"""The parts that a configuration names, opened and checked: mappings, certificates, authorities.

Opening collects all faults, so that an administrator sees them at once.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from smtpproxy.config import Config, CsvMapping, StaticMapping
from smtpproxy.faults import Fault, Faults
from smtpproxy.routing import CsvMapping as CsvFile
from smtpproxy.routing import Mapping, Router, Upstream, parse_server
from smtpproxy.routing import StaticMapping as OneServer

if TYPE_CHECKING:
    from OpenSSL import SSL

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What was opened; `server_contexts` has one for each listener, in their order.

    `warnings` are what can be served, and should not be.
    """

    router: Router
    server_contexts: tuple[SSL.Context | None, ...]
    client_context: SSL.Context
    warnings: tuple[Fault, ...]


def open_router(config: Config) -> Router:
    """The chain of mappings; raises `Faults` with all that is wrong in any of them."""
    collected = _Collected()
    mappings = [collected.take(_open_mapping, mapping) for mapping in config.mappings]
    collected.check()
    opened = [mapping for mapping in mappings if mapping is not None]
    return Router(opened, config.recipient_delimiter, config.domain)


def open_parts(config: Config) -> Parts:
    """All parts of `config`; raises `Faults` with all that is wrong in any of them."""
    from smtpproxy import tls  # the look-up tool does without

    collected = _Collected()
    router = collected.take(open_router, config)
    contexts = [
        collected.take(tls.server_context, Path(each.tls_cert), Path(each.tls_key))
        if each.tls_cert
        else None
        for each in config.listeners
    ]
    client = collected.take(tls.client_context, Path(config.tls_ca) if config.tls_ca else None)
    collected.check()
    assert router is not None
    assert client is not None
    warnings = _loops(config, router)
    for certificate in {each.tls_cert: None for each in config.listeners if each.tls_cert}:
        warnings += tls.certificate_warnings(Path(certificate))
    return Parts(router, tuple(contexts), client, tuple(warnings))


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


def _open_mapping(mapping: CsvMapping | StaticMapping) -> Mapping:
    if isinstance(mapping, CsvMapping):
        return CsvFile.load(Path(mapping.file), mapping.file)
    return OneServer(Upstream(*parse_server(mapping.server), tls_verify=mapping.tls_verify))


def listening(config: Config) -> list[tuple[str, int]]:
    """Host and port of each listener that is not a Unix socket; two for all addresses."""
    return [
        (host, each.listen.port)
        for each in config.listeners
        if not each.listen.path
        for host in ([each.listen.host] if each.listen.host else ["0.0.0.0", "::"])
    ]


def _loops(config: Config, router: Router) -> list[Fault]:
    """Upstreams that are a listener of ours: mail for them is refused with 554."""
    from smtpproxy.dns import is_address
    from smtpproxy.sockets import is_ourselves

    ours = listening(config)
    own_names = {"localhost", socket.gethostname().lower(), config.domain.lower()}
    warnings = []
    for upstream in router.upstreams():
        own = upstream.host in own_names and any(port == upstream.port for _, port in ours)
        if own or (is_address(upstream.host) and is_ourselves(ours, upstream.host, upstream.port)):
            text = "this upstream is the proxy itself: mail for it is refused with 554 5.4.6"
            warnings.append(Fault(str(upstream), text))
    return warnings
