"""Readers: Parquet files by row groups, and readers of one's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aiolit.errors import ChunkFormatError, ConfigError, MissingDependencyError
from aiolit.processing.async_functions import optimize as async_optimize
from aiolit.processing.functions import map as run_map
from aiolit.processing.functions import optimize
from aiolit.processing.readers import BaseReader, ParquetReader
from aiolit.testing.datasets import read_dataset


def rows(first: int, count: int) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table({"id": list(numbers), "text": [f"row {n}" for n in numbers]})


@pytest.fixture
def parquet_files(tmp_path: Path) -> list[str]:
    """Give three files with row groups of 10: 35 rows, none, 20."""
    paths = []
    for name, first, count in (("a", 0, 35), ("b", 0, 0), ("c", 35, 20)):
        paths.append(str(tmp_path / f"{name}.parquet"))
        pq.write_table(rows(first, count), paths[-1], row_group_size=10)
    return paths


def each_row(table: pa.Table) -> Iterator[dict[str, Any]]:
    yield from table.to_pylist()


EXPECTED = rows(0, 55).to_pylist()


class TestParquetReader:
    @pytest.mark.parametrize(
        ("num_rows", "parts"),
        [(25, [20, 15, 20]), (1, [10, 10, 10, 5, 10, 10]), (None, [35, 20]), (65536, [35, 20])],
    )
    def test_row_groups_are_put_together(
        self, num_rows: int | None, parts: list[int], parquet_files: list[str]
    ) -> None:
        reader = ParquetReader(num_rows=num_rows)
        items = reader.remap_items(parquet_files, 2)
        assert [item.num_rows for item in items] == parts
        assert [reader.read(item).num_rows for item in items] == parts
        assert reader.read(items).to_pylist() == EXPECTED

    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_optimize(self, num_workers: int, parquet_files: list[str], tmp_path: Path) -> None:
        optimize(
            each_row,
            parquet_files,
            tmp_path / "out",
            chunk_size=7,
            num_workers=num_workers,
            reader=ParquetReader(num_rows=10),
            verbose=False,
        )
        assert read_dataset(tmp_path / "out") == EXPECTED

    async def test_async_functions_and_callers(
        self, parquet_files: list[str], tmp_path: Path
    ) -> None:
        async def fn(table: pa.Table) -> Any:
            for row in table.to_pylist():
                await asyncio.sleep(0)
                yield row

        await async_optimize(
            fn,
            parquet_files,
            tmp_path / "out",
            chunk_size=7,
            num_workers=1,
            reader=ParquetReader(num_rows=10),
            verbose=False,
        )
        assert read_dataset(tmp_path / "out") == EXPECTED

    def test_map_with_columns_and_filters(self, parquet_files: list[str], tmp_path: Path) -> None:
        def fn(table: pa.Table, output_dir: str) -> None:
            if table.num_rows:
                Path(output_dir, f"{table['id'][0]}.txt").write_text(f"{table.to_pydict()}")

        run_map(
            fn,
            parquet_files,
            tmp_path / "out",
            num_workers=1,
            reader=ParquetReader(num_rows=20, columns=["id"], filters=[("id", ">=", 33)]),
            verbose=False,
        )
        found = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
        assert found == {
            "33.txt": "{'id': [33, 34]}",
            "35.txt": f"{{'id': {list(range(35, 55))}}}",
        }

    def test_a_resumed_job_compares_row_groups(
        self, parquet_files: list[str], tmp_path: Path
    ) -> None:
        def attempt(files: list[str], *, fails: bool) -> None:
            def fn(table: pa.Table) -> Iterator[Any]:
                if fails and table["id"][0].as_py() == 45:
                    raise LookupError("once")
                yield from table.to_pylist()

            optimize(
                fn,
                files,
                tmp_path / "out",
                chunk_size=1,
                num_workers=1,
                reader=ParquetReader(num_rows=1),
                use_checkpoint=True,
                verbose=False,
            )

        with pytest.raises(LookupError, match="once"):
            attempt(parquet_files, fails=True)
        with pytest.raises(ConfigError, match="interrupted job"):
            attempt(parquet_files[::-1], fails=False)
        attempt(parquet_files, fails=False)
        assert read_dataset(tmp_path / "out") == EXPECTED

    def test_refused(self, parquet_files: list[str], tmp_path: Path) -> None:
        def attempt(inputs: list[Any], reader: ParquetReader) -> None:
            optimize(each_row, inputs, tmp_path / "out", chunk_size=1, reader=reader, verbose=False)

        (tmp_path / "text").write_text("no Parquet file")
        with pytest.raises(ConfigError, match="paths or URLs of Parquet files, not 3"):
            attempt([3], ParquetReader())
        with pytest.raises(FileNotFoundError, match=r"none\.parquet"):
            attempt([str(tmp_path / "none.parquet")], ParquetReader())
        with pytest.raises(ChunkFormatError, match="text"):
            attempt([str(tmp_path / "text")], ParquetReader())
        with pytest.raises(ConfigError, match="no column 'size'"):
            attempt(parquet_files, ParquetReader(columns=["size"]))
        with pytest.raises(ConfigError, match="have no rows"):
            attempt(parquet_files[1:2], ParquetReader())
        with pytest.raises(ConfigError, match="num_rows"):
            ParquetReader(num_rows=0)
        with pytest.raises(ConfigError, match="list of names"):
            ParquetReader(columns="id")
        assert not (tmp_path / "out").exists()

    def test_data_frames_need_pandas(self, parquet_files: list[str]) -> None:
        reader = ParquetReader(to_pandas=True)
        part = reader.remap_items(parquet_files, 1)[0]
        try:
            frame = reader.read(part)
        except MissingDependencyError as error:
            assert "pip install 'pandas'" in str(error)  # noqa: PT017  either is right
        else:
            assert len(frame) == 35


class OneAtATime(BaseReader):
    """Counts who reads at once; a reader need not be safe to use from many threads."""

    def __init__(self) -> None:
        self.busy = False

    def remap_items(self, items: list[Any], num_workers: int) -> list[Any]:
        return items[::-1]

    def read(self, item: Any) -> tuple[Any, bool, str]:
        clash, self.busy = self.busy, True
        self.busy = False
        return item, clash, threading.current_thread().name


def test_a_reader_of_an_async_function_does_not_hold_up_its_loop(tmp_path: Path) -> None:
    async def fn(value: tuple[Any, bool, str]) -> Any:
        item, clash, thread = value
        return item, clash, thread == threading.current_thread().name

    optimize(
        fn,
        list(range(30)),
        tmp_path / "out",
        chunk_size=50,
        num_workers=1,
        reader=OneAtATime(),
        verbose=False,
    )
    assert read_dataset(tmp_path / "out") == [(i, False, False) for i in reversed(range(30))]
