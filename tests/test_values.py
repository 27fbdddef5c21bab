"""Values: equal where they say the same, and changed by nobody."""

from __future__ import annotations

import copy
import pickle
from dataclasses import field, replace

import pytest

from smtpproxy.values import value


@value
class Place:
    host: str
    port: int = 25
    note: str = field(default="", compare=False)


@value
class Whole:
    number: int

    def __hash__(self) -> int:
        return 7


def test_values_that_say_the_same_are_the_same():
    place = Place("mx.example.com", note="first")
    assert place == Place("mx.example.com", 25, "second") != Place("mx.example.com", 26)
    assert {place: 1}[Place("mx.example.com")] == 1
    assert repr(place) == "Place(host='mx.example.com', port=25, note='first')"
    match place:
        case Place(host, port):
            assert (host, port) == ("mx.example.com", 25)


def test_another_value_is_made_of_one():
    place = Place("mx.example.com")
    other = replace(place, port=587)
    assert (other.host, other.port, place.port) == ("mx.example.com", 587, 25)
    assert copy.copy(place) == pickle.loads(pickle.dumps(place)) == place


def test_a_value_has_its_fields_and_no_more():
    with pytest.raises(AttributeError):
        Place("mx.example.com").address = "192.0.2.1"


def test_a_hash_of_its_own_stays():
    assert hash(Whole(1)) == 7 and Whole(1) == Whole(1) != Whole(2)


def test_the_type_checker_keeps_a_value_from_being_changed():
    place = Place("mx.example.com")
    # `make lint` fails where the type checker has nothing to say here, as of any needless "ignore".
    place.port = 26  # type: ignore[misc]
    assert place.port == 26
