"""Outputs that cannot be written, or not all of it: said at once, or with nothing left behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiolit.errors import ConfigError, StoreError
from aiolit.processing import functions as ld
from aiolit.processing.async_functions import Writer


def never(index: int, output_dir: str = "") -> int:
    raise AssertionError("no input is worked on")


def attempt(function: str, out: Path, fn: Any = never, **options: Any) -> None:
    given: dict[str, Any] = {"num_workers": 1, "verbose": False, **options}
    if function == "map":
        ld.map(fn, range(100), out, **given)
    else:
        ld.optimize(fn, range(100), out, **{"chunk_bytes": "500KB", **given})


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of two megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("only one who may mount can have a disk that is full")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("function", ["optimize", "map"])
class TestFolders:
    def test_a_file_is_no_folder(self, function: str, tmp_path: Path) -> None:
        (tmp_path / "a").write_text("precious")
        for out in (tmp_path / "a", tmp_path / "a" / "b" / "c"):
            with pytest.raises(ConfigError, match="a is a file"):
                attempt(function, out)
        assert (tmp_path / "a").read_text() == "precious"

    def test_a_name_that_is_too_long(self, function: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="File name too long"):
            attempt(function, tmp_path / ("x" * 300))

    def test_a_folder_that_cannot_be_written(self, function: str, mounted: Path) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        with pytest.raises(ConfigError, match="cannot be written"):
            attempt(function, mounted / "a" / "b")

    def test_odd_names(self, function: str, tmp_path: Path) -> None:
        def write(index: int, output_dir: str = "") -> str:
            if output_dir and index % 30 == 0:
                Path(output_dir, f"名前 🎉\n{index} ü").write_text("x")
            return "名前"

        out = tmp_path / ("名" * 84) / " a ü\n"
        attempt(function, out, write)
        assert len(left(out)) == (4 if function == "map" else 2)


class TestFullDisk:
    def test_optimize(self, mounted: Path) -> None:
        def sample(index: int) -> np.ndarray:
            return np.zeros(100_000, dtype=np.uint8)

        with pytest.raises(StoreError, match="No space left on device"):
            attempt("optimize", mounted / "a", sample)
        assert left(mounted) == []
        with pytest.raises(StoreError, match="No space left on device"):
            attempt("optimize", mounted / "a", sample, use_checkpoint=True)
        assert "job.json" in left(mounted)
        assert not [name for name in left(mounted) if name.endswith("unfinished")]
        # With more room, the same call goes on.
        subprocess.run(["mount", "-o", "remount,size=64m", str(mounted)], check=True)
        attempt("optimize", mounted / "a", sample, use_checkpoint=True)
        assert left(mounted) == [*sorted(f"chunk-0-{n}.bin" for n in range(25)), "index.json"]

    def test_map(self, mounted: Path) -> None:
        def write(index: int, output_dir: str) -> None:
            Path(output_dir, f"{index}").write_bytes(bytes(100_000))

        with pytest.raises(OSError, match="No space left on device"):
            attempt("map", mounted / "a", write)
        assert not list(mounted.glob("a/.*"))

    async def test_writer(self, mounted: Path) -> None:
        async def write() -> None:
            async with Writer(mounted / "a", chunk_bytes="500KB") as writer:
                for _ in range(100):
                    await writer.put(bytes(100_000))

        with pytest.raises(StoreError, match="No space left on device"):
            await write()
        assert left(mounted) == []


class TestFilesOfMap:
    def run(self, fn: Any, out: Path) -> Any:
        return ld.map(fn, range(3), out, num_workers=1, verbose=False)

    def test_links_become_files(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").write_text("outside")

        def fn(index: int, output_dir: str) -> None:
            folder = Path(output_dir, f"{index}")
            folder.mkdir()
            (folder / "a").write_text("inside")
            (folder / "z").symlink_to("a")
            (folder / "o").symlink_to(tmp_path / "elsewhere")
            (folder / "dead").symlink_to("nowhere")

        summary = self.run(fn, tmp_path / "out")
        assert summary.files == tuple(f"{i}/{name}" for i in range(3) for name in "aoz")
        for name, text in (("a", "inside"), ("z", "inside"), ("o", "outside")):
            assert not (tmp_path / "out" / "1" / name).is_symlink()
            assert (tmp_path / "out" / "1" / name).read_text() == text

    def test_a_function_that_removes_its_folder(self, tmp_path: Path) -> None:
        def fn(index: int, output_dir: str) -> None:
            os.rmdir(output_dir)

        assert self.run(fn, tmp_path / "out").files == ()
