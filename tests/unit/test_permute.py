"""Permutations: the same on every machine, and well mixed."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from aiolit.plan.permute import keys, mix, permutation

WORDS = st.lists(st.integers(-(2**70), 2**70), max_size=5)


def test_golden_values() -> None:
    """Changing any of these changes the order of every resumed run."""
    assert mix() == 0
    assert mix(0) == 16294208416658607535
    assert mix(1, 2, 3) == 15020427595393229491
    assert keys(3, 0).tolist() == [
        16294208416658607535,  # the first three outputs of SplitMix64 from 0, as published
        7960286522194355700,
        487617019471545679,
    ]
    assert permutation(10, 42, 1).tolist() == [1, 9, 2, 3, 0, 7, 6, 4, 5, 8]
    assert permutation(1000, 7).tolist()[:5] == [960, 675, 118, 409, 914]
    assert permutation(4095, 7).tolist()[:5] == [3955, 1873, 960, 4056, 3087]
    assert permutation(4096, 7).tolist()[:5] == [1359, 3992, 238, 553, 2690]
    assert permutation(100_000, 42, 1).tolist()[-5:] == [78214, 60724, 58068, 59324, 72767]


def test_keys_continue() -> None:
    assert keys(10, 5).tolist()[4:] == keys(6, 5, start=4).tolist()


@given(st.integers(0, 500) | st.integers(4090, 4100), WORDS)
def test_is_a_permutation(count: int, words: list[int]) -> None:
    found = permutation(count, *words)
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == list(range(count))
    assert found.tolist() == permutation(count, *words).tolist()


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4), st.data())
def test_every_word_and_its_place_counts(words: list[int], data: st.DataObject) -> None:
    where = data.draw(st.integers(0, len(words) - 1))
    other = list(words)
    other[where] ^= 1 << data.draw(st.integers(0, 63))
    assert mix(*words) != mix(*other)
    assert mix(*words) != mix(*words, 0)
    if words != words[::-1]:
        assert mix(*words) != mix(*words[::-1])


def test_mixes_well() -> None:
    """Neighbours of one permutation, and places in two of neighbouring seeds, are not related."""
    count = 20_000
    one, two = permutation(count, 1, 1), permutation(count, 1, 2)
    step = np.abs(np.diff(one)).mean() / count
    assert abs(step - 1 / 3) < 0.01
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03
    assert abs(np.corrcoef(one, np.arange(count))[0, 1]) < 0.03
