"""``assert_resumable``: it passes loaders that resume and names what others do wrong."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aiolit.streaming.combined import CombinedStreamingDataset
from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset
from aiolit.testing.resumable import assert_resumable

WriteDataset = Any


class Numbers:
    """A loader of plain numbers, which can be told to be wrong in different ways."""

    def __init__(self, batches: list[Any], *, skew: int = 0, lost: int = 0) -> None:
        self._batches, self._skew, self._lost = batches, skew, lost
        self._taken = 0

    def __iter__(self) -> Iterator[Any]:
        while self._taken < len(self._batches):
            self._taken += 1
            yield self._batches[self._taken - 1]
        self._taken = 0

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self._taken % len(self._batches)}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self._taken = state_dict["taken"]
        if self._taken:
            self._taken += self._lost
            self._batches = [batch + self._skew for batch in self._batches]


class Endless(Numbers):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from super().__iter__()


@pytest.fixture
def folder(write_dataset: WriteDataset) -> Path:
    samples = [{"n": n, "x": np.full(3, n, np.float32)} for n in range(50)]
    written: Path = write_dataset(samples, chunk_size=7)
    return written


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_a_streaming_loader(folder: Path, shuffle: bool, every: int) -> None:
    def make() -> StreamingDataLoader:
        return StreamingDataLoader(StreamingDataset(folder, shuffle=shuffle), batch_size=8)

    assert_resumable(make, every=every)


@pytest.mark.keeps_open("sockets", "threads", "environment", reason="torch's workers")
def test_with_workers(folder: Path) -> None:
    def make() -> StreamingDataLoader:
        dataset = StreamingDataset(folder, shuffle=True)
        return StreamingDataLoader(dataset, batch_size=8, num_workers=2)

    assert_resumable(make, every=5)


def test_a_data_set_sample_by_sample(folder: Path) -> None:
    assert_resumable(lambda: StreamingDataset(folder, shuffle=True), every=9)


def test_an_endless_mixture(folder: Path) -> None:
    def make() -> StreamingDataLoader:
        parts = [StreamingDataset(folder, shuffle=True, seed=seed) for seed in (1, 2)]
        mixture = CombinedStreamingDataset(parts, weights=[0.5, 0.5], iterate_over_all=False)
        return StreamingDataLoader(mixture, batch_size=4)

    assert_resumable(make, every=4, batches=20)
    assert len(list(itertools.islice(make(), 5))) == 5


def test_another_loaders_protocol_will_do() -> None:
    assert_resumable(lambda: Numbers([1, 2, 3, 4]))
    assert_resumable(lambda: Endless([1, 2, 3, 4]), batches=10, every=2)


def test_wrong_values_are_named() -> None:
    with pytest.raises(AssertionError, match=r"after batch 1 of 3: batch 2 differs: 25 instead of"):
        assert_resumable(lambda: Numbers([10, 20, 30], skew=5))


def test_lost_batches_are_named() -> None:
    with pytest.raises(AssertionError, match=r"restored after batch 1 of 3: batch 2 differs: 30"):
        assert_resumable(lambda: Numbers([10, 20, 30], lost=1))
    same = r"restored after batch 1 of 3: 1 batches came, where the uninterrupted loader gave 2"
    with pytest.raises(AssertionError, match=same):
        assert_resumable(lambda: Numbers([10, 10, 10], lost=1))


def test_the_place_within_a_batch_is_named() -> None:
    class Nested(Numbers):
        def __iter__(self) -> Iterator[Any]:
            for batch in super().__iter__():
                yield {"a": [torch.tensor([[0, batch], [1, 2]])], "b": float("nan")}

    assert_resumable(lambda: Nested([10, 20, 30]))
    wrong = (
        r"batch 2 differs at \['a'\]\[0\]: 1 elements differ, the first at \[0, 1\]: 25 instead "
        "of 20"
    )
    with pytest.raises(AssertionError, match=wrong):
        assert_resumable(lambda: Nested([10, 20, 30], skew=5))


def test_a_state_that_is_always_the_start() -> None:
    class Forgetful(Numbers):
        def state_dict(self) -> dict[str, Any]:
            return {"taken": 0}

    with pytest.raises(AssertionError, match="restored after batch 1 of 2: batch 2 differs: 1"):
        assert_resumable(lambda: Forgetful([1, 2]))


def test_nothing_to_resume() -> None:
    with pytest.raises(AssertionError, match="no batch"):
        assert_resumable(Empty)
    with pytest.raises(ValueError, match="at least 1"):
        assert_resumable(lambda: Numbers([1]), every=0)


class Empty(Numbers):
    def __init__(self) -> None:
        super().__init__([])

    def state_dict(self) -> dict[str, Any]:
        return {}
