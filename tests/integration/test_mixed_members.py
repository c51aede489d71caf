"""Mixtures of members of every kind: chunks, raw files, Parquet, tuples and mixtures."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aiolit import (
    CombinedStreamingDataset,
    ParallelStreamingDataset,
    ParquetLoader,
    StreamingDataLoader,
    StreamingDataset,
    StreamingRawDataset,
    index_parquet_dataset,
)
from aiolit.errors import ConfigError

pytestmark = pytest.mark.keeps_open(
    *("threads", "environment"), reason="the portal's threads; torch's handler of SIGCHLD"
)


class WriteDataset(Protocol):
    def __call__(
        self, samples: Any, *, chunk_size: int, name: str = "data", **options: Any
    ) -> Path: ...


@pytest.fixture
def members(write_dataset: WriteDataset, tmp_path: Path) -> list[Any]:
    raw, tables = tmp_path / "raw", tmp_path / "tables"
    raw.mkdir()
    tables.mkdir()
    for number in range(13):
        (raw / f"{number:02}.txt").write_text(f"raw {number}")
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(17)]}), tables / "0.parquet")
    index_parquet_dataset(str(tables))
    chunks = write_dataset([f"chunk {i}" for i in range(30)], chunk_size=7)
    one, other = (write_dataset(range(9), chunk_size=4, name=name) for name in ("one", "other"))
    return [
        StreamingDataset(chunks, shuffle=True),
        StreamingRawDataset(str(raw), cache_dir=str(tmp_path / "cache"), save_index=False),
        StreamingDataset(tables, item_loader=ParquetLoader()),
        ParallelStreamingDataset([StreamingDataset(one), StreamingDataset(other)]),
        CombinedStreamingDataset([StreamingDataset(one), StreamingDataset(other)]),
    ]


def plain(sample: Any) -> str:
    """Write a sample of any of the members as text."""
    if isinstance(sample, bytes):
        return sample.decode()
    return str(sample["text"] if isinstance(sample, dict) else sample)


def listed(samples: list[Any]) -> list[str]:
    return [plain(sample) for sample in samples]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_sample_of_every_kind_once(members: list[Any], num_workers: int) -> None:
    loader = StreamingDataLoader(
        CombinedStreamingDataset(members), batch_size=8, num_workers=num_workers, collate_fn=listed
    )
    expected = Counter(f"chunk {i}" for i in range(30))
    expected.update(f"raw {i}" for i in range(13))
    expected.update(f"row {i}" for i in range(17))
    expected.update(str((i, i)) for i in range(9))
    expected.update(str(i) for i in range(9))
    expected.update(str(i) for i in range(9))
    assert Counter(sample for batch in loader for sample in batch) == expected
    assert len(loader) == -(-expected.total() // 8)


def test_resumed_in_the_middle(members: list[Any]) -> None:
    loader = StreamingDataLoader(CombinedStreamingDataset(members), batch_size=5, collate_fn=listed)
    batches = iter(loader)
    begun = [next(batches) for _ in range(7)]
    state = loader.state_dict()
    rest = list(batches)
    again = StreamingDataLoader(CombinedStreamingDataset(members), batch_size=5, collate_fn=listed)
    again.load_state_dict(state)
    assert list(again) == rest
    assert len(begun) + len(rest) == -(-87 // 5)


def test_tuples_of_raw_files_and_chunks(members: list[Any]) -> None:
    pairs = list(ParallelStreamingDataset(members[:2]))
    assert sorted(text.decode() for _, text in pairs) == sorted(f"raw {i}" for i in range(13))
    assert {sample.partition(" ")[0] for sample, _ in pairs} == {"chunk"}


@pytest.mark.parametrize("kind", [CombinedStreamingDataset, ParallelStreamingDataset])
def test_what_is_no_member(kind: Any, members: list[Any]) -> None:
    with pytest.raises(ConfigError, match="streaming data sets, not list"):
        kind([members[0], [1, 2, 3]])
    with pytest.raises(ConfigError, match="at least one"):
        kind([])
