"""What killed jobs left half written goes with the next job; what others are at stays."""

from __future__ import annotations

import json
import os
import signal
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
from aiolit.processing.folder_mark import FolderMark
from aiolit.store.local import LocalStore
from aiolit.store.owned import OwnedFolder
from aiolit.testing.datasets import read_dataset

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


def test_a_removal_that_is_killed_is_ended_by_the_next(tmp_path: Path) -> None:
    """The lock goes last: it is by the lock that an abandoned folder is found."""
    code = """
        import os, sys
        from pathlib import Path
        from aiolit.store.owned import OwnedFolder

        folder = OwnedFolder("work-", Path(sys.argv[1]))
        for number in range(20):
            (folder.path / f"{number:02}").mkdir()
            (folder.path / f"{number:02}" / "file").write_bytes(b"x")
        sys.addaudithook(lambda event, _: event == "os.rmdir" and os.kill(os.getpid(), 9))
        folder.remove()
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=env, timeout=60, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / ".lock").exists()
    another = OwnedFolder("work-", tmp_path)
    assert list(tmp_path.iterdir()) == [another.path]
    another.remove()
    assert not list(tmp_path.iterdir())


KILLED = """
    import os, signal, sys
    import aiolit

    out, mode, stop = sys.argv[1:]

    def fn(index):
        if index == int(stop):
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        return index

    mode = None if mode == "None" else mode
    aiolit.optimize(fn, range(400), out, chunk_size=2, num_workers=1, mode=mode, verbose=False)
"""


def kill_a_job(out: Path, mode: str | None) -> None:
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(out), str(mode), "399"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(command, env=env, timeout=60, check=False).returncode == -signal.SIGKILL


def unnamed(out: Path) -> set[str]:
    """Return the files of a data set that are neither its index nor named by it."""
    index = json.loads((out / "index.json").read_bytes())
    return set(os.listdir(out)) - {each["filename"] for each in index["chunks"]} - {"index.json"}


@pytest.mark.parametrize("mode", [None, "append", "overwrite"])
def test_chunks_of_a_killed_job(mode: str | None, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if mode is not None:
        write(out)
    (out / "chunk-theirs.bin").parent.mkdir(exist_ok=True)
    (out / "chunk-theirs.bin").touch()
    kill_a_job(out, mode)
    assert len(list(out.glob("chunk-0-*.bin"))) > 10
    write(out, mode=mode)
    assert unnamed(out) == {"chunk-theirs.bin"}
    assert read_dataset(out) == [*range(5)] * (2 if mode == "append" else 1)


def test_chunks_of_a_killed_job_go_with_one_that_writes_none(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out)
    kill_a_job(out, "append")
    ld.optimize(lambda i: None, range(5), out, chunk_size=2, mode="append", verbose=False)
    assert unnamed(out) == set()


async def test_chunks_of_a_killed_job_go_with_a_writer_and_a_merge(tmp_path: Path) -> None:
    for name in ("written", "merged"):
        kill_a_job(tmp_path / name, None)
    async with Writer(tmp_path / "written", chunk_size=2) as writer:
        await writer.put(1)
    await merge_datasets([tmp_path / "written"] * 2, tmp_path / "merged")
    assert unnamed(tmp_path / "written") == unnamed(tmp_path / "merged") == set()


def test_chunks_of_a_killed_job_stay_while_another_is_at_work(tmp_path: Path) -> None:
    """Nobody knows whose they are, until it has ended."""
    out = tmp_path / "out"
    write(out)
    kill_a_job(out, "append")
    before = unnamed(out)
    living = FolderMark(out)
    # As of a job that began before: this one removes nothing, since it is told what is wanted.
    living.leave(0, replaced=(), kept=before)
    assert {name for name in before if name.startswith("chunk")} <= unnamed(out)
    (out / "chunk-0-300.bin").touch()
    write(out, mode="append")
    assert "chunk-0-300.bin" in unnamed(out)
    living.take_away()
    write(out, mode="append")
    assert "chunk-0-300.bin" in unnamed(out)  # nor is it of a killed job


@pytest.mark.parametrize("wrong", ["a machine elsewhere", "garbage", "shares", "an index"])
def test_what_is_not_certain_stays(wrong: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out)
    kill_a_job(out, "append")
    before = unnamed(out)
    (mark,) = out.glob(".aiolit-writing-*")
    if wrong == "a machine elsewhere":
        mark.write_text(json.dumps(json.loads(mark.read_text()) | {"machine": "another"}))
    elif wrong == "garbage":
        mark.write_text("{}")
    elif wrong == "shares":
        (out / "3-index.json").touch()
    else:
        os.rename(out / "index.json", out / "kept.json")
        (out / "index.json").write_text("{")
    own = FolderMark(out)
    own.leave(0, replaced=(), kept=())
    own.take_away()
    if wrong == "an index":
        os.replace(out / "kept.json", out / "index.json")
    assert before <= unnamed(out)


def test_a_job_that_was_killed_before_it_began(tmp_path: Path) -> None:
    (tmp_path / ".aiolit-writing-x").touch()
    (tmp_path / "chunk-0-0.bin").touch()
    mark = FolderMark(tmp_path)
    for _ in range(2):  # again is harmless
        mark.leave(5, replaced=(), kept=())
        assert len(list(tmp_path.glob(".aiolit-writing-*"))) == 1
    for _ in range(2):
        mark.take_away()
        assert os.listdir(tmp_path) == ["chunk-0-0.bin"]


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
