"""`use_checkpoint`: whatever is killed, the same call again finishes the very same data set."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any, Protocol

import pytest

from aiolit.errors import ConfigError
from aiolit.format.index import parse_index
from aiolit.format.loader import PyTreeLoader
from aiolit.format.serializers import SerializerRegistry
from aiolit.processing.functions import optimize


class Finished(Protocol):
    returncode: int
    stderr: str


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str) -> Finished: ...


def read(folder: Path) -> list[Any]:
    index = parse_index((folder / "index.json").read_bytes(), source=str(folder))
    loader = PyTreeLoader().bind(index, registry=SerializerRegistry(), source=str(folder))
    samples: list[Any] = []
    for chunk in index.chunks:
        data = memoryview((folder / chunk.filename).read_bytes())
        reader = loader.open(data, chunk, chunk.filename)
        samples += [reader.sample(number) for number in range(chunk.num_items)]
    return samples


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.name.endswith("unfinished"):  # of the killed process, half written
            continue
        data = path.read_bytes()
        if path.name == "index.json":
            index = json.loads(data)
            del index["updated_at"]
            data = json.dumps(index).encode()
        total.update(f"{path.name} {len(data)}".encode() + data)
    return total.hexdigest()


# Each attempt writes down the inputs it worked on; the given input ends the whole family, once.
JOB = """
    import os, signal, sys, time
    from pathlib import Path
    from aiolit.processing.functions import optimize

    out, kind, ordered, num_workers, deadly = sys.argv[1:]
    here = Path(out).parent

    def work(index):
        with open(here / f"log-{os.getpid()}", "a") as log:
            log.write(f"{index}\\n")
        mark = here / f"died-{deadly}"
        if index == int(deadly) and not mark.exists():
            mark.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        return index

    def function(index):
        return {"i": work(index), "text": "x" * (index % 7)}

    def slow(index):
        time.sleep(0.005)
        return work(index)

    def generator(index):
        for k in range(index % 6):
            yield {"i": index, "k": k}
            if k == 2:
                work(index)

    optimize(
        globals()[kind],
        range(600),
        out,
        chunk_size=10,
        num_workers=int(num_workers),
        keep_data_ordered=ordered == "True",
        use_checkpoint=True,
        verbose=False,
    )
"""


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as they come"])
@pytest.mark.parametrize("kind", ["function", "generator"])
def test_kill_everything_twice(
    run_python: RunPython, kind: str, ordered: bool, tmp_path: Path
) -> None:
    attempts = [("2", "201"), ("3", "401"), ("1", "-1")]
    for num_workers, deadly in attempts:
        finished = run_python(JOB, str(tmp_path / "out"), kind, str(ordered), num_workers, deadly)
        expected = 0 if deadly == "-1" else -signal.SIGKILL
        assert finished.returncode == expected, finished.stderr
        assert (tmp_path / "out" / "index.json").exists() == (deadly == "-1")
    whole = tmp_path / "whole"
    whole.mkdir()
    assert run_python(JOB, str(whole / "out"), kind, "True", "2", "-1").returncode == 0
    if ordered:
        assert digest(tmp_path / "out") == digest(whole / "out")
    else:
        key = json.dumps
        assert sorted(read(tmp_path / "out"), key=key) == sorted(read(whole / "out"), key=key)
    assert not (tmp_path / "out" / ".checkpoints").exists()


def test_done_work_is_not_done_again(run_python: RunPython, tmp_path: Path) -> None:
    for num_workers, deadly in (("1", "400"), ("1", "-1")):
        run_python(JOB, str(tmp_path / "out"), "slow", "True", num_workers, deadly)
    logs = [set(path.read_text().split()) for path in tmp_path.glob("log-*")]
    assert len(logs) == 2
    # Lost: an unfinished chunk, and what a worker did in its last tenth of a second or so.
    assert len(logs[0] & logs[1]) < 100


def test_a_failure_keeps_the_checkpoint(tmp_path: Path) -> None:
    mark = tmp_path / "failed"

    def fails_once(index: int) -> int:
        if index == 555 and not mark.exists():
            mark.touch()
            raise LookupError("once")
        return index

    def attempt(**options: Any) -> Any:
        return optimize(
            fails_once,
            range(800),
            tmp_path / "out",
            chunk_size=10,
            num_workers=2,
            use_checkpoint=True,
            verbose=False,
            **options,
        )

    with pytest.raises(LookupError):
        attempt()
    assert (tmp_path / "out" / ".checkpoints" / "job.json").exists()
    with pytest.raises(ConfigError, match="keep_data_ordered=True, not False"):
        attempt(keep_data_ordered=False)
    summary = attempt()
    assert summary.samples == 800
    assert read(tmp_path / "out") == list(range(800))


def test_append_with_a_checkpoint(tmp_path: Path) -> None:
    mark = tmp_path / "failed"

    def fails_once(index: int) -> int:
        if index == 555 and not mark.exists():
            mark.touch()
            raise LookupError("once")
        return index

    for first, last in ((0, 100), (100, 800), (100, 800)):
        try:
            optimize(
                fails_once,
                list(range(first, last)),
                tmp_path / "out",
                chunk_size=10,
                num_workers=2,
                mode="append",
                use_checkpoint=True,
                verbose=False,
            )
        except LookupError:
            assert read(tmp_path / "out") == list(range(100))
    assert read(tmp_path / "out") == list(range(800))
    assert not (tmp_path / "out" / ".checkpoints").exists()
