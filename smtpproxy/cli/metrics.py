"""`smtpproxy metrics`: what the running program has counted, as Prometheus reads it."""

from __future__ import annotations

import sys
from argparse import Namespace
from typing import Any

from smtpproxy.cli.asking import ask
from smtpproxy.metrics import exposition
from smtpproxy.metrics.families import WORKERS, WORKERS_WANTED, Family

ALL, SOME, ERROR = 0, 1, 2

PATIENCE = 10.0  # seconds


def run(options: Namespace) -> int:
    """0 where it is of all workers, 1 where one did not answer, 2 where nobody could be asked."""
    answer = ask(options, "metrics", PATIENCE)
    if answer is None:
        return ERROR
    sys.stdout.write(exposition(answer).decode())
    return SOME if _value(answer, WORKERS) < _value(answer, WORKERS_WANTED) else ALL


def _value(answer: dict[str, Any], family: Family) -> float:
    """That of a metric without labels; 0 where it is not there."""
    of = (each["samples"] for each in answer["metrics"] if each["name"] == family.name)
    return float(sum(value for samples in of for _, value in samples))
