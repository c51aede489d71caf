"""The source of the jobs of writing: as many inputs as are asked for, always the same."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contenders.job import Job, Source, marks_of, nbytes_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, two documents, two records."""
    (tmp_path / "jpegs.bin").write_bytes(b"aabbbc")
    np.save(tmp_path / "jpegs.npy", [0, 2, 5, 6])
    np.array([1, 2, 3], np.int32).tofile(tmp_path / "tokens.bin")
    np.save(tmp_path / "tokens.npy", [0, 1, 3])
    records = np.zeros(2, dtype=[("id", np.int64), ("value", np.float64)])
    records["value"] = [0.5, 1.5]
    np.save(tmp_path / "records.npy", records)
    return tmp_path


def job(folder: Path, kind: str, count: int = 0, task: str = "prepare") -> Job:
    return Job(
        task=task, kind=kind, source=str(folder), data="", count=count, cache=str(folder / "cache")
    )


def test_behind_the_last_sample_the_source_begins_again(folder: Path) -> None:
    pictures = Source(job(folder, "jpegs", count=5))
    assert [pictures(index) for index in range(len(pictures))] == [
        {"image": b"aa", "id": 0},
        {"image": b"bbb", "id": 1},
        {"image": b"c", "id": 2},
        {"image": b"aa", "id": 3},
        {"image": b"bbb", "id": 4},
    ]
    assert nbytes_of(job(folder, "jpegs"), 5) == 2 + 3 + 1 + 2 + 3


def test_documents_and_records(folder: Path) -> None:
    documents = Source(job(folder, "tokens", count=3))
    assert [documents(index).tolist() for index in range(3)] == [[1], [2, 3], [1]]
    assert nbytes_of(job(folder, "tokens"), 3) == 4 * 4
    records = Source(job(folder, "records"))
    assert len(records) == 2
    assert records(1) == {"id": 1, "value": 1.5}
    assert records.values(np.array([2, 3])).tolist() == [0.5, 1.5]
    assert nbytes_of(job(folder, "records"), 3) == 48


def test_the_first_call_of_a_writing_process_is_marked(folder: Path) -> None:
    (folder / "cache").mkdir()
    writing = job(folder, "jpegs", task="write")
    source = pickle.loads(pickle.dumps(Source(writing)))
    assert not list(marks_of(writing).iterdir())
    source(0)
    (mark,) = marks_of(writing).iterdir()
    first = mark.read_text()
    source(1)
    assert mark.read_text() == first
