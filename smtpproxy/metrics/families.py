"""Every metric that there is, with its type, its labels and its meaning.

Names are as Prometheus wants them: the unit at the end, `_total` behind what only grows.  No label
holds a client's address or a mailbox: what a peer can choose must not make series.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from smtpproxy.values import value

SESSION_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
PHASE_SECONDS = (*_SHORT, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@value
class Family:
    """One metric: its `name`, its `kind` ("counter", "gauge" or "histogram"), and its labels.

    `merge` is what the values of several workers make together: "sum", "max" or "min".  `bounds`
    are the upper ends of a histogram's buckets, without the last one, which has none.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    merge: str = "sum"
    bounds: tuple[float, ...] = ()


_FAMILIES: dict[str, Family] = {}

FAMILIES: Mapping[str, Family] = MappingProxyType(_FAMILIES)
"""All of them by name, in the order in which they are told."""


def _add(family: Family) -> Family:
    _FAMILIES[family.name] = family
    return family


def _counter(name: str, text: str, *labels: str, merge: str = "sum") -> Family:
    return _add(Family(f"smtpproxy_{name}_total", "counter", text, labels, merge))


def _gauge(name: str, text: str, *labels: str, merge: str = "sum") -> Family:
    return _add(Family(f"smtpproxy_{name}", "gauge", text, labels, merge))


def _histogram(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Family:
    return _add(Family(f"smtpproxy_{name}", "histogram", text, labels, bounds=bounds))


# Clients

SESSIONS = _counter("sessions", "Sessions that have begun", "listener")
SESSIONS_LIVE = _gauge("sessions_live", "Sessions that are under way", "listener")
SESSIONS_MOST = _gauge("sessions_limit", "Sessions that may be under way at once")
SESSIONS_WAITING = _gauge("sessions_waiting", "Sessions that wait for an upstream")
SESSIONS_ENDED = _counter(
    "sessions_ended", "Sessions that have ended, by how they did", "listener", "outcome"
)
SESSION_TIME = _histogram("session_seconds", "How long sessions took", SESSION_SECONDS, "listener")
NO_HEADER = _counter(
    "proxy_headers_missing", "Connections without the PROXY header they need", "listener"
)
REFUSED = _counter(
    "refusals", "Commands and connections refused", "listener", "stage", "by", "reply"
)
LIMITS_HIT = _counter("limits_hit", "How often a limit was met", "listener", "limit")

# Mail

TRANSACTIONS = _counter(
    "transactions",
    "Messages for which an upstream had accepted a recipient, by what became of them",
    "listener",
    "upstream",
    "outcome",
)
RECIPIENTS = _counter(
    "recipients",
    "Recipients of these messages, and recipients that were refused",
    "listener",
    "upstream",
    "outcome",
)
MESSAGE_BYTES = _counter(
    "message_bytes", "Octets of these messages", "listener", "upstream", "outcome"
)
MESSAGES_BY_TLS = _counter(
    "messages_tls",
    "These messages by the version of TLS on the way in and on the way out",
    "side",
    "version",
)
PHASE_TIME = _histogram(
    "phase_seconds", "What messages spent their time on", PHASE_SECONDS, "phase"
)
IN_DOUBT = _counter("in_doubt", "Messages whose final dot was sent and not answered")
DUPLICATES = _counter("duplicates", "Messages that most likely were delivered before")
DOUBTS = _gauge("doubts", "Recipients of messages in doubt that are remembered")

# Upstreams

UPSTREAM_TIME = _counter(
    "upstream_seconds", "Time that messages spent on an upstream", "upstream", "phase"
)
UPSTREAM_FAILURES = _counter(
    "upstream_failures", "Attempts at an address that were of no use", "upstream"
)
UPSTREAM_DOWN = _gauge(
    "upstream_down", "Addresses that are down; not there while none is", "upstream", merge="max"
)
UPSTREAM_STANDING = _gauge(
    "upstream_standing",
    "1 for what an administrator has taken out",
    "upstream",
    "standing",
    merge="max",
)
UPSTREAM_CONNECTIONS = _gauge(
    "upstream_connections", "Connections, in use, kept, or being made", "upstream"
)
UPSTREAM_WAITING = _gauge(
    "upstream_waiting", "Messages that wait for a connection less", "upstream"
)
POOL_KEPT = _gauge("pool_kept_connections", "Connections to upstreams that wait for use")
POOL_GIVEN = _counter(
    "pool_connections", "Connections to upstreams: made, or used once more", "outcome"
)
GUARD_TRIPPED = _gauge(
    "guard_tripped",
    "1 while the 5xx of an upstream are told as 451",
    "upstream",
    "what",
    merge="max",
)
GUARD_TRIPS = _counter("guard_trips", "How often the 5xx guard has tripped", "what")
GUARD_TURNED = _counter("guard_turned", "5xx replies that were told as 451", "what")
SHADOWED = _counter("shadow_recipients", "Recipients that shadows were asked of", "shadow", "said")

# Look-ups

LOOKUPS = _counter("lookups", "What mappings were asked, by their answer", "mapping", "outcome")
CACHE_KEYS = _gauge("cache_keys", "Keys that a mapping's cache remembers", "mapping")
CACHE_LOOKUPS = _counter(
    "cache_lookups", "Look-ups that a mapping's cache answered, or not", "mapping", "outcome"
)
ROWS = _gauge("mapping_rows", "Rows in force of a mapping's file", "mapping", merge="max")
DATABASE_UP = _gauge(
    "database_up", "1 where a mapping's database answered when checked", "mapping", merge="min"
)
DNS_NAMES = _gauge("dns_cache_names", "Names whose answers are remembered", "kind")
DNS_LOOKUPS = _counter("dns_lookups", "DNS look-ups, by whether they were asked", "kind", "outcome")

# The program

WORKERS = _gauge("workers", "Processes that serve, and have answered")
WORKERS_WANTED = _gauge("workers_wanted", "Processes that are to serve", merge="max")
INFO = _gauge("build_info", "1, with the version", "version", merge="max")
STARTED = _gauge("start_time_seconds", "When the oldest process began, since 1970", merge="min")
RELOADS = _counter("reloads", "Reloads, and files that were read again", "outcome", merge="max")
RELOAD_TAKEN = _gauge("reload_last_taken", "1 where the last of these was taken", merge="min")
RELOADED_AT = _gauge(
    "reload_taken_time_seconds", "When the last was taken, since 1970", merge="min"
)
GENERATIONS = _gauge(
    "generations", "Configurations that have sessions, the one in force with them", merge="max"
)
CERTIFICATE_UNTIL = _gauge(
    "certificate_expiry_time_seconds",
    "Until when a certificate is valid, since 1970",
    "certificate",
    merge="min",
)
OPEN_FILES = _gauge("open_descriptors", "Open files of the process that has most", merge="max")
MOST_FILES = _gauge("max_descriptors", "Open files that each process may have", merge="min")
MEMORY = _gauge("resident_memory_bytes", "Memory in use")
CPU_TIME = _counter("cpu_seconds", "Time of processors that was used")
LINES_LOST = _counter("log_lines_lost", "Lines of the log that could not be written")
