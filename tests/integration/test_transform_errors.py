"""An error of the user's transform says of which sample it came, and stays the error it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiolit import StreamingDataLoader, StreamingDataset, StreamingRawDataset
from aiolit.testing.datasets import write_dataset

pytestmark = pytest.mark.keeps_open("environment", reason="torch's handler of SIGCHLD")


def picky(sample: Any) -> Any:
    if sample in (13, b"13"):
        raise KeyError("lable")
    return sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data", list(range(20)), chunk_size=5)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.txt").write_bytes(b"%d" % number)
    return folder


def notes(caught: pytest.ExceptionInfo[KeyError]) -> list[str]:
    return [note for note in caught.value.__notes__ if note.startswith("while transform")]


def test_iterating_and_asking(folder: Path) -> None:
    dataset = StreamingDataset(folder, transform=picky)
    for read in (lambda: list(dataset), lambda: dataset[13], lambda: dataset[10:15]):
        with pytest.raises(KeyError, match="lable") as caught:
            read()
        assert notes(caught) == ["while transform was called for sample 3 of chunk-0-2.bin"]


@pytest.mark.parametrize("workers", [0, 1])
def test_in_a_loader(folder: Path, workers: int) -> None:
    loader = StreamingDataLoader(
        StreamingDataset(folder, transform=picky), batch_size=4, num_workers=workers
    )
    with pytest.raises(KeyError) as caught:
        list(loader)
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "while transform was called for sample 3 of chunk-0-2.bin" in told


def test_raw_files(files: Path, tmp_path: Path) -> None:
    dataset = StreamingRawDataset(files, cache_dir=str(tmp_path / "cache"), transform=picky)
    wanted = [f"while transform was called for {files}/13.txt"]
    for read in (lambda: list(dataset), lambda: dataset[13], lambda: dataset[[1, 13]]):
        with pytest.raises(KeyError) as caught:
            read()
        assert notes(caught) == wanted
