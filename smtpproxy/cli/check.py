"""`smtpproxy check`: is the configuration right, with all that it names? Or one CSV file?"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from smtpproxy.chain import Loop
from smtpproxy.cli.folders import unwritable_log, unwritable_sockets
from smtpproxy.cli.wording import complain, counted, server
from smtpproxy.config import Config, Listener, config_file, load
from smtpproxy.faults import Fault, Faults
from smtpproxy.routing import CsvTable, Mapping, Router, StaticMapping, upstreams_in
from smtpproxy.values import value

if TYPE_CHECKING:
    from smtpproxy.routing.regex import RegexTable

FINE, NOT_FINE, ERROR = 0, 1, 2

PATIENCE = 30.0  # seconds for each database to answer


def run(options: Namespace) -> int:
    """0 where all is right, 1 where something is wrong."""
    if options.file is None:
        return _check_all(config_file(options.config, os.environ))
    if options.file.suffix == ".toml":
        complain(f"{options.file} is no file of rows: give a configuration with --config")
        return ERROR
    return _check_rows(options.file, options.regex)


def _check_rows(file: Path, regex: bool) -> int:
    try:
        table = load_rows(file, regex)
    except Faults as error:
        _complain(error.faults, f"{file}: ")
        return NOT_FINE
    upstreams = counted(len(upstreams_in(table.listed())), "upstream")
    print(f"{file}: OK, {counted(len(table), 'row')}, {upstreams}")
    return FINE


def load_rows(file: Path, regex: bool = False) -> CsvTable | RegexTable:
    """The rows of a file, of expressions where it is a regex mapping's; raises `Faults`."""
    if not regex:
        return CsvTable.load(file, str(file))
    from smtpproxy.routing.regex import RegexTable

    return RegexTable.load(file, str(file))


def _check_all(file: Path) -> int:
    from smtpproxy.cli.waiting import wait_for  # which the rows of a file have no need of

    try:
        config = load(file, os.environ)
        checked = wait_for(config, lambda loop: _open(config, loop))
    except Faults as error:
        _complain(error.faults, f"{file}: ", ": smtpproxy would not start")
        return NOT_FINE
    for warning in checked.warnings:
        complain(f"warning: {warning}")
    if checked.silent:
        _complain(checked.silent, f"{file}: ", ": smtpproxy would start, and tell clients 451")
        return NOT_FINE
    noted = f", {counted(len(checked.warnings), 'warning')}" if checked.warnings else ""
    print(f"{file}: OK{noted}")
    for line in checked.summary:
        print(f"  {line}")
    return FINE


@value
class _Checked:
    """What can be opened: `silent` are databases that do not answer."""

    warnings: Sequence[Fault]
    silent: Sequence[Fault]
    summary: Sequence[str]


async def _open(config: Config, loop: Callable[[], Loop]) -> _Checked:
    from smtpproxy.parts import open_parts, own_upstreams

    faults = unwritable_log(config)
    try:
        parts = open_parts(config, loop)
    except Faults as error:
        raise Faults([*error.faults, *faults]) from None
    chain = parts.chain
    try:
        if faults:
            raise Faults(faults)
        silent = await chain.check(loop, PATIENCE)
        own = own_upstreams(config, chain.router)
        warnings = dict.fromkeys((*parts.warnings, *own, *unwritable_sockets(config)))
        return _Checked(tuple(warnings), silent, tuple(_summary(config, chain.router)))
    finally:
        chain.stop()


def _complain(faults: Sequence[Fault], before: str, behind: str = "") -> None:
    for fault in faults:
        complain(str(fault))
    complain(f"{before}{counted(len(faults), 'fault')}{behind}")


def _summary(config: Config, router: Router) -> Iterator[str]:
    yield f"domain    {config.domain}"
    for listener in config.listeners:
        yield f"listener  {_listener(listener)}"
    for mapping in router.mappings:
        yield f"mapping   {mapping.name}: {_mapping(mapping)}"
    yield f"control   {config.control or 'none'}"


def _listener(listener: Listener) -> str:
    tls = f"STARTTLS with {listener.tls_cert}" if listener.tls_cert else "no STARTTLS"
    lmtp = "LMTP, " if listener.protocol == "lmtp" else ""
    return f"{listener.listen}, {lmtp}{tls}"


def _mapping(mapping: Mapping) -> str:
    from smtpproxy.routing.cache import CachedTable

    if isinstance(mapping, StaticMapping):
        return server(mapping.row.upstream)
    upstreams = counted(len(upstreams_in(mapping.listed())), "upstream")
    match getattr(mapping, "table", None):
        case None:
            return "is asked for each recipient, and was not asked now"
        case CachedTable():
            return f"answers, and lists {upstreams}"
        case table:
            return f"{counted(len(table), 'row')}, {upstreams}"
