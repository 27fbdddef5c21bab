"""The configuration: text to frozen, validated values, all faults at once with their place.

`model` says which settings there are, `types` and `values` how they are read, `lines` where in
the file they stand, `environment` how variables overrule them, `wording` what an
administrator is told, and `loading` puts these together.
"""

from __future__ import annotations

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
from smtpproxy.config.model import (
    Config,
    Dns,
    Http,
    Limits,
    Listener,
    Log,
    Setting,
    Timeouts,
    Upstreams,
    settings,
)
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
