"""Large values reach the training process through shared memory: in order, once, as they are."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset
from aiolit.testing.datasets import write_dataset

pytestmark = pytest.mark.keeps_open("environment", reason="torch's handler of SIGCHLD")

COUNT = 60


def content(number: int) -> bytes:
    """From nothing to some 60 KB, each of its own."""
    return b"%d " % number * (number * 300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = [{"file": content(n), "n": n, "pair": (content(n)[:3000], n)} for n in range(COUNT)]
    return write_dataset(tmp_path_factory.mktemp("data") / "files", samples, chunk_size=7)


def loader_of(folder: Path, workers: int, **options: Any) -> StreamingDataLoader:
    dataset = StreamingDataset(folder, shuffle=True)
    return StreamingDataLoader(dataset, batch_size=4, num_workers=workers, **options)


def check(batches: list[Any]) -> list[int]:
    """Return the samples' numbers; every value is as it was written."""
    for batch in batches:
        assert type(batch["n"]) is torch.Tensor
        assert batch["file"] == [content(n) for n in batch["n"].tolist()]
        assert list(batch["pair"][0]) == [one[:3000] for one in batch["file"]]
        assert torch.equal(batch["pair"][1], batch["n"])
    return [n for batch in batches for n in batch["n"].tolist()]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("options", [{}, {"prefetch_factor": 4}, {"decode_threads": 2}])
def test_epochs_of_large_values(folder: Path, workers: int, options: dict[str, Any]) -> None:
    loader = loader_of(folder, workers, **options)
    for _ in range(2):
        assert sorted(check(list(loader))) == list(range(COUNT))


def test_batches_that_are_kept_stay_as_they_are(folder: Path) -> None:
    """Their memory is theirs: later batches do not write over it."""
    loader = loader_of(folder, 2, persistent_workers=True)
    kept = [batch for _ in range(3) for batch in loader]
    assert len(check(kept)) == 3 * COUNT


def test_an_epoch_that_is_broken_off_gives_its_slots_back(folder: Path) -> None:
    loader = loader_of(folder, 2, persistent_workers=True)
    for stop in (1, 3, 5):
        batches = iter(loader)
        check([next(batches) for _ in range(stop)])
        del batches
    assert sorted(check(list(loader))) == list(range(COUNT))


def pids(samples: list[Any]) -> dict[str, Any]:
    return {"files": [[sample["file"]] for sample in samples], "pid": os.getpid()}


@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_a_collate_of_ones_own_under_every_start_method(folder: Path, context: str) -> None:
    loader = loader_of(folder, 2, collate_fn=pids, multiprocessing_context=context)
    batches = list(loader)
    assert os.getpid() not in {batch["pid"] for batch in batches}
    files = [file for batch in batches for (file,) in batch["files"]]
    assert sorted(files) == sorted(content(n) for n in range(COUNT))


def test_a_state_is_that_of_the_batch_handed_out(folder: Path) -> None:
    loader = loader_of(folder, 2)
    batches = iter(loader)
    seen = check([next(batches) for _ in range(5)])
    again = loader_of(folder, 2)
    again.load_state_dict(loader.state_dict())
    assert sorted(seen + check(list(again))) == list(range(COUNT))


def test_what_threads_have_made_and_nobody_takes_keeps_no_slot(folder: Path) -> None:
    loader = loader_of(folder, 1, persistent_workers=True, decode_threads=1)
    for _ in range(4):
        batches = iter(loader)
        check([next(batches) for _ in range(2)])
        del batches
    assert sorted(check(list(loader))) == list(range(COUNT))
    assert loader._feed is not None
    assert loader._feed._transit is not None
    assert not any(bytes(loader._feed._transit._used))


def exhausted(samples: list[Any]) -> Any:
    if any(sample["n"] == 30 for sample in samples):
        next(iter(()))
    return len(samples)


@pytest.mark.parametrize("options", [{}, {"decode_threads": 1}])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_collate_that_lets_stop_iteration_out_does_not_end_the_epoch(
    folder: Path, workers: int, options: dict[str, Any]
) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(loader_of(folder, workers, collate_fn=exhausted, **options))


def with_a_function(samples: list[Any]) -> dict[str, Any]:
    return {"file": [content(59) for _ in samples], "function": lambda: 1}


def test_a_batch_that_cannot_be_pickled_is_an_error_of_the_worker(folder: Path) -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="Can't pickle"):
        list(loader_of(folder, 1, collate_fn=with_a_function))
