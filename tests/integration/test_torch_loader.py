"""A streaming data set in torch's own DataLoader."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from aiolit.streaming.dataset import StreamingDataset
from aiolit.testing.datasets import write_dataset

pytestmark = pytest.mark.keeps_open("environment", reason="torch's handler of SIGCHLD")

COUNT = 60


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", list(range(COUNT)), chunk_size=10)


def epochs(dataset: StreamingDataset, count: int = 2, **options: Any) -> list[list[int]]:
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=6, **options)
    return [[int(one) for batch in loader for one in batch] for _ in range(count)]


def test_workers_that_end_with_the_epoch_are_told_of(folder: Path) -> None:
    """The warning comes from a worker; as an error it ends the epoch there."""
    with pytest.raises(UserWarning, match=r"use aiolit\.StreamingDataLoader, or call set_epoch"):
        epochs(StreamingDataset(folder, shuffle=True), num_workers=2)


def test_an_epoch_that_is_told_is_read(folder: Path) -> None:
    dataset = StreamingDataset(folder, shuffle=True)
    found = []
    for epoch in (2, 3):
        dataset.set_epoch(epoch)
        found += epochs(dataset, 1, num_workers=2)
    assert sorted(found[0]) == sorted(found[1]) == list(range(COUNT))
    assert found[0] != found[1]


def test_workers_that_persist_turn_the_epochs(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = epochs(
            StreamingDataset(folder, shuffle=True), num_workers=2, persistent_workers=True
        )
    assert sorted(one) == sorted(two) == list(range(COUNT))
    assert one != two


@pytest.mark.parametrize("workers", [0, 2])
def test_what_cannot_repeat_is_not_warned_of(folder: Path, workers: int) -> None:
    one, two = epochs(StreamingDataset(folder, shuffle=not workers), num_workers=workers)
    assert sorted(one) == sorted(two) == list(range(COUNT))
    assert (one == two) == bool(workers)
