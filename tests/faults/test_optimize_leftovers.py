"""What killed jobs left half written goes with the next job; what others are at stays."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiolit.processing import functions as ld
from aiolit.processing.async_functions import Writer, merge_datasets
from aiolit.store.local import LocalStore
from aiolit.store.owned import OwnedFolder

ROOT = Path(__file__).parents[2]

OTHER = """
    import asyncio, signal, sys
    from pathlib import Path
    from aiolit.store.local import LocalStore
    from aiolit.store.owned import OwnedFolder

    async def begin():
        out = Path(sys.argv[1])
        for folder in (out, out / ".checkpoints"):
            upload = await LocalStore(folder).open_upload("chunk-0-0.bin")
            await upload.append(memoryview(b"half of it"))
        work = OwnedFolder(".aiolit-map-", out)
        (work.path / "made").touch()
        print("begun", flush=True)
        while True:
            signal.pause()

    asyncio.run(begin())
"""


@contextmanager
def another_job(out: Path, tmp_path: Path) -> Iterator[None]:
    """Have another process at work on files of the folder; it is killed at the end."""
    script = tmp_path / "other.py"
    script.write_text(textwrap.dedent(OTHER))
    with subprocess.Popen(
        [sys.executable, str(script), str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            yield
        finally:
            process.kill()


def hidden(out: Path) -> list[str]:
    return sorted(
        path.name.rpartition("-")[0] if path.is_dir() else path.suffix
        for path in [*out.glob(".*"), *out.glob(".checkpoints/.*")]
        if path.name != ".checkpoints"
    )


ALL = [".aiolit-map", ".aiolit-unfinished", ".aiolit-unfinished"]


def write(out: Path, **options: Any) -> None:
    ld.optimize(lambda i: i, range(5), out, chunk_size=2, num_workers=1, verbose=False, **options)


@pytest.mark.parametrize("mode", [None, "append", "overwrite"])
def test_optimize(mode: str | None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with another_job(out, tmp_path):
        write(out)
        assert hidden(out) == ALL
    (out / "index.json").unlink()
    write(out, mode=mode)
    assert hidden(out) == [".aiolit-map"]  # not of this kind of job
    assert not list(out.glob(".checkpoints/.*"))


def test_map(tmp_path: Path) -> None:
    def fn(index: int, output_dir: str) -> None:
        Path(output_dir, f"{index}.txt").touch()

    out = tmp_path / "out"
    with another_job(out, tmp_path):
        ld.map(fn, range(3), out, num_workers=1, verbose=False)
        assert hidden(out) == ALL
    ld.map(fn, range(3), out, num_workers=1, verbose=False, error_when_not_empty=False)
    assert hidden(out) == []


async def test_writer_and_merge(tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    with another_job(out, tmp_path):
        async with Writer(out, chunk_size=2) as writer:
            await writer.put(1)
        assert hidden(out) == ALL
    async with Writer(out, chunk_size=2, mode="append") as writer:
        await writer.put(1)
    assert hidden(out) == [".aiolit-map"]
    with another_job(other, tmp_path):
        pass
    assert hidden(other) == ALL
    await merge_datasets([out, out], other)
    assert hidden(other) == [".aiolit-map"]


def test_what_is_held_is_not_abandoned(tmp_path: Path) -> None:
    with another_job(tmp_path / "out", tmp_path):
        assert LocalStore(tmp_path / "out").remove_abandoned("", ".checkpoints") == 0
    assert LocalStore(tmp_path / "out").remove_abandoned("", ".checkpoints") == 2
    assert LocalStore(tmp_path / "none").remove_abandoned("") == 0


def test_a_folder_without_a_lock_is_nobodys_to_remove(tmp_path: Path) -> None:
    """Its maker may be about to lock it; and a name alone proves nothing."""
    (tmp_path / "work-1").mkdir()
    (tmp_path / "work-2").mkdir()
    (tmp_path / "work-2" / ".lock").touch()
    folder = OwnedFolder("work-", tmp_path)
    assert (tmp_path / "work-1").exists()
    assert not (tmp_path / "work-2").exists()
    another = OwnedFolder("work-", tmp_path)
    assert folder.path.exists()
    for each in (folder, another, folder):
        each.remove()
    assert sorted(os.listdir(tmp_path)) == ["work-1"]
