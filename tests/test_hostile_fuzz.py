"""The targets of `make fuzz`, on what is kept of its inputs, and for a moment on new ones."""

from __future__ import annotations

import pytest

from tests.fuzz.engines import CORPUS, by_hypothesis, corpus
from tests.fuzz.targets import TARGETS

MOMENT = 0.1  # seconds


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_kept(name: str) -> None:
    inputs = corpus(name)
    assert inputs
    for data in inputs:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_a_moment_of_new_ones(name: str) -> None:
    assert by_hypothesis(name, MOMENT)


def test_each_file_is_of_a_target() -> None:
    assert {file.stem for file in CORPUS.iterdir()} == set(TARGETS)
