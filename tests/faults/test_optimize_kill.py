"""Killed workers, killed parents, Ctrl-C: never success with a sample missing, nothing left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from aiolit.errors import WorkerDiedError
from aiolit.processing.functions import optimize
from aiolit.testing.datasets import read_dataset

ROOT = Path(__file__).parents[2]
RANGE = re.compile(r"not finished inputs? (\d+)(?: to (\d+))? \((.*?)\)")


def workers() -> list[str]:
    """Return the names of this process's workers; multiprocessing keeps children of its own."""
    names = [child.name() for child in psutil.Process().children()]
    return [name for name in names if name.startswith("aiolit-worker")]


def dies_once(mark: Path) -> Callable[[int], int]:
    """Return a function whose worker is killed on input 300, the first time only."""

    def fn(index: int) -> int:
        if index == 300 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return index

    return fn


def dies(index: int) -> int:
    if index == 300:
        os.kill(os.getpid(), signal.SIGKILL)
    return index


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as they come"])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_killed_worker_is_an_error_that_names_its_inputs(
    num_workers: int, ordered: bool, tmp_path: Path
) -> None:
    with pytest.raises(WorkerDiedError, match=r"SIGKILL.*not finished input") as caught:
        optimize(
            dies,
            range(1000),
            tmp_path / "out",
            chunk_size=10,
            num_workers=num_workers,
            keep_data_ordered=ordered,
            verbose=False,
        )
    first, last, shown = RANGE.search(str(caught.value)).groups()  # type: ignore[union-attr]
    assert int(first) <= 300 <= int(last or first)
    assert shown.split(", ")[0] == first
    assert shown.split(", ")[-1] == (last or first)
    assert list(tmp_path.rglob("*.*")) == []
    assert workers() == []


def test_the_inputs_of_a_killed_worker_are_shown(tmp_path: Path) -> None:
    def dies_over(path: str) -> str:
        if path == "c.jpg":
            os.kill(os.getpid(), signal.SIGKILL)
        return path

    with pytest.raises(WorkerDiedError, match=r"not finished input 2 \('c.jpg'\)\. If it was"):
        optimize(
            dies_over,
            ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
            tmp_path / "out",
            chunk_size=1,
            num_workers=1,
            verbose=False,
        )


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as they come"])
@pytest.mark.parametrize("num_workers", [1, 3])
def test_a_fresh_worker_takes_over(num_workers: int, ordered: bool, tmp_path: Path) -> None:
    optimize(
        dies_once(tmp_path / "died"),
        range(1000),
        tmp_path / "out",
        chunk_size=10,
        num_workers=num_workers,
        keep_data_ordered=ordered,
        max_retries=1,
        verbose=False,
    )
    samples = read_dataset(tmp_path / "out")
    assert (samples if ordered else sorted(samples)) == list(range(1000))


def test_a_generator_goes_on_where_its_worker_was_killed(tmp_path: Path) -> None:
    """Half of the input's samples are in chunks already: none of them comes twice."""
    mark = tmp_path / "died"

    def many(index: int) -> Iterator[tuple[int, bytes]]:
        for k in range(100):
            if (index, k) == (1, 60) and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield index, bytes([k]) * 100_000

    optimize(
        many,
        range(4),
        tmp_path / "out",
        chunk_bytes="1MB",
        num_workers=2,
        max_retries=1,
        verbose=False,
    )
    assert [(index, data[0]) for index, data in read_dataset(tmp_path / "out")] == [
        (index, k) for index in range(4) for k in range(100)
    ]


def test_retries_end(tmp_path: Path) -> None:
    with pytest.raises(WorkerDiedError, match="attempt 3"):
        optimize(
            dies,
            range(400),
            tmp_path / "out",
            chunk_size=10,
            num_workers=2,
            max_retries=2,
            verbose=False,
        )


def test_the_last_words_of_a_failing_worker_are_heard(tmp_path: Path) -> None:
    """A worker that ends with messages of ours unread has still said why."""

    def fails(index: int) -> int:
        if index == 77:
            raise KeyError("boom")
        return index

    for _ in range(10):
        with pytest.raises(KeyError, match="boom"):
            optimize(
                fails,
                range(1000),
                tmp_path / "out",
                chunk_size=10,
                num_workers=2,
                verbose=False,
            )


JOB = """
    import os, signal, sys
    import aiolit.processing.functions as ld

    def fn(index):
        if index == 210:
            os.write(1, b"working\\n")
            while True:
                signal.pause()
        return index

    print("begin", flush=True)
    try:
        inputs = iter(range(100_000))
        ld.optimize(fn, inputs, sys.argv[1], chunk_size=10, num_workers=2, verbose=False)
    finally:
        print("finally", flush=True)
"""


@contextmanager
def running_job(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run the job in an interpreter of its own; yields once its workers are busy."""
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(JOB))
    spool = tmp_path / "tmp"
    spool.mkdir()
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(spool)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begin\n"
            assert process.stdout.readline() == "working\n"
            yield process
        finally:
            process.kill()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    workers: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    return workers


def test_ctrl_c(tmp_path: Path) -> None:
    with running_job(tmp_path) as process:
        workers = family(process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
        stdout, stderr = process.communicate(timeout=30)
        assert process.returncode not in (0, None)
        assert "finally" in stdout
        assert "KeyboardInterrupt" in stderr
        assert "Process" not in stderr
        assert not psutil.wait_procs(workers, timeout=10)[1]
    assert list(tmp_path.glob("out/*")) == []
    assert list(tmp_path.glob("tmp/*")) == []


def test_a_killed_worker_of_a_script_ends_it_with_an_error(tmp_path: Path) -> None:
    with running_job(tmp_path) as process:
        workers = family(process)
        workers[0].kill()
        stdout, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "WorkerDiedError" in stderr
        assert "SIGKILL" in stderr
        assert "finally" in stdout
        assert not psutil.wait_procs(workers, timeout=10)[1]
    assert list(tmp_path.glob("out/*")) == []


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    with running_job(tmp_path) as process:
        workers = family(process)
        process.kill()
        process.communicate(timeout=30)
        assert not psutil.wait_procs(workers, timeout=10)[1]
    assert not (tmp_path / "out" / "index.json").exists()
