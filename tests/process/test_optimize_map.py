"""`map`, `merge_datasets` and `walk` on local folders."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiolit.errors import ConfigError, DatasetNotFoundError, SchemaError, WorkerDiedError
from aiolit.format.index import parse_index
from aiolit.processing import functions as ld
from aiolit.testing.datasets import read_dataset


def write_text(index: int, output_dir: str) -> None:
    folder = Path(output_dir, f"part-{index % 3}")
    folder.mkdir()
    (folder / f"{index}.txt").write_text(str(index))


def files(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestMap:
    def test_files_are_where_they_belong(self, tmp_path: Path) -> None:
        summary = ld.map(write_text, range(30), tmp_path / "out", num_workers=2, verbose=False)
        expected = {f"part-{i % 3}/{i}.txt": str(i) for i in range(30)}
        assert files(tmp_path / "out") == expected
        assert summary.files == tuple(sorted(expected))
        assert summary.inputs == 30
        assert sorted(os.listdir(tmp_path / "out")) == ["part-0", "part-1", "part-2"]
        assert "30 files of 30 inputs" in str(summary)

    def test_async(self, tmp_path: Path) -> None:
        async def fetch(index: int, output_dir: str) -> None:
            await asyncio.sleep(0)
            write_text(index, output_dir)

        ld.map(fetch, iter(range(30)), tmp_path / "out", num_workers=1, verbose=False)
        assert len(files(tmp_path / "out")) == 30

    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_device_and_is_last(self, num_workers: int, tmp_path: Path) -> None:
        class Buffered:
            def __init__(self) -> None:
                self.held: list[int] = []

            def __call__(self, index: int, output_dir: str, device: str, is_last: bool) -> None:
                self.held.append(index)
                if is_last:
                    text = f"{device} {self.held}"
                    Path(output_dir, f"{index}.txt").write_text(text)
                    self.held = []

        ld.map(
            Buffered(), list(range(10)), tmp_path / "out", num_workers=num_workers, verbose=False
        )
        found = files(tmp_path / "out")
        if num_workers == 1:
            assert found == {"9.txt": f"cpu {list(range(10))}"}
        else:
            assert found == {"4.txt": "cpu [0, 1, 2, 3, 4]", "9.txt": "cpu [5, 6, 7, 8, 9]"}

    def test_a_failure_names_the_input_and_leaves_no_work_folder(self, tmp_path: Path) -> None:
        def fails(index: int, output_dir: str) -> None:
            if index == 7:
                raise LookupError("boom")
            write_text(index, output_dir)

        with pytest.raises(LookupError, match="boom") as caught:
            ld.map(fails, range(10), tmp_path / "out", num_workers=2, verbose=False)
        assert "input 7" in "".join(caught.value.__notes__)
        assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]
        summary = ld.map(
            fails, range(10), tmp_path / "again", num_workers=2, on_error="skip", verbose=False
        )
        assert len(summary.files) == 9
        assert [skipped.index for skipped in summary.skipped] == [7]

    def test_a_killed_worker(self, tmp_path: Path) -> None:
        def dies(index: int, output_dir: str) -> None:
            if index == 7:
                os.kill(os.getpid(), 9)

        with pytest.raises(WorkerDiedError, match="SIGKILL"):
            ld.map(dies, range(10), tmp_path / "out", num_workers=2, verbose=False)
        assert os.listdir(tmp_path / "out") == []

    def test_error_when_not_empty(self, tmp_path: Path) -> None:
        ld.map(write_text, range(3), tmp_path / "out", num_workers=1, verbose=False)
        with pytest.raises(ConfigError, match="not empty"):
            ld.map(
                write_text,
                range(3),
                tmp_path / "out",
                num_workers=1,
                error_when_not_empty=True,
                verbose=False,
            )

    def test_a_function_without_output_dir_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="an input and an output_dir"):
            ld.map(lambda index: None, range(3), tmp_path / "out", verbose=False)


def write(folder: Path, first: int, *, samples: Any = lambda i: (i, i**2), **options: Any) -> None:
    ld.optimize(
        samples,
        list(range(first, first + 25)),
        folder,
        chunk_size=10,
        num_workers=1,
        verbose=False,
        **options,
    )


class TestMerge:
    @pytest.mark.parametrize("options", [{}, {"compression": "zstd"}], ids=["plain", "zstd"])
    def test_samples_follow_each_other(self, options: dict[str, Any], tmp_path: Path) -> None:
        for name, first in (("a", 0), ("b", 25), ("c", 50)):
            write(tmp_path / name, first, **options)
        inputs = [tmp_path / name for name in "abc"]
        summary = ld.merge_datasets(inputs, tmp_path / "all", storage_options=None)
        assert summary.samples == 75
        assert summary.chunks == 9
        if not options:
            assert read_dataset(tmp_path / "all") == [(i, i**2) for i in range(75)]
        index = parse_index((tmp_path / "all" / "index.json").read_bytes(), source="")
        assert [chunk.filename for chunk in index.chunks][-1].startswith("chunk-0-8.")

    def test_what_does_not_fit_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "a", 0)
        write(tmp_path / "b", 0, samples=lambda i: (i, "text"))
        write(tmp_path / "c", 0, compression="zstd")
        with pytest.raises(SchemaError, match=r"\[1\]"):
            ld.merge_datasets([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
        with pytest.raises(ConfigError, match="compression='zstd'"):
            ld.merge_datasets([tmp_path / "a", tmp_path / "c"], tmp_path / "out")
        with pytest.raises(ConfigError, match="already"):
            ld.merge_datasets([tmp_path / "a", tmp_path / "a"], tmp_path / "c")
        with pytest.raises(ConfigError, match="itself"):
            ld.merge_datasets([tmp_path / "a", tmp_path / "c"], tmp_path / "a")
        with pytest.raises(ConfigError, match="two"):
            ld.merge_datasets([tmp_path / "a"], tmp_path / "out")
        with pytest.raises(DatasetNotFoundError, match="no finished data set"):
            ld.merge_datasets([tmp_path / "a", tmp_path / "none"], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_missing_chunk_leaves_nothing(self, tmp_path: Path) -> None:
        write(tmp_path / "a", 0)
        write(tmp_path / "b", 25)
        (tmp_path / "b" / "chunk-0-1.bin").unlink()
        with pytest.raises(FileNotFoundError, match=r"chunk-0-1\.bin"):
            ld.merge_datasets([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
        assert not list(tmp_path.glob("out/*"))


class TestWalk:
    def test_the_same_as_os_walk(self, tmp_path: Path) -> None:
        for index in range(20):
            folder = tmp_path / f"{index % 3}" / f"{index % 5}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{index}.txt").touch()
        (tmp_path / "empty").mkdir()

        def tidy(entries: Iterator[tuple[str, list[str], list[str]]]) -> list[Any]:
            return sorted(
                (path, sorted(folders), sorted(names)) for path, folders, names in entries
            )

        assert tidy(ld.walk(str(tmp_path))) == tidy(os.walk(tmp_path))

    def test_leaving_early(self, tmp_path: Path) -> None:
        for index in range(20):
            (tmp_path / f"{index}").mkdir()
        walking = ld.walk(tmp_path, max_workers=2)
        assert isinstance(next(walking)[0], str)
        walking.close()  # type: ignore[attr-defined]

    def test_no_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetNotFoundError, match="nowhere"):
            list(ld.walk(tmp_path / "nowhere"))
