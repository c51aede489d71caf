"""Pinned batches, and batches on a device."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch

from aiolit import StreamingDataLoader, StreamingDataset
from aiolit.errors import ConfigError

pytestmark = pytest.mark.keeps_open(
    "environment", "threads", reason="torch's handler of SIGCHLD; the threads of a CUDA driver"
)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

COUNT, BATCH = 60, 8


class WriteDataset(Protocol):
    def __call__(
        self, samples: Any, *, chunk_size: int, name: str = "data", **options: Any
    ) -> Path: ...


@pytest.fixture(params=["by columns", "sample by sample"])
def folder(request: pytest.FixtureRequest, write_dataset: WriteDataset) -> Path:
    samples: list[Any] = [{"n": n, "x": torch.full((3,), n)} for n in range(COUNT)]
    if request.param == "sample by sample":
        samples = [{**sample, "text": "a" * sample["n"]} for sample in samples]
    return write_dataset(samples, chunk_size=10)


def tensors(batch: dict[str, Any]) -> list[torch.Tensor]:
    return [value for value in batch.values() if isinstance(value, torch.Tensor)]


def loader(folder: Path, **options: Any) -> StreamingDataLoader:
    return StreamingDataLoader(StreamingDataset(folder, shuffle=True), batch_size=BATCH, **options)


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"decode_threads": 2}])
def test_pinned_batches_are_the_same(options: dict[str, Any], folder: Path) -> None:
    expected = list(loader(folder))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = list(loader(folder, pin_memory=True, **options))
    assert [sorted(batch) for batch in found] == [sorted(batch) for batch in expected]
    for one, two in zip(found, expected, strict=True):
        assert all(map(torch.equal, tensors(one), tensors(two)))
        assert all(each.is_pinned() == torch.cuda.is_available() for each in tensors(one))
    if not torch.cuda.is_available():  # the word of torch, which pins
        assert any("pin_memory" in str(one.message) for one in said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_device_the_loader_says_so(folder: Path) -> None:
    with pytest.raises(ConfigError, match="prefetch_to_device='cuda': torch sees 0 CUDA devices"):
        loader(folder, prefetch_to_device="cuda")


@needs_cuda
@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"decode_threads": 2}])
def test_batches_on_a_device(options: dict[str, Any], folder: Path) -> None:
    expected = list(loader(folder))
    moved = loader(folder, prefetch_to_device="cuda", **options)
    for number, (one, two) in enumerate(zip(moved, expected, strict=True), 1):
        assert all(each.is_cuda for each in tensors(one))
        assert all(
            torch.equal(each.cpu(), host)
            for each, host in zip(tensors(one), tensors(two), strict=True)
        )
        if number == 3:  # the state is that of the batch handed out, not of the one copied ahead
            rest = loader(folder)
            rest.load_state_dict(moved.state_dict())
            assert torch.equal(next(iter(rest))["n"], expected[3]["n"])
