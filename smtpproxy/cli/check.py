"""`smtpproxy check`: is the configuration right, with all that it names?"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Iterator

from smtpproxy.cli.wording import certificate_of, complain, counted
from smtpproxy.config import Config, Listener, config_file, load
from smtpproxy.faults import Faults
from smtpproxy.parts import Parts, open_parts
from smtpproxy.routing import CsvMapping, Mapping, StaticMapping


def run(options: Namespace) -> int:
    """0 where all is right, 1 where the proxy would not start."""
    file = config_file(options.config, os.environ)
    try:
        config = load(file, os.environ)
        parts = open_parts(config)
    except Faults as error:
        for fault in error.faults:
            complain(str(fault))
        complain(f"{file}: {counted(len(error.faults), 'fault')}: smtpproxy would not start")
        return 1
    for warning in parts.warnings:
        complain(f"warning: {warning}")
    noted = f", {counted(len(parts.warnings), 'warning')}" if parts.warnings else ""
    print(f"{file}: OK{noted}")
    for line in _summary(config, parts):
        print(f"  {line}")
    return 0


def _summary(config: Config, parts: Parts) -> Iterator[str]:
    yield f"domain    {config.domain}"
    for listener in config.listeners:
        yield f"listener  {_listener(listener)}"
    for mapping in parts.router.mappings:
        yield f"mapping   {_mapping(mapping)}"


def _listener(listener: Listener) -> str:
    tls = f"STARTTLS with {listener.tls_cert}" if listener.tls_cert else "no STARTTLS"
    return f"{listener.listen}, {tls}"


def _mapping(mapping: Mapping) -> str:
    if isinstance(mapping, CsvMapping):
        servers = len(tuple(mapping.upstreams()))
        return f"{mapping.name}: {counted(len(mapping), 'row')}, {counted(servers, 'server')}"
    if isinstance(mapping, StaticMapping):
        return f"{mapping.name}: {mapping.upstream}, {certificate_of(mapping.upstream)}"
    return mapping.name
