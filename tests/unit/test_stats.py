"""Counters: bumping, merging, JSON."""

from __future__ import annotations

import json

import pytest

from aiolit.runtime.stats import Counters


def test_zero_at_first_and_bumped_in_place() -> None:
    counters = Counters()
    assert set(counters.as_dict().values()) == {0}
    counters.requests += 1
    counters.bytes_fetched += 500
    counters.wait_seconds += 0.5
    assert (counters.requests, counters.bytes_fetched, counters.wait_seconds) == (1, 500, 0.5)


def test_merge_adds_every_field() -> None:
    names = list(Counters().as_dict())
    one = Counters.from_dict({name: at for at, name in enumerate(names, 1)})
    two = Counters.from_dict(dict.fromkeys(names, 100))
    one.merge(two)
    assert one.as_dict() == {name: 100 + at for at, name in enumerate(names, 1)}
    assert set(two.as_dict().values()) == {100}


def test_travels_as_json() -> None:
    counters = Counters(requests=3, decode_seconds=0.25)
    again = Counters.from_dict(json.loads(json.dumps(counters.as_dict())))
    assert again == counters


def test_missing_names_count_zero_and_unknown_ones_are_refused() -> None:
    assert Counters.from_dict({"chunks": 2}) == Counters(chunks=2)
    with pytest.raises(ValueError, match="no such counters: bogus, chunk"):
        Counters.from_dict({"bogus": 1, "chunk": 2})


def test_a_misspelt_counter_is_an_error() -> None:
    with pytest.raises(AttributeError):
        Counters().request = 1  # type: ignore[attr-defined]
