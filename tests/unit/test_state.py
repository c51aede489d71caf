"""A position as plain values, and what is compared when it is loaded."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiolit.errors import StateError
from aiolit.format.dataset_info import ChunkInfo, DatasetConfig, Index
from aiolit.plan.order import Deal, Leg
from aiolit.plan.runs import Runs
from aiolit.streaming.state import Position, check_same, fingerprint

DEAL = Deal(ranks=2, workers=3, batch_size=4, canonical=2, drop_last=True)
OTHER = Deal(ranks=1, workers=1, batch_size=2, canonical=1)
LEGS = st.lists(
    st.builds(Leg, deal=st.sampled_from([DEAL, OTHER]), batches=st.integers(1, 10**9)), max_size=4
)


@given(st.integers(1, 10**6), LEGS, st.integers(0, 10**9))
def test_survives_json(epoch: int, legs: list[Leg], own: int) -> None:
    position = Position(epoch, tuple(legs), own)
    text = json.dumps(position.to_json())
    assert Position.from_json(json.loads(text)) == position
    assert len(text) < 100 + 120 * len(legs)


def test_positions_follow_each_other() -> None:
    start = Position(3)
    assert start.after(DEAL, 0, 0) == start
    first = start.after(DEAL, 0, 5)
    assert first.legs == (Leg(DEAL, 5),)
    assert first.after(DEAL, 5, 2).legs == (Leg(DEAL, 7),)  # the same deal goes on
    assert first.after(OTHER, 0, 2).legs == (Leg(DEAL, 5), Leg(OTHER, 2))
    assert first.after(OTHER, 0, 0).legs == (Leg(DEAL, 5),)
    assert first.next_epoch() == Position(4)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"epoch": 1},
        {"epoch": "x", "legs": []},
        {"epoch": 1, "legs": 3},
        {"epoch": 1, "legs": [{}]},
        {"epoch": 1, "legs": [{"ranks": 0, "workers": 1}]},
    ],
)
def test_what_is_no_position(value: dict[str, Any]) -> None:
    with pytest.raises(StateError, match="no state of a streaming data set"):
        Position.from_json(value)


def test_a_topology_that_cannot_be_is_an_error_of_the_state() -> None:
    leg = {"ranks": 2, "workers": 1, "batch_size": 3, "canonical": 3, "drop_last": 0, "batches": 1}
    with pytest.raises(StateError, match="no state of a streaming data set"):
        Position.from_json({"epoch": 1, "legs": [leg]})


def test_differences_are_named() -> None:
    saved = {"seed": 1, "shuffle": True, "window": 8}
    now = {"seed": 2, "shuffle": True, "window": 9}
    with pytest.raises(StateError) as caught:
        check_same(saved, now, force=False)
    assert "seed was 1 and is 2; window was 8 and is 9" in str(caught.value)
    assert "force_override_state_dict=True" in str(caught.value)
    with pytest.warns(UserWarning, match="seed was 1 and is 2"):
        check_same(saved, now, force=True)
    check_same(saved, dict(saved), force=False)


def _index(*nbytes: int, names: str = "chunk-0-{}.bin") -> Index:
    chunks = tuple(
        ChunkInfo(filename=names.format(n), num_items=4, nbytes=size)
        for n, size in enumerate(nbytes)
    )
    return Index(chunks=chunks, config=DatasetConfig(data_format=("int",), data_spec="x"))


def test_the_fingerprint_tells_data_sets_apart() -> None:
    whole = Runs.whole(np.array([4, 4]))
    base = fingerprint(_index(10, 20), whole, {"name": "PyTreeLoader"})
    others = [
        fingerprint(_index(10, 21), whole, {"name": "PyTreeLoader"}),
        fingerprint(_index(10, 20, names="other-{}.bin"), whole, {"name": "PyTreeLoader"}),
        fingerprint(_index(10, 20), whole, {"name": "TokensLoader", "block_size": 5}),
        fingerprint(_index(10, 20), whole.slice(0, 7), {"name": "PyTreeLoader"}),
        fingerprint(_index(10, 20), whole.take(np.array([1, 0])), {"name": "PyTreeLoader"}),
    ]
    assert base == fingerprint(_index(10, 20), whole, {"name": "PyTreeLoader"})
    assert len({base, *others}) == 6
