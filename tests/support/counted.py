"""Objects that were made and are still there, with no collector of garbage to take them away."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def counted(*kinds: type[object]) -> Iterator[Counter[str]]:
    """In the end, what is given has how many of these kinds there are more than before."""
    left: Counter[str] = Counter()
    gc.collect()
    gc.disable()
    try:
        before = _count(kinds)
        yield left
        left += _count(kinds) - before
    finally:
        gc.enable()


def _count(kinds: tuple[type[object], ...]) -> Counter[str]:
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds))
