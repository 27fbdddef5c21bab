"""Tests on a real reactor whose coroutines wait for streams: `start` has to run them."""

from __future__ import annotations

from functools import wraps
from inspect import iscoroutinefunction

from twisted.trial import unittest

from smtpproxy.tasks import start


class TestCase(unittest.TestCase):
    """As Twisted's, which runs coroutines in a way of its own."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, method in vars(cls).copy().items():
            if name.startswith("test") and iscoroutinefunction(method):
                setattr(cls, name, _started(method))


def _started(method):
    @wraps(method)
    def run(self):
        return start(method(self))

    return run
