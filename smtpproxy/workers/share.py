"""What of the configuration a worker has."""

from __future__ import annotations

import os

from smtpproxy.config import Config
from smtpproxy.config.types import MOST_WORKERS


def number_of(config: Config) -> int:
    """How many workers there are to be: "auto" is one for each processor we may use."""
    if isinstance(config.workers, int):
        return config.workers
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


def workers_stay(workers: int, config: Config) -> str:
    """What to say where there are `workers`, and `config` wants another number; else ""."""
    if number_of(config) == workers:
        return ""
    return f"workers stays {workers} until smtpproxy is restarted"


def share_of(config: Config, workers: int, control: str) -> Config:
    """The configuration of one of them, with a control socket of its own, and no HTTP.

    What is limited in all is divided, rounded up; what is limited for each client each worker
    counts for itself.
    """

    def part(most: int) -> int:
        return -(-most // workers)

    limits, upstreams = config.limits, config.upstreams
    return config.model_copy(
        update={
            "control": control,
            "http": config.http.model_copy(update={"listen": None}),
            "limits": limits.model_copy(
                update={
                    "max_connections": part(limits.max_connections),
                    "max_waiting": part(limits.max_waiting),
                }
            ),
            "upstreams": upstreams.model_copy(
                update={"max_connections": part(upstreams.max_connections)}
            ),
        }
    )
