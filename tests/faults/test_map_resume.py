"""`map` that was interrupted: the same call again does the rest."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiolit.errors import ConfigError, OptimizeError, WorkerDiedError
from aiolit.processing import functions as ld
from aiolit.processing.journal import InputMark
from aiolit.processing.map_journal import Made, MapJournal
from aiolit.store.memory import MemoryStore

ROOT = Path(__file__).parents[2]
Options = dict[str, Any]


class Writes:
    """Writes a file for its input; fails over one of them, and writes down all."""

    def __init__(self, log: Path, index: int | None = None) -> None:
        self.log = log
        self.index = index

    def __call__(self, index: int, output_dir: str) -> None:
        with self.log.open("a") as log:
            log.write(f"{index}\n")
        if index == self.index:
            raise LookupError("once")
        if index % 5:  # some inputs give nothing
            Path(output_dir, f"part-{index % 3}").mkdir()
            Path(output_dir, f"part-{index % 3}", f"{index}.txt").write_text("x" * index)

    def seen(self) -> set[int]:
        return {int(line) for line in self.log.read_text().split()}


def expected(count: int) -> dict[str, str]:
    return {f"part-{i % 3}/{i}.txt": "x" * i for i in range(count) if i % 5}


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def attempt(fn: Any, out: Path, inputs: Any = range(100), **options: Any) -> Any:
    given: Options = {"num_workers": 1, "use_checkpoint": True, "verbose": False}
    return ld.map(fn, inputs, out, **{**given, **options})


def fail(tmp_path: Path, inputs: Any = range(100)) -> set[int]:
    """Let an attempt fail; returns what it has written down as finished."""
    with pytest.raises(LookupError, match="once"):
        attempt(Writes(tmp_path / "first", 70), tmp_path / "out", inputs)
    records = (tmp_path / "out" / ".checkpoints").glob("map-*")
    return {made[0] for each in records for made in json.loads(each.read_text())["made"]}


def test_finished_inputs_are_not_worked_on_again(tmp_path: Path) -> None:
    finished = fail(tmp_path)
    assert finished
    again = Writes(tmp_path / "again")
    summary = attempt(again, tmp_path / "out", num_workers=2, manifest="made.jsonl")
    assert finished.isdisjoint(again.seen())
    assert finished | again.seen() == set(range(100))
    found = files(tmp_path / "out")
    manifest = [json.loads(line) for line in found.pop("made.jsonl").splitlines()]
    assert found == expected(100)
    assert summary.files == tuple(sorted(found))
    assert summary.nbytes == sum(map(len, found.values()))
    assert summary.inputs == 100
    assert [each["input"] for each in manifest] == list(range(100))
    assert {name: size for each in manifest for name, size in each["files"]} == {
        name: len(text) for name, text in found.items()
    }
    assert sorted(os.listdir(tmp_path / "out")) == ["made.jsonl", "part-0", "part-1", "part-2"]


def test_another_job_is_refused(tmp_path: Path) -> None:
    fail(tmp_path)
    for options, words in (
        ({"inputs": range(101)}, "inputs=100, not 101"),
        ({"use_checkpoint": False}, "use_checkpoint=True goes on with it"),
    ):
        with pytest.raises(ConfigError, match=words):
            attempt(Writes(tmp_path / "again"), tmp_path / "out", **options)
    with pytest.raises(ConfigError, match="function='map', not 'optimize'"):
        ld.optimize(
            lambda i: i,
            range(100),
            tmp_path / "out",
            chunk_size=1,
            use_checkpoint=True,
            verbose=False,
        )
    with pytest.raises(ConfigError, match="not those of the interrupted job"):
        attempt(Writes(tmp_path / "again"), tmp_path / "out", [-1, *range(1, 100)])


def test_resuming_goes_with_error_when_not_empty(tmp_path: Path) -> None:
    fail(tmp_path)
    attempt(Writes(tmp_path / "again"), tmp_path / "out", error_when_not_empty=True)
    assert files(tmp_path / "out") == expected(100)
    with pytest.raises(ConfigError, match="not empty"):
        attempt(Writes(tmp_path / "again"), tmp_path / "out", error_when_not_empty=True)


class Buffers:
    """Writes all inputs since the last file when it is told that one is the last."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark
        self.held: list[int] = []

    def __call__(self, index: int, output_dir: str, is_last: bool) -> None:
        self.held.append(index)
        if index == 37 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if is_last:
            Path(output_dir, f"{index}.txt").write_text(",".join(map(str, self.held)))
            self.held = []


def buffered(folder: Path) -> list[int]:
    texts = files(folder).values()
    return sorted(int(number) for text in texts for number in text.split(","))


def test_what_a_killed_worker_held_is_not_lost(tmp_path: Path) -> None:
    attempt(Buffers(tmp_path / "died"), tmp_path / "out", num_workers=2, max_retries=1)
    assert (tmp_path / "died").exists()
    assert buffered(tmp_path / "out") == list(range(100))


def test_what_an_interrupted_job_held_is_not_lost(tmp_path: Path) -> None:
    with pytest.raises(WorkerDiedError):
        attempt(Buffers(tmp_path / "died"), tmp_path / "out", num_workers=2)
    attempt(Buffers(tmp_path / "died"), tmp_path / "out", num_workers=3)
    assert buffered(tmp_path / "out") == list(range(100))


def test_two_inputs_with_files_of_one_name(tmp_path: Path) -> None:
    def same(index: int, output_dir: str) -> None:
        Path(output_dir, f"{index % 7}.txt").touch()

    with pytest.raises(OptimizeError, match=r"inputs 0 and 7 both wrote '0.txt'"):
        attempt(same, tmp_path / "out", use_checkpoint=False)


@pytest.mark.parametrize("name", ["", "/etc/x", "../x", "a//b"])
def test_a_manifest_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="manifest"):
        attempt(Writes(tmp_path / "log"), tmp_path / "out", manifest=name)
    assert not (tmp_path / "log").exists()


def test_a_manifest_that_an_input_has_written(tmp_path: Path) -> None:
    def same(index: int, output_dir: str) -> None:
        Path(output_dir, f"{index}.txt").touch()

    with pytest.raises(OptimizeError, match=r"input 7 wrote '7\.txt', the name of the manifest"):
        attempt(same, tmp_path / "out", manifest="7.txt")


def test_a_reserved_name(tmp_path: Path) -> None:
    def wrong(index: int, output_dir: str) -> None:
        Path(output_dir, ".checkpoints").mkdir()
        Path(output_dir, ".checkpoints", "x").touch()

    with pytest.raises(ConfigError, match="a name aiolit needs itself"):
        attempt(wrong, tmp_path / "out", use_checkpoint=False)


JOB = """
    import os, signal, sys
    from pathlib import Path
    import aiolit

    def fn(index, output_dir):
        Path(output_dir, f"{index}.txt").write_text(str(index))
        if index == 60:
            os.write(1, b"working\\n")
            while True:
                signal.pause()

    aiolit.map(fn, range(100), sys.argv[1], num_workers=2, use_checkpoint=True, verbose=False)
"""


def start_and_kill(out: Path, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(JOB))
    with subprocess.Popen(
        [sys.executable, str(script), str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "working\n"
        process.kill()
        process.wait(30)


def test_a_killed_job_is_finished_and_its_work_folder_removed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    start_and_kill(out, tmp_path)
    assert list(out.glob(".aiolit-map-*"))

    def fn(index: int, output_dir: str) -> None:
        Path(output_dir, f"{index}.txt").write_text(str(index))

    attempt(fn, out, num_workers=2)
    assert files(out) == {f"{index}.txt": str(index) for index in range(100)}
    assert not list(out.glob(".*"))


class TestMapJournal:
    """Once a second, or when there are many."""

    def journal(self, store: MemoryStore, clock: Iterator[float]) -> MapJournal:
        return MapJournal(store, lambda: InputMark(5, "abc"), clock=lambda: next(clock))

    async def test_records(self) -> None:
        store = MemoryStore()
        journal = self.journal(store, iter([0.0, 0.5, 0.9, 1.5, 1.5, 9.0, 9.0]))
        progress = await journal.begin({"function": "map"})
        assert not progress.begun
        for index in (4, 0, 1):
            await journal.finished([Made(index, ((f"{index}.txt", 3),))])
        keys = [info.key async for info in store.list()]
        assert keys == [".checkpoints/job.json", ".checkpoints/map-00000000.json"]
        await journal.finished([Made(2, ())])
        again = self.journal(store, itertools.repeat(0.0))
        progress = await again.begin({"function": "map"})
        assert progress.done == ((0, 3), (4, 5))
        assert [each.index for each in again.made] == [4, 0, 1, 2]
        assert again.marks == [InputMark(5, "abc")] * 2
        await again.finished([Made(3, ())])
        await again.flush()
        assert len([info async for info in store.list()]) == 4
        await again.end()
        assert [info async for info in store.list()] == []

    async def test_garbage(self) -> None:
        store = MemoryStore()
        await store.put(".checkpoints/map-00000000.json", b"{}")
        with pytest.raises(ConfigError, match="no checkpoint record"):
            await self.journal(store, itertools.repeat(0.0)).begin({})
