"""Which upstream a recipient's mail goes to.

A `Router` puts a `Question` to an ordered chain of mappings, and answers `Found`, `NoRoute`,
`Refused` or `TryAgain`.  `keys` says what a recipient is looked up by, `servers` what an
upstream is, `rows` what a row may say; every further module is a kind of mapping, or of table.
Those that load much (`regex`, `http`) are imported where one is configured, not here.
"""

from __future__ import annotations

from smtpproxy.routing.answers import (
    Answer,
    Found,
    Mapping,
    NoRoute,
    Question,
    Refused,
    Route,
    Row,
    TryAgain,
)
from smtpproxy.routing.csv import CsvTable
from smtpproxy.routing.keyed import Hit, KeyedMapping, LookupFailed, Table, Wrong
from smtpproxy.routing.keys import address_key, domain_key, keys_of
from smtpproxy.routing.router import Explanation, Listing, Router, Step, upstreams_in
from smtpproxy.routing.rows import COLUMNS, BadRow, parse_row, parse_truth
from smtpproxy.routing.servers import (
    Identity,
    Server,
    Tls,
    Upstream,
    parse_server,
    parse_servers,
)
from smtpproxy.routing.static import StaticMapping

__all__ = [
    "COLUMNS",
    "Answer",
    "BadRow",
    "CsvTable",
    "Explanation",
    "Found",
    "Hit",
    "Identity",
    "KeyedMapping",
    "Listing",
    "LookupFailed",
    "Mapping",
    "NoRoute",
    "Question",
    "Refused",
    "Route",
    "Router",
    "Row",
    "Server",
    "StaticMapping",
    "Step",
    "Table",
    "Tls",
    "TryAgain",
    "Upstream",
    "Wrong",
    "address_key",
    "domain_key",
    "keys_of",
    "parse_row",
    "parse_server",
    "parse_servers",
    "parse_truth",
    "upstreams_in",
]
