"""Raw items that cannot be fetched: others in their place, as many steps, counted and told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from aiolit.errors import ConfigError, ObjectNotFoundError
from aiolit.raw.async_dataset import AsyncStreamingRawDataset
from aiolit.raw.dataset import StreamingRawDataset
from aiolit.streaming.dataloader import StreamingDataLoader

COUNT = 40

pytestmark = [
    pytest.mark.keeps_open(
        "threads", "environment", reason="the portal's threads; torch's handler of SIGCHLD"
    ),
    pytest.mark.filterwarnings("ignore:an item is skipped"),
]


def as_list(batch: list[Any]) -> list[Any]:
    return batch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    for number in range(COUNT):
        (path / f"{number:02}").write_bytes(b"%d" % number)
    return path


Opened = Callable[..., StreamingRawDataset]


@pytest.fixture
def opened(folder: Path, tmp_path: Path) -> Opened:
    """Open the data set; the files of these numbers go once it has listed them."""

    def open_without(*gone: int, **options: Any) -> StreamingRawDataset:
        dataset = StreamingRawDataset(folder, cache_dir=tmp_path / "cache", **options)
        for number in gone:
            (folder / f"{number:02}").unlink()
        return dataset

    return open_without


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_has_as_many_batches(opened: Opened, workers: int) -> None:
    dataset = opened(5, 17, 18, on_error="skip")
    loader = StreamingDataLoader(dataset, batch_size=8, num_workers=workers, collate_fn=as_list)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [8] * 5
    found = [int(item) for batch in batches for item in batch]
    assert set(found) == set(range(COUNT)) - {5, 17, 18}
    assert loader.stats()["skipped"] == 3
    if not workers:  # what could be fetched is in its place
        assert all(item == n or n in (5, 17, 18) for n, item in enumerate(found))


def test_each_is_told_once(opened: Opened) -> None:
    dataset = opened(5, on_error="skip")
    with pytest.warns(UserWarning, match=r"an item is skipped: .*05") as told:
        assert len([*dataset, *dataset]) == 2 * COUNT
    assert len(told) == 1
    assert dataset.stats()["skipped"] == 2


@pytest.mark.parametrize("batch_size", [1, 4])
def test_ranks_take_equal_steps(opened: Opened, batch_size: int) -> None:
    """The first batches of a rank fail whole, when nothing good was seen yet."""
    ranks = [opened(rank=rank, world_size=2, on_error="skip") for rank in (0, 1)]
    opened(*range(8))
    loaders = [
        StreamingDataLoader(dataset, batch_size=batch_size, collate_fn=as_list) for dataset in ranks
    ]
    assert [len(list(loader)) for loader in loaders] == [COUNT // 2 // batch_size] * 2


def test_torchs_loader_skips_too(opened: Opened) -> None:
    dataset = opened(3, 4, on_error="skip")
    batches = list(DataLoader(dataset, batch_size=5, collate_fn=as_list))
    assert [len(batch) for batch in batches] == [5] * 8
    assert set(batches[0]) == {b"0", b"1", b"2"}


def test_what_is_asked_for_by_number_is_that_or_an_error(opened: Opened) -> None:
    dataset = opened(3, on_error="skip")
    with pytest.raises(ObjectNotFoundError):
        dataset[3]
    with pytest.raises(ObjectNotFoundError):
        dataset[[1, 3]]
    assert dataset[2] == b"2"


async def test_the_async_twin(opened: Opened) -> None:
    async with AsyncStreamingRawDataset(opened(5, 6, on_error="skip")) as dataset:
        batches = [batch async for batch in dataset.batches(10)]
    assert [len(batch) for batch in batches] == [10] * 4
    assert {int(item) for batch in batches for item in batch} == set(range(COUNT)) - {5, 6}


def test_nothing_is_left(opened: Opened) -> None:
    dataset = opened(*range(COUNT), on_error="skip")
    with pytest.raises(ObjectNotFoundError):
        list(dataset)


class Broken(StreamingRawDataset):
    def transform(self, item: Any) -> Any:
        raise LookupError("mine")


def test_errors_of_ones_own_pass(folder: Path, tmp_path: Path) -> None:
    dataset = Broken(folder, cache_dir=tmp_path, on_error="skip")
    with pytest.raises(LookupError, match="mine"):
        list(dataset)


def test_the_argument_is_checked(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="on_error must be 'raise' or 'skip', not 'ignore'"):
        StreamingRawDataset(folder, cache_dir=tmp_path, on_error="ignore")  # type: ignore[arg-type]
