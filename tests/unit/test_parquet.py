"""Parquet files as chunks: rows, row groups, columns, footers, damage."""

from __future__ import annotations

import datetime
import io
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aiolit.errors import ChunkFormatError, ConfigError, IndexFormatError
from aiolit.format.dataset_info import ChunkInfo, DatasetConfig, Index
from aiolit.format.loader import default_loader
from aiolit.format.parquet import (
    ROW_GROUPS,
    ParquetBound,
    ParquetFooter,
    ParquetLoader,
    Shelf,
    SparseFile,
    footer_nbytes,
)
from aiolit.format.serializers.registry import SerializerRegistry

ROWS = 100
GROUPS = [7, 40, 1, 52]


def table() -> pa.Table:
    numbers = range(ROWS)
    return pa.table(
        {
            "id": list(numbers),
            "text": [f"row {n}" * (n % 5) for n in numbers],
            "with.dot": [[n, None] for n in numbers],
            "with": [{"dot": n, "when": datetime.date(2026, 1, 1 + n % 28)} for n in numbers],
            "raw": [bytes([n]) if n % 3 else None for n in numbers],
        }
    )


def file_of(rows: pa.Table, groups: list[int], **options: Any) -> bytes:
    out = io.BytesIO()
    with pq.ParquetWriter(out, rows.schema, **options) as writer:
        first = 0
        for count in groups:
            writer.write_table(rows.slice(first, count), row_group_size=max(count, 1))
            first += count
    return out.getvalue()


DATA = file_of(table(), GROUPS)
EXPECTED = table().to_pylist()


def chunk_of(data: bytes, rows: int = ROWS, groups: Any = None) -> ChunkInfo:
    extra = {} if groups is None else {ROW_GROUPS: groups}
    return ChunkInfo(filename="a.parquet", num_items=rows, nbytes=len(data), extra=extra)


def bound(loader: ParquetLoader, *chunks: ChunkInfo) -> ParquetBound:
    index = Index(chunks=chunks, config=DatasetConfig(item_loader="ParquetLoader"))
    return loader.bind(index, registry=SerializerRegistry(), source="index.json")


@pytest.mark.parametrize("low_memory", [True, False])
@pytest.mark.parametrize("pre_load", [True, False])
def test_rows_of_uneven_row_groups(low_memory: bool, pre_load: bool) -> None:
    loader = ParquetLoader(pre_load, low_memory)
    reader = bound(loader).open(memoryview(DATA), chunk_of(DATA), "a.parquet")
    assert [reader.sample(index) for index in range(ROWS)] == EXPECTED
    order = [99, 0, 47, 48, 46, 7, 6, 0]
    assert reader.samples(order) == [EXPECTED[index] for index in order]
    assert reader.samples([]) == []
    for wrong in (-1, ROWS):
        with pytest.raises(ChunkFormatError, match="no row"):
            reader.sample(wrong)


def test_columns_come_in_the_order_asked_for() -> None:
    columns = ["with.dot", "id"]
    loader = ParquetLoader(columns=columns)
    assert pickle.loads(pickle.dumps(loader)).columns == ("with.dot", "id")
    reader = bound(loader).open(memoryview(DATA), chunk_of(DATA), "a.parquet")
    row = reader.sample(47)
    assert list(row) == columns
    assert row == {"with.dot": [47, None], "id": 47}
    with pytest.raises(ConfigError, match=r"'text2', only id, text"):
        bound(ParquetLoader(columns=["text2"])).open(memoryview(DATA), chunk_of(DATA), "a")


@pytest.mark.parametrize("columns", [None, ["id"], ["with.dot"], ["with"], ["raw", "text"]])
@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}, {"use_dictionary": False}])
def test_a_row_group_is_decoded_from_its_ranges_alone(
    columns: list[str] | None, options: dict[str, Any]
) -> None:
    data = file_of(table(), GROUPS, **options)
    need = footer_nbytes(data[-8:], len(data), "a")
    footer = ParquetFooter(memoryview(data[-need:]), len(data), "a", columns)
    assert footer.rows == tuple(GROUPS)
    for group, rows in enumerate(GROUPS):
        ranges = footer.ranges(group)
        extents = [(lo, memoryview(data)[lo:hi]) for lo, hi in ranges]
        found = footer.decode(group, extents).to_pylist()
        first = footer.first_of(group)
        expected = EXPECTED[first : first + rows]
        names = columns or list(EXPECTED[0])
        assert found == [{name: row[name] for name in names} for row in expected]
        if columns == ["id"]:
            assert len(ranges) == 1
            with pytest.raises(ChunkFormatError, match="none of a column's"):
                footer.decode(group, [(lo, view[:-1]) for lo, view in extents])


def test_groups_of_ranges_of_rows() -> None:
    footer = ParquetFooter(memoryview(DATA), len(DATA), "a")
    assert footer.groups(0, 7) == range(1)
    assert footer.groups(6, 8) == range(2)
    assert footer.groups(47, 48) == range(2, 3)
    assert footer.groups(0, ROWS) == range(4)
    assert footer.groups(5, 5) == range(0)


def test_empty_files_and_empty_groups() -> None:
    data = file_of(table().slice(0, 5), [0, 3, 0, 2])
    reader = bound(ParquetLoader()).open(memoryview(data), chunk_of(data, 5), "a")
    assert reader.samples(range(5)) == EXPECTED[:5]
    empty = file_of(table().slice(0, 0), [])
    bound(ParquetLoader()).open(memoryview(empty), chunk_of(empty, 0), "a")


def test_decoded_row_groups_are_kept_up_to_a_limit() -> None:
    tables = [pa.table({"a": list(range(100))}) for _ in range(4)]
    shelf = Shelf(2 * tables[0].nbytes)
    for number, one in enumerate(tables[:2]):
        shelf.put(("f", number), one)
    assert shelf.get(("f", 0)) is tables[0]
    shelf.put(("f", 2), tables[2])
    assert shelf.get(("f", 1)) is None
    assert shelf.get(("f", 0)) is tables[0]
    small = Shelf(1)
    small.put(("f", 0), tables[0])
    assert small.get(("f", 0)) is tables[0]
    small.put(("f", 1), tables[1])
    assert small.get(("f", 0)) is None


def test_readers_share_what_is_decoded() -> None:
    loader = bound(ParquetLoader())
    first = loader.open(memoryview(DATA), chunk_of(DATA), "a")
    second = loader.open(memoryview(DATA), chunk_of(DATA), "a")
    assert not second.pin(1)
    first.sample(10)
    assert second.pin(1)
    assert second.table_of(1) is first.table_of(1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no Parquet file"),
        (b"PAR1", "no Parquet file"),
        (DATA[:-1], "no Parquet file"),
        (b"x" * 100, "no Parquet file"),
        (b"PAR1" + b"\xff\xff\xff\x7fPAR1", "does not fit"),
        (b"PAR1" + bytes(20) + b"\x10\0\0\0PAR1", "damaged"),
        (DATA[:-8] + b"\x40\0\0\0PAR1", "damaged"),
    ],
)
def test_damaged_files_are_named(data: bytes, message: str) -> None:
    with pytest.raises(ChunkFormatError, match=message) as caught:
        bound(ParquetLoader()).open(memoryview(data), chunk_of(data), "folder/a.parquet")
    assert "folder/a.parquet" in str(caught.value)


def test_damaged_pages_are_named() -> None:
    data = file_of(table(), GROUPS, write_page_checksum=False)
    broken = data[:4] + b"\xff" * 40 + data[44:]
    reader = bound(ParquetLoader()).open(memoryview(broken), chunk_of(data), "folder/a.parquet")
    with pytest.raises(ChunkFormatError, match=r"folder/a\.parquet"):
        reader.sample(0)


def test_a_replaced_file_is_noticed() -> None:
    with pytest.raises(ChunkFormatError, match=r"index says 99.*index the data set again"):
        bound(ParquetLoader()).open(memoryview(DATA), chunk_of(DATA, 99), "a")


@pytest.mark.parametrize("groups", [[99], [-1, 101], "100", [50.0, 50.0], [True] * 100, {}])
def test_row_groups_of_an_index_are_checked(groups: Any) -> None:
    with pytest.raises(IndexFormatError, match=r"chunks\[0\]\.row_groups"):
        bound(ParquetLoader(), chunk_of(DATA, ROWS, groups))


def test_row_groups_of_an_index() -> None:
    with_groups, without = chunk_of(DATA, ROWS, GROUPS), chunk_of(DATA)
    loader = bound(ParquetLoader(), with_groups, without)
    assert loader.row_groups(with_groups) == GROUPS
    assert loader.row_groups(without) == (ROWS,)


@pytest.mark.parametrize(
    "arguments",
    [
        {"columns": "id"},
        {"columns": []},
        {"columns": [1]},
        {"columns": ["id", "id"]},
        {"low_memory": None},
        {"pre_load_chunk": 1},
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ParquetLoader(**arguments)


def test_what_a_parquet_loader_does_not_do() -> None:
    loader = ParquetLoader()
    with pytest.raises(ConfigError, match="only reads"):
        loader.encoder(SerializerRegistry())
    with pytest.raises(ConfigError, match="row groups"):
        bound(loader).open_range(memoryview(b""), 0, 0, None, chunk_of(DATA), "a")
    index = Index(chunks=(), config=DatasetConfig(item_loader="TokensLoader"))
    with pytest.raises(ConfigError, match="TokensLoader"):
        loader.bind(index, registry=SerializerRegistry(), source="index.json")


def test_it_is_the_default_for_its_indexes() -> None:
    config = DatasetConfig(item_loader="ParquetLoader")
    assert isinstance(default_loader(config, source="index.json"), ParquetLoader)


def test_a_sparse_file() -> None:
    file = SparseFile(100, [(10, memoryview(bytes(range(10, 30)))), (90, memoryview(b"x" * 10))])
    assert (file.readable(), file.seekable(), file.tell()) == (True, True, 0)
    assert file.seek(12) == 12
    assert file.read(3) == bytes([12, 13, 14])
    assert file.seek(-8, io.SEEK_END) == 92
    assert file.read() == b"x" * 8
    assert file.read(1) == b""
    assert file.seek(-85, io.SEEK_CUR) == 15
    for start, count in ((0, 1), (9, 2), (29, 2), (50, 1)):
        file.seek(start)
        with pytest.raises(OSError, match="none of a column's"):
            file.read(count)


def test_pyarrow_loads_only_when_used(tmp_path: Path, run_python: Any) -> None:
    done = run_python(
        """
        import sys
        import aiolit.format.parquet, aiolit.processing.parquet_index, aiolit.streaming.item_loader
        aiolit.format.parquet.ParquetLoader(columns=["a"])
        assert "pyarrow" not in sys.modules
        """
    )
    assert done.returncode == 0, done.stderr
