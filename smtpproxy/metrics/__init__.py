"""What is counted and measured, for Prometheus.

    families     the table of all metrics: names, types, labels, meaning
    counts       an observer that counts what happens in sessions
    state        what is read when somebody asks; and with `counts` and `process` all of it
    process      what a process tells of itself, also the parent of workers
    snapshot     one process's metrics, as plain values: the answer to the command `metrics`
    merging      the snapshots of several processes, together
    exposition   a snapshot as the text that Prometheus reads

Counters begin at 0 with the process.  What they count is in docs/metrics.md.
"""

from __future__ import annotations

from smtpproxy.metrics.counts import Counts
from smtpproxy.metrics.exposition import CONTENT_TYPE, exposition
from smtpproxy.metrics.merging import Together, merged
from smtpproxy.metrics.process import Process
from smtpproxy.metrics.snapshot import Snapshot
from smtpproxy.metrics.state import State

__all__ = [
    "CONTENT_TYPE",
    "Counts",
    "Process",
    "Snapshot",
    "State",
    "Together",
    "exposition",
    "merged",
]
