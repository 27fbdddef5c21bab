"""The configuration: text to frozen, validated values, all faults at once with their place.

`model` says which settings there are, with `listeners`, `mappings`, `upstreams` and `limits` for
the long tables among them; `types` and `values` say how they are read, `lines` where in the file
they stand, `environment` how variables overrule them, `wording` what an administrator is told,
and `loading` puts these together.  `documented` lists all settings.
"""

from __future__ import annotations

from smtpproxy.config.documented import Setting, settings
from smtpproxy.config.limits import Limits, Timeouts
from smtpproxy.config.listeners import Listener
from smtpproxy.config.loading import DEFAULT_FILE, config_file, load, load_control
from smtpproxy.config.mappings import (
    CsvMapping,
    HttpMapping,
    Mapping,
    MysqlMapping,
    RegexMapping,
    SqliteMapping,
    StaticMapping,
)
from smtpproxy.config.model import Config, Dns, Http, Log
from smtpproxy.config.upstreams import Upstreams
from smtpproxy.config.values import Address, parse_address
from smtpproxy.faults import Fault, Faults

__all__ = [
    "DEFAULT_FILE",
    "Address",
    "Config",
    "CsvMapping",
    "Dns",
    "Fault",
    "Faults",
    "Http",
    "HttpMapping",
    "Limits",
    "Listener",
    "Log",
    "Mapping",
    "MysqlMapping",
    "RegexMapping",
    "Setting",
    "SqliteMapping",
    "StaticMapping",
    "Timeouts",
    "Upstreams",
    "config_file",
    "load",
    "load_control",
    "parse_address",
    "settings",
]
