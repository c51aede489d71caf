"""Loaders whose workers are real processes: forked amid things, killed, sharing a cache.

Each case is a script in an interpreter of its own with a hard timeout.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest

from aiolit.cache.ledger import Ledger, disk_bytes
from aiolit.testing.cache_folder import cache_disk_usage
from aiolit.testing.datasets import write_dataset

COUNT, PER_CHUNK = 240, 10
CHUNK = PER_CHUNK * 4100
EMPTY = 61_440  # what the limit sets aside for the book and two folders on a usual file system

COMMON = """
    import itertools, json, os, signal, sys
    from aiolit.streaming.dataloader import StreamingDataLoader
    from aiolit.streaming.dataset import StreamingDataset

    def numbers(samples):
        return [one["n"] for one in samples]

    def flat(batches):
        return [n for batch in batches for n in batch]

    def dataset(**options):
        options = {"shuffle": True, "cache_dir": sys.argv[2], **options}
        return StreamingDataset("local:" + sys.argv[1], **options)

    def loader(of, **options):
        options = {"batch_size": 8, "num_workers": 2, "collate_fn": numbers, **options}
        return StreamingDataLoader(of, **options)

    COUNT = 240
    EVERY = list(range(COUNT))
"""


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str, timeout_s: float = 60) -> Any: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    samples = [{"n": n, "x": np.random.default_rng(n).bytes(4000)} for n in range(COUNT)]
    return write_dataset(tmp_path_factory.mktemp("set"), samples, chunk_size=PER_CHUNK)


@pytest.fixture
def script(tmp_path: Path, folder: Path, run_python: RunPython) -> Any:
    def run(source: str) -> str:
        found = run_python(COMMON + source, str(folder), str(tmp_path / "cache"))
        assert found.returncode == 0, found.stdout + found.stderr
        assert "Traceback" not in found.stderr
        text: str = found.stdout
        return text

    return run


def test_forked_in_the_middle_of_an_iteration(script: Any) -> None:
    """The parent has open chunks, a running loop and a cache when its workers are forked."""
    script("""
    one = dataset()
    stream = iter(one)
    first = [next(stream)["n"] for _ in range(30)]
    assert sorted(flat(loader(dataset(), multiprocessing_context="fork"))) == EVERY
    assert sorted(first + [one["n"] for one in stream]) == EVERY
    """)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_workers_that_live_on(script: Any, method: str) -> None:
    """Persistent workers go on with the next epoch, and read it from the cache."""
    text = script(f"""
    if __name__ == "__main__":
        kept = loader(dataset(), persistent_workers=True, multiprocessing_context="{method}")
        epochs = [flat(kept) for _ in range(3)]
        assert all(sorted(epoch) == EVERY for epoch in epochs)
        assert len({{tuple(epoch) for epoch in epochs}}) == 3
        again = loader(dataset(), multiprocessing_context="fork")
        assert epochs == [flat(again) for _ in range(3)]
        print("done")
    """)
    assert "done" in text


def test_a_killed_worker_is_an_error_at_once(script: Any) -> None:
    """And the next iteration is a whole epoch."""
    script("""
    import multiprocessing
    it = loader(dataset(), multiprocessing_context="fork")
    try:
        for number, batch in enumerate(it):
            if number == 3:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    except RuntimeError as error:
        assert "killed" in str(error) or "exited unexpectedly" in str(error), error
    else:
        raise AssertionError("nobody noticed")
    assert sorted(flat(it)) == EVERY
    """)


def test_a_loader_in_a_loader_process(script: Any) -> None:
    """A process made by multiprocessing that has a loader with workers of its own."""
    script("""
    import multiprocessing

    def child():
        assert sorted(flat(loader(dataset(), multiprocessing_context="fork"))) == EVERY

    assert dataset()[3]["n"] == 3
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(50)
    assert process.exitcode == 0
    """)


# ---- jobs that share a cache -------------------------------------------------------------------

JOB = """
    rank, limit, epochs = (int(word) for word in sys.argv[3:6])
    of = dataset(max_cache_size=limit, rank=rank, world_size=2, seed=int(sys.argv[6]))
    it = loader(of, multiprocessing_context="fork")
    for _ in range(epochs):
        print(json.dumps(flat(it)), flush=True)
"""


class Job:
    """A rank of a job with two workers."""

    def __init__(self, script: Path, folder: Path, cache: Path, rank: int, *rest: int) -> None:
        root = Path(__file__).parent.parent.parent
        words = [str(script), str(folder), str(cache), str(rank), *map(str, rest)]
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(root), "PYTHONFAULTHANDLER": "1"},
            text=True,
            start_new_session=True,
        )

    def epochs(self) -> list[list[int]]:
        stdout, stderr = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, stderr
        return [json.loads(line) for line in stdout.splitlines()]

    def kill(self) -> None:
        """Kill it, and its workers, as the system does when memory is short."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


class Jobs:
    """Two-rank jobs on one cache folder with room for three chunks."""

    def __init__(self, tmp_path: Path, folder: Path) -> None:
        self._script, self.cache = tmp_path / "job.py", tmp_path / "cache"
        self._script.write_text(textwrap.dedent(COMMON + JOB))
        self._folder = folder
        self.limit = EMPTY + 3 * disk_bytes(CHUNK + 1000)
        self.running: list[Job] = []

    def start(self, seed: int, epochs: int = 2) -> list[Job]:
        ranks = [
            Job(self._script, self._folder, self.cache, rank, self.limit, epochs, seed)
            for rank in (0, 1)
        ]
        self.running += ranks
        return ranks

    def watch(self, ranks: list[Job]) -> int:
        """Look at the folder until the ranks have ended; return the most that lay there."""
        peak = 0
        while any(rank.process.poll() is None for rank in ranks):
            peak = max(peak, cache_disk_usage(self.cache))
        return peak

    def close(self) -> None:
        for job in self.running:
            if job.process.poll() is None:
                job.kill()
            for pipe in (job.process.stdout, job.process.stderr):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def jobs(tmp_path: Path, folder: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path, folder)
    yield made
    made.close()


def check(ranks: list[Job]) -> list[list[list[int]]]:
    """Both ranks together read every sample once in each epoch."""
    found = [rank.epochs() for rank in ranks]
    for one, two in zip(*found, strict=True):
        assert sorted(one + two) == list(range(COUNT))
    return found


def test_two_jobs_share_a_cache(jobs: Jobs) -> None:
    """Two jobs of two ranks of two workers: nobody waits for ever, and the limit is kept."""
    one, two = jobs.start(seed=1), jobs.start(seed=2)
    assert 0 < jobs.watch([*one, *two]) <= jobs.limit
    assert check(one) != check(two)
    assert sum(Ledger(jobs.cache).paths().values()) <= jobs.limit


def test_one_of_two_jobs_is_killed(jobs: Jobs) -> None:
    doomed, kept = jobs.start(seed=1, epochs=50), jobs.start(seed=2, epochs=3)
    assert doomed[0].process.stdout is not None
    doomed[0].process.stdout.readline()  # it is in the midst of it
    for rank in doomed:
        rank.kill()
    assert jobs.watch(kept) <= jobs.limit
    check(kept)
    later = jobs.start(seed=2, epochs=3)
    assert jobs.watch(later) <= jobs.limit
    check(later)
    assert not list(jobs.cache.rglob("*.part"))
    (space,) = (path for path in jobs.cache.iterdir() if path.is_dir())
    held = {f"{space.name}/{path.name}" for path in space.iterdir()}
    assert set(Ledger(jobs.cache).paths()) == held
