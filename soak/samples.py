"""Memory and descriptors of the proxy through the run, and whether they grow."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from typing import Self

from bench.accounts import children, held

EVERY = 1.0  # seconds
WARM = 0.25  # of the time of a process, until it counts
ENOUGH = 60  # samples, to say that something grows
MEMORY = 8 << 20  # octets that may be more at the end
DESCRIPTORS = 4  # that may be more at the end, both times at rest


@dataclass(frozen=True, slots=True)
class Sample:
    """Of the process `pid`, and those that it has started: octets of memory, open descriptors."""

    pid: int
    memory: int
    descriptors: int


def sample(pid: int) -> Sample:
    every = [pid, *children(pid)]
    descriptors = sum(len(os.listdir(f"/proc/{each}/fd")) for each in every)
    return Sample(pid, sum(held(each)[0] for each in every), descriptors)


@dataclass(frozen=True, slots=True)
class Trend:
    """The medians of the first and the last third of the samples of one process, once warm."""

    first: Sample
    last: Sample
    count: int

    @property
    def growth(self) -> str | None:
        """What grew too much, if anything; None also where there are too few samples to say."""
        more = self.last.memory - self.first.memory
        if self.count < ENOUGH or more <= MEMORY:
            return None
        return f"{more / 1e6:.1f} MB more memory at the end than at the beginning"


def trend(samples: Sequence[Sample]) -> Trend | None:
    """That of the process with the most samples; None where there are hardly any."""
    by_pid: dict[int, list[Sample]] = {}
    for each in samples:
        by_pid.setdefault(each.pid, []).append(each)
    longest = max(by_pid.values(), key=len, default=[])
    warm = longest[int(len(longest) * WARM) :]
    third = len(warm) // 3
    if not third:
        return None
    return Trend(_middle(warm[:third]), _middle(warm[-third:]), len(warm))


def _middle(samples: Sequence[Sample]) -> Sample:
    return Sample(
        samples[0].pid,
        int(median(each.memory for each in samples)),
        int(median(each.descriptors for each in samples)),
    )


class Sampler:
    """Takes them, in a thread; `pid` says of which process just now."""

    def __init__(self, pid: Callable[[], int]) -> None:
        self.samples: list[Sample] = []
        self._pid = pid
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(EVERY):
            with suppress(OSError, KeyError):  # it may be on its way out
                self.samples.append(sample(self._pid()))


def at_rest(pid: int, seconds: float, descriptors: int | None = None) -> Sample:
    """Once no more than so many descriptors are open, or it stays so for this time."""
    until = time.monotonic() + seconds
    while True:
        now = sample(pid)
        if time.monotonic() > until or (descriptors is not None and now.descriptors <= descriptors):
            return now
        time.sleep(0.2)
