"""Which upstream a recipient's mail goes to.

A `Router` asks an ordered chain of mappings, each with all keys of the recipient,
and answers `Found`, `NoRoute` or `TryAgain`.  `keys` says what a recipient is looked
up by, `servers` what an upstream is; every further module is a kind of mapping.
"""

from __future__ import annotations

from smtpproxy.routing.answers import Answer, Found, Mapping, NoRoute, Route, TryAgain
from smtpproxy.routing.csv import CsvMapping
from smtpproxy.routing.keys import address_key, domain_key, keys_of
from smtpproxy.routing.router import Explanation, Router, Step
from smtpproxy.routing.servers import Upstream, parse_server
from smtpproxy.routing.static import StaticMapping

__all__ = [
    "Answer",
    "CsvMapping",
    "Explanation",
    "Found",
    "Mapping",
    "NoRoute",
    "Route",
    "Router",
    "StaticMapping",
    "Step",
    "TryAgain",
    "Upstream",
    "address_key",
    "domain_key",
    "keys_of",
    "parse_server",
]
