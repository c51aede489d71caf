"""`use_checkpoint`: whatever is killed, the same call again finishes the very same data set."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest

from aiolit import StreamingDataset
from aiolit.errors import ConfigError, OptimizeError
from aiolit.format.encryption import FernetEncryption
from aiolit.processing.functions import merge_datasets, optimize
from aiolit.processing.journal import Progress, Record
from aiolit.processing.summary import Summary
from aiolit.testing.datasets import read_dataset


class Finished(Protocol):
    returncode: int
    stdout: str
    stderr: str


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str) -> Finished: ...


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        data = path.read_bytes()
        if path.name == "index.json":
            index = json.loads(data)
            del index["updated_at"]
            data = json.dumps(index).encode()
        total.update(f"{path.name} {len(data)}".encode() + data)
    return total.hexdigest()


# The given input ends the whole family, once.
JOB = """
    import os, signal, sys
    from pathlib import Path
    from aiolit.processing.functions import optimize

    out, kind, ordered, num_workers, deadly = sys.argv[1:]
    here = Path(out).parent

    def work(index):
        mark = here / f"died-{deadly}"
        if index == int(deadly) and not mark.exists():
            mark.touch()
            os.kill(os.getppid(), signal.SIGKILL)
            signal.pause()
        return index

    def function(index):
        return {"i": work(index), "text": "x" * (index % 7)}

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
        assert sorted(read_dataset(tmp_path / "out"), key=key) == sorted(
            read_dataset(whole / "out"), key=key
        )
    assert not (tmp_path / "out" / ".checkpoints").exists()


class FailsAt:
    """Returns its input; fails over one of them, and writes down all."""

    def __init__(self, folder: Path, index: int | None) -> None:
        self.folder = folder
        self.index = index

    def __call__(self, index: int) -> int:
        with (self.folder / f"log-{self.index}").open("a") as log:
            log.write(f"{index}\n")
        if index == self.index:
            raise LookupError("once")
        return index

    def seen(self) -> set[int]:
        return {int(line) for line in (self.folder / f"log-{self.index}").read_text().split()}


def attempt(fn: FailsAt, inputs: Any = range(800), **options: Any) -> Summary:
    # One worker: what it says first is stored, but for the last chunks, when it says that it fails.
    given = {"num_workers": 1, "chunk_size": 10, "use_checkpoint": True, "verbose": False}
    return optimize(fn, inputs, fn.folder / "out", **{**given, **options})


def fail(folder: Path, index: int, inputs: Any = range(800), **options: Any) -> Progress:
    """Let an attempt fail; returns what it has finished."""
    with pytest.raises(LookupError, match="once"):
        attempt(FailsAt(folder, index), inputs, **options)
    records = sorted((folder / "out" / ".checkpoints").glob("chunk-*"))
    return Progress.of(Record.parse(each.read_bytes(), source=each.name) for each in records)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as they come"])
def test_done_work_is_not_done_again(ordered: bool, tmp_path: Path) -> None:
    done = fail(tmp_path, 555, keep_data_ordered=ordered)
    assert done.num_done > 200
    fn = FailsAt(tmp_path, None)
    summary = attempt(fn, keep_data_ordered=ordered, num_workers=3)
    assert not [index for index in fn.seen() if done.is_done(index)]
    assert (summary.samples, summary.inputs) == (800, 800)
    found = read_dataset(tmp_path / "out")
    assert (found if ordered else sorted(found)) == list(range(800))


def test_another_job_is_refused(tmp_path: Path) -> None:
    fail(tmp_path, 555)
    before = digest(tmp_path / "out")
    for options, words in (
        ({"keep_data_ordered": False}, "keep_data_ordered=True, not False"),
        ({"chunk_size": 20}, "chunk_size=10, not 20"),
        ({"inputs": range(801)}, "inputs=800, not 801"),
        ({"use_checkpoint": False}, "use_checkpoint=True goes on with it"),
        ({"use_checkpoint": False, "mode": "append"}, "use_checkpoint=True goes on with it"),
    ):
        with pytest.raises(ConfigError, match=words):
            attempt(FailsAt(tmp_path, None), **options)
    with pytest.raises(ConfigError, match="use_checkpoint=True goes on with it"):
        merge_datasets([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert digest(tmp_path / "out") == before


CHANGES: dict[str, Callable[[list[int]], Any]] = {
    "first": lambda items: [-1, *items[1:]],
    "one in the middle": lambda items: [*items[:123], -1, *items[124:]],
    "order": lambda items: items[::-1],
    "moved by one": lambda items: [-1, *items[:-1]],
    "a generator": lambda items: (item for item in [*items[:123], -1, *items[124:]]),
    "a shorter generator": lambda items: (item for item in items[:150]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_inputs_are_refused(change: str, tmp_path: Path) -> None:
    items = list(range(800))
    lazily = "generator" in change
    fail(tmp_path, 555, iter(items) if lazily else items)
    with pytest.raises(ConfigError, match="the interrupted job"):
        attempt(FailsAt(tmp_path, None), CHANGES[change](items), num_workers=2)
    attempt(FailsAt(tmp_path, None), iter(items) if lazily else items)
    assert read_dataset(tmp_path / "out") == items


def test_a_chunk_that_is_gone_is_made_again(tmp_path: Path) -> None:
    fail(tmp_path, 555)
    (tmp_path / "out" / "chunk-0-7.bin").unlink()
    (tmp_path / "out" / "chunk-0-9.bin").write_bytes(b"short")
    attempt(FailsAt(tmp_path, None))
    assert read_dataset(tmp_path / "out") == list(range(800))


def test_an_interrupted_job_can_be_given_up(tmp_path: Path) -> None:
    fail(tmp_path, 555)
    attempt(FailsAt(tmp_path, None), range(30), use_checkpoint=False, mode="overwrite")
    assert read_dataset(tmp_path / "out") == list(range(30))
    assert not (tmp_path / "out" / ".checkpoints").exists()


def test_skipped_inputs_of_an_earlier_attempt_are_in_the_summary(tmp_path: Path) -> None:
    mark = tmp_path / "failed"

    def fn(index: int) -> int:
        if index == 555 and not mark.exists():
            mark.touch()
            raise KeyboardInterrupt
        if index % 100 == 50:
            raise LookupError(index)
        return index

    job: dict[str, Any] = {
        "chunk_size": 10,
        "num_workers": 1,
        "use_checkpoint": True,
        "on_error": "skip",
        "verbose": False,
    }
    with pytest.raises(OptimizeError, match="KeyboardInterrupt"):
        optimize(fn, range(800), tmp_path / "out", **job)
    summary = optimize(fn, range(800), tmp_path / "out", **job)
    assert [each.index for each in summary.skipped] == list(range(50, 800, 100))
    assert [each.error for each in summary.skipped][:2] == ["LookupError: 50", "LookupError: 150"]
    assert summary.samples == 792


def test_ctrl_c_keeps_what_is_done(run_python: RunPython, tmp_path: Path) -> None:
    script = """
        import os, signal, sys
        import aiolit

        def fn(index):
            if index == 555:
                os.kill(os.getppid(), signal.SIGINT)
                while True:
                    signal.pause()
            return index

        try:
            aiolit.optimize(
                fn, range(800), sys.argv[1], chunk_size=10, num_workers=1, use_checkpoint=True
            )
        except KeyboardInterrupt:
            print("interrupted")
    """
    assert run_python(script, str(tmp_path / "out")).stdout == "interrupted\n"
    assert not (tmp_path / "out" / "index.json").exists()
    assert (tmp_path / "out" / ".checkpoints" / "job.json").exists()
    assert attempt(FailsAt(tmp_path, None)).samples == 800
    assert read_dataset(tmp_path / "out") == list(range(800))


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
            assert read_dataset(tmp_path / "out") == list(range(100))
    assert read_dataset(tmp_path / "out") == list(range(800))
    assert not (tmp_path / "out" / ".checkpoints").exists()


# Ends at a file operation: at that one of those of its kind in the folder of the checkpoint.
OPERATIONS = """
    import os, signal, sys
    from aiolit.processing.functions import optimize

    out, mode, event, number = sys.argv[1:]
    left = int(number)

    def end(name, arguments):
        global left
        if name == event and ".checkpoints" in str(arguments[0]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def skips(index):
        if index == 77:
            raise LookupError("a bad one")
        return index

    sys.addaudithook(end)
    optimize(
        skips,
        range(100, 200) if mode == "append" else range(100),
        out,
        mode=None if mode == "None" else mode,
        chunk_size=10,
        num_workers=1,
        use_checkpoint=True,
        on_error="skip",
        verbose=False,
    )
"""


def skips(index: int) -> int:
    if index == 77:
        raise LookupError("a bad one")
    return index


@pytest.mark.parametrize("number", [1, 11])
@pytest.mark.parametrize("mode", [None, "append", "overwrite"])
def test_a_job_that_ended_while_it_removed_its_records_was_complete(
    run_python: RunPython, mode: str | None, number: int, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"chunk_size": 10, "num_workers": 3, "verbose": False}
    before = range(100) if mode == "append" else range(1000, 1200)
    if mode is not None:
        optimize(lambda i: i, before, out, **options)
    killed = run_python(OPERATIONS, str(out), str(mode), "os.remove", str(number))
    assert killed.returncode == -signal.SIGKILL
    index = (out / "index.json").read_bytes()
    options |= {"mode": mode, "use_checkpoint": True, "on_error": "skip"}
    inputs = range(100, 200) if mode == "append" else range(100)
    for others in ([-1, *inputs[1:]], iter([*inputs, 1]), iter(inputs[:-1])):
        with pytest.raises(ConfigError, match="interrupted job"):
            optimize(skips, others, out, **options)
    assert (out / "index.json").read_bytes() == index
    summary = optimize(skips, inputs, out, **options)
    expected = [i for i in inputs if i != 77]
    assert (summary.samples, summary.inputs) == (len(expected), 100)
    assert [each.index for each in summary.skipped] == ([] if mode == "append" else [77])
    assert (out / "index.json").read_bytes() == index
    assert read_dataset(out) == [*(range(100) if mode == "append" else ()), *expected]
    named = {each["filename"] for each in json.loads(index)["chunks"]}
    assert {path.name for path in out.iterdir()} == {"index.json", *named}
    if mode == "append":  # once more, on purpose
        optimize(skips, inputs, out, **options)
        assert read_dataset(out) == [*range(100), *inputs, *inputs]


@pytest.mark.parametrize("number", [2, 12])
def test_a_job_that_ended_while_it_wrote_a_record(
    run_python: RunPython, number: int, tmp_path: Path
) -> None:
    """The first is that of the job, the last one of what the index is going to be."""
    out = tmp_path / "out"
    killed = run_python(OPERATIONS, str(out), "None", "os.rename", str(number))
    assert killed.returncode == -signal.SIGKILL
    assert not (out / "index.json").exists()
    assert run_python(OPERATIONS, str(out), "None", "os.rename", "-1").returncode == 0
    assert read_dataset(out) == [i for i in range(100) if i != 77]


COMBINATIONS = """
    import asyncio, os, signal, sys
    import numpy as np
    from aiolit.format.encryption import FernetEncryption
    from aiolit.format.loader import TokensLoader
    from aiolit.processing.functions import optimize

    out, kind, key, num_workers, deadly = sys.argv[1:]
    left = int(deadly)

    def end(name, arguments):
        global left
        if name == "os.rename" and out in str(arguments[1]):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def documents(index):
        for part in range(index % 3):
            yield np.arange(index * 10, index * 10 + index % 37 + 1, dtype=np.int32)

    async def arriving(index):
        for part in range(index % 4):
            await asyncio.sleep(0)
            yield {"i": index, "part": part}

    async def source():
        for index in range(300):
            yield index

    def long(index):
        return {"i": index, "text": "x" * (index * 13 % 300)}

    job = {
        "tokens": dict(
            fn=documents, inputs=range(300), chunk_size=200, item_loader=TokensLoader()
        ),
        "async": dict(
            fn=arriving, inputs=iter(range(300)), chunk_size=11, keep_data_ordered=False
        ),
        "secret": dict(
            fn=long,
            inputs=range(300),
            chunk_bytes=2000,
            keep_data_ordered=False,
            compression="zstd",
            encryption=FernetEncryption.load(key, "of tests") if kind == "secret" else None,
        ),
    }[kind]
    sys.addaudithook(end)
    optimize(
        output_dir=out, num_workers=int(num_workers), use_checkpoint=True, verbose=False, **job
    )
"""


@pytest.mark.parametrize("kind", ["tokens", "async", "secret"])
def test_what_is_killed_at_its_file_operations(
    run_python: RunPython, kind: str, tmp_path: Path
) -> None:
    """Token documents, an async generator as they come, compressed and encrypted chunks."""
    out, whole, key = tmp_path / "out", tmp_path / "whole", tmp_path / "key.json"
    encryption = FernetEncryption("of tests", level="chunk")
    encryption.save(str(key))

    def call(folder: Path, num_workers: int, deadly: int) -> int:
        words = [str(each) for each in (folder, kind, key, num_workers, deadly)]
        return run_python(COMBINATIONS, *words).returncode

    for num_workers, deadly in ((2, 21), (3, 2), (1, 14)):
        assert call(out, num_workers, deadly) == -signal.SIGKILL
    assert call(out, 3, -1) == call(whole, 1, -1) == 0
    if kind == "tokens":
        assert digest(out) == digest(whole)
        return
    options: dict[str, Any] = {"encryption": encryption} if kind == "secret" else {}
    found = [list(StreamingDataset(str(each), **options)) for each in (out, whole)]
    assert sorted(found[0], key=json.dumps) == sorted(found[1], key=json.dumps)
    named = {each["filename"] for each in json.loads((out / "index.json").read_bytes())["chunks"]}
    assert {path.name for path in out.iterdir()} == {"index.json", *named}
