"""Batches through shared memory: the same values, slots that are used again, and nothing left."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import weakref
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aiolit.runtime.transit import Transit

LARGE = bytes(range(256)) * 40


def sent(transit: Transit, worker: int, batch: Any) -> bytes:
    """Return what goes through the pipe."""
    return bytes(ForkingPickler.dumps(transit.parcel(worker, batch)))


BATCHES = [
    {"image": [LARGE, LARGE[:-1] + b"x", b"small"], "id": (3, 4), "name": ["a", "b", "c"]},
    [[LARGE, LARGE], [1, 2]],
    (LARGE, None, {"deep": [[{"er": LARGE}]]}),
    [b"", LARGE],
]


@pytest.mark.parametrize("batch", BATCHES)
def test_what_comes_out_is_what_went_in(batch: Any) -> None:
    transit = Transit(1, 1)
    for _ in range(3):  # the one slot is free again each time
        text = sent(transit, 0, batch)
        assert LARGE not in text
        found = pickle.loads(text)
        assert type(found) is type(batch)
        assert repr(found) == repr(batch)


def test_equal_values_stay_one_object_where_they_were_one() -> None:
    transit = Transit(1, 1)
    (one, two), _ = pickle.loads(sent(transit, 0, ([["x"] * 2] * 2, LARGE)))
    assert one is two


@given(st.lists(st.binary(max_size=6000), max_size=6))
def test_sizes_of_all_kinds(values: list[bytes]) -> None:
    transit = Transit(1, 1, slot_bytes=9000)  # so that some have no room
    assert pickle.loads(sent(transit, 0, values)) == values


def test_where_no_slot_is_free_the_batch_goes_through_the_pipe() -> None:
    transit = Transit(2, 2)
    texts = [sent(transit, 0, [LARGE, b"%d" % number]) for number in range(3)]
    assert [LARGE in text for text in texts] == [False, False, True]
    assert LARGE not in sent(transit, 1, [LARGE])  # the other worker's slots are its own
    for number, text in enumerate(texts):
        assert pickle.loads(text) == [LARGE, b"%d" % number]
    assert LARGE not in sent(transit, 0, [LARGE])


def test_a_batch_that_cannot_be_pickled_takes_no_slot() -> None:
    transit = Transit(1, 1)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        sent(transit, 0, [LARGE, lambda: None])
    assert LARGE not in sent(transit, 0, [LARGE])


def test_a_value_that_cannot_be_made_again_frees_its_slot() -> None:
    transit = Transit(1, 1)
    text = sent(transit, 0, [LARGE, _Broken()])
    with pytest.raises(ZeroDivisionError):
        pickle.loads(text)
    assert LARGE not in sent(transit, 0, [LARGE])


class _Broken:
    def __reduce__(self) -> tuple[Any, ...]:
        return divmod, (1, 0)


@pytest.mark.parametrize("batch", [torch.zeros(1000), [1] * 1000, {"a": ["text" * 1000]}, b"x", {}])
def test_small_values_and_tensors_are_left_to_torch(batch: Any) -> None:
    assert Transit(1, 1).parcel(0, batch) is batch


def test_a_spawned_process_has_no_part_in_it() -> None:
    assert pickle.loads(pickle.dumps(Transit(1, 1))) is None


def test_memory_that_the_system_refuses_is_no_error() -> None:
    assert Transit.open(1 << 20, 1 << 20) is None


def test_a_forked_process_fills_the_slots_and_this_one_frees_them() -> None:
    transit = Transit(1, 2)
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=_send, args=(transit, there))
    child.start()
    for number in range(20):
        here.send(None)
        assert here.recv() == [LARGE, number]
    child.join(20)
    assert child.exitcode == 0


def _send(transit: Transit, pipe: Connection) -> None:
    for number in range(20):
        pipe.recv()
        pipe.send(transit.parcel(0, [LARGE, number]))


def test_the_memory_goes_with_the_last_reference() -> None:
    def mapped() -> int:
        with open("/proc/self/statm") as figures:
            return int(figures.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")

    before = mapped()
    transit = Transit(4, 2)
    assert pickle.loads(sent(transit, 3, [LARGE])) == [LARGE]
    assert mapped() - before >= 8 * (32 << 20)
    gone = weakref.ref(transit)
    del transit
    gc.collect()
    assert gone() is None
    assert mapped() - before < 8 * (32 << 20)
