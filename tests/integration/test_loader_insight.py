"""Statistics, verdicts, traces, profiles, and samples that cannot be read."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Protocol

import pytest

import aiolit
from aiolit import StreamingDataLoader, StreamingDataset
from aiolit.debugger import disable_tracer, enable_tracer
from aiolit.errors import ChecksumError, ConfigError
from aiolit.runtime.board import judge
from aiolit.runtime.stats import Counters
from aiolit.streaming.profiling import read_trace

pytestmark = pytest.mark.keeps_open(
    "environment", "threads", reason="torch's handler of SIGCHLD; the portal's threads"
)


class WriteDataset(Protocol):
    def __call__(
        self, samples: Any, *, chunk_size: int, name: str = "data", **options: Any
    ) -> Path: ...


@pytest.mark.parametrize("num_workers", [0, 2])
def test_statistics_of_all_workers(
    num_workers: int, write_dataset: WriteDataset, tmp_path: Path
) -> None:
    folder = write_dataset([{"i": i, "s": str(i)} for i in range(100)], chunk_size=10)
    dataset = StreamingDataset(f"local:{folder}", cache_dir=tmp_path / "cache", shuffle=True)
    loader = StreamingDataLoader(dataset, batch_size=7, num_workers=num_workers)
    assert sum(len(batch["s"]) for batch in loader) == 100
    first = loader.stats()
    size = sum(path.stat().st_size for path in folder.glob("*.bin"))
    assert first["samples"] == 100
    assert first["batches"] == 15
    assert 0 < first["bytes_fetched"] <= 1.1 * size
    assert first["cache_misses"] >= 10
    assert 0 < first["loop_wait_seconds"] <= first["loop_seconds"]
    assert first["verdict"].split("-bound")[0] in ("network", "decode", "data", "consumer")
    if num_workers == 0:  # counters live as long as the process that counts
        assert sum(len(batch["s"]) for batch in loader) == 100
        assert loader.stats()["bytes_fetched"] == first["bytes_fetched"]
    json.dumps(first)


@pytest.mark.parametrize(
    ("counters", "waited_s", "bound"),
    [
        (Counters(wait_seconds=8, requests=1), 8.0, "network"),
        (Counters(wait_seconds=8), 8.0, "data"),  # nothing was fetched: it was the disk
        (Counters(decode_seconds=8, wait_seconds=1), 8.0, "decode"),
        (Counters(collate_seconds=8), 8.0, "data"),
        (Counters(wait_seconds=8), 0.5, "consumer"),
    ],
)
def test_verdicts(counters: Counters, waited_s: float, bound: str) -> None:
    verdict = judge(counters, waited_s, 10.0)
    assert verdict.bound == bound
    assert str(verdict).startswith(f"{bound}-bound: ")


def check_trace(events: list[dict[str, Any]]) -> None:
    """What Perfetto and chrome://tracing ask of complete events and of names of rows.

    Times are in microseconds; spans in one row (process and thread) lie side by side or inside each
    other; every row and process has a name before its first span.
    """
    processes, rows = set(), set()
    spans: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        row = event["pid"], event["tid"]
        if event["ph"] == "M":
            assert event["args"]["name"]
            if event["name"] == "process_name":
                processes.add(event["pid"])
            else:
                assert event["name"] == "thread_name"
                rows.add(row)
            continue
        assert event["ph"] == "X"
        assert event["name"]
        assert event["dur"] >= 0
        assert event["pid"] in processes
        assert row in rows
        spans.setdefault(row, []).append((event["ts"], event["ts"] + event["dur"]))
    for found in spans.values():
        inside: list[float] = []
        for began, ended in sorted(found, key=lambda span: (span[0], -span[1])):
            while inside and inside[-1] <= began:
                inside.pop()
            assert not inside or ended <= inside[-1]
            inside.append(ended)


def test_a_trace_of_all_workers_in_one_file(write_dataset: WriteDataset, tmp_path: Path) -> None:
    folder = write_dataset([{"i": i, "s": str(i)} for i in range(60)], chunk_size=10)
    path = tmp_path / "trace.json"
    enable_tracer(path)
    try:
        dataset = StreamingDataset(f"local:{folder}", cache_dir=tmp_path / "cache")
        list(StreamingDataLoader(dataset, batch_size=5, num_workers=2))
        list(StreamingDataLoader(dataset, batch_size=5))
    finally:
        disable_tracer()
    events = read_trace(path)
    spans = [event for event in events if event["ph"] == "X"]
    assert {event["cat"] for event in spans} >= {"fetch", "decode", "collate", "wait"}
    assert len({event["pid"] for event in spans}) == 3
    check_trace(events)
    processes = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert processes == {"main process", "loader worker 0", "loader worker 1"}
    # Viewers take the array without its end; with one it is plain JSON.
    assert json.loads(path.read_text().rstrip().rstrip(",") + "]") == events


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str, timeout_s: float = 60) -> Any: ...


def test_a_trace_outlives_kills(
    run_python: RunPython, write_dataset: WriteDataset, tmp_path: Path
) -> None:
    """It can be read while it grows, when a worker was killed, and when all of them were."""
    folder = write_dataset([{"i": i, "s": str(i)} for i in range(200)], chunk_size=10)
    path = tmp_path / "trace.json"
    found = run_python(
        """
        import json, multiprocessing, os, signal, sys
        import aiolit
        from aiolit.streaming.profiling import read_trace

        folder, cache, path = sys.argv[1:]
        aiolit.enable_tracer(path)
        dataset = aiolit.StreamingDataset("local:" + folder, cache_dir=cache)
        options = {"batch_size": 5, "num_workers": 2, "multiprocessing_context": "fork"}
        try:
            # Lists of plain values: torch hands tensors over by a socket, which a kill resets.
            it = aiolit.StreamingDataLoader(dataset, collate_fn=list, **options)
            for number, batch in enumerate(it):
                if number == 3:
                    print(len(read_trace(path)), flush=True)
                    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        except RuntimeError as error:
            assert "killed" in str(error) or "exited unexpectedly" in str(error), error
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's raises again
        for number, batch in enumerate(aiolit.StreamingDataLoader(dataset, batch_size=5)):
            if number == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        """,
        str(folder),
        str(tmp_path / "cache"),
        str(path),
    )
    assert found.returncode == -signal.SIGKILL, found.stderr
    text = path.read_text()
    assert text.startswith("[\n")
    assert text.endswith("},\n")  # no event is torn
    events = read_trace(path)
    assert len(events) == text.count("\n") - 1
    assert 0 < int(found.stdout) < len(events)
    check_trace(events)
    assert len({event["pid"] for event in events if event["ph"] == "X"}) == 3


def test_categories_and_levels(write_dataset: WriteDataset, tmp_path: Path) -> None:
    folder = write_dataset([{"i": i, "s": str(i)} for i in range(60)], chunk_size=10)

    def traced(name: str, **options: Any) -> list[dict[str, Any]]:
        path = tmp_path / f"{name}.json"
        enable_tracer(path, **options)
        try:
            dataset = StreamingDataset(f"local:{folder}", cache_dir=tmp_path / name)
            list(StreamingDataLoader(dataset, batch_size=5))
        finally:
            disable_tracer()
        events = read_trace(path)
        check_trace(events)
        return [event for event in events if event["ph"] == "X"]

    assert {event["cat"] for event in traced("some", categories=["decode"])} == {"decode"}
    plain = [event for event in traced("plain") if event["cat"] == "fetch"]
    debug = [event for event in traced("debug", level="debug") if event["cat"] == "fetch"]
    assert {event["name"] for event in plain} < {event["name"] for event in debug}
    assert "read" in {event["name"] for event in debug}


def test_a_trace_of_chunks_that_are_written(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    enable_tracer(path, categories=["optimize"])
    try:
        aiolit.optimize(
            str, [1, 2, 3, 4], tmp_path / "out", chunk_size=2, num_workers=1, verbose=False
        )
    finally:
        disable_tracer()
    events = read_trace(path)
    check_trace(events)
    names = [event["name"] for event in events if event["ph"] == "X"]
    assert sorted(names) == ["chunk-0-0.bin", "chunk-0-1.bin"]


def test_trace_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no trace categories \\['fetsch'\\]"):
        enable_tracer(tmp_path / "t.json", categories=["fetsch"])
    with pytest.raises(ConfigError, match="no trace level 'loud'"):
        enable_tracer(tmp_path / "t.json", level="loud")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cannot be written"):
        enable_tracer(tmp_path / "missing" / "t.json")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_profile_of_some_batches(
    num_workers: int, write_dataset: WriteDataset, tmp_path: Path
) -> None:
    folder = write_dataset([str(i) for i in range(60)], chunk_size=10)
    loader = StreamingDataLoader(
        StreamingDataset(folder),
        batch_size=5,
        num_workers=num_workers,
        profile_batches=4,
        profile_skip_batches=2,
        profile_dir=tmp_path,
    )
    assert len(list(loader)) == 12
    events = json.loads((tmp_path / "result.json").read_text())["traceEvents"]
    assert "profiled batches" in {event["name"] for event in events}
    assert not (tmp_path / "result.json.part").exists()
    (tmp_path / "result.json").unlink()
    list(loader)  # only the first iteration is profiled
    assert not (tmp_path / "result.json").exists()


def test_profile_refuses_what_is_no_number(write_dataset: WriteDataset) -> None:
    folder = write_dataset(range(5), chunk_size=5)
    with pytest.raises(ConfigError, match="profile_skip_batches must be a whole number"):
        StreamingDataLoader(StreamingDataset(folder), profile_batches=2, profile_skip_batches=-1)


@pytest.mark.parametrize("prefix", ["", "local:"])
def test_damaged_samples_are_replaced_where_that_is_allowed(
    prefix: str, write_dataset: WriteDataset, tmp_path: Path
) -> None:
    samples = [{"i": i, "x": bytes(1200)} for i in range(120)]
    folder = write_dataset(samples, chunk_size=10)
    damaged = folder / "chunk-0-3.bin"
    data = bytearray(damaged.read_bytes())
    data[600] ^= 1  # in sample 30
    damaged.write_bytes(data)
    (folder / "chunk-0-7.bin").unlink()
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "shuffle": True}
    dataset = StreamingDataset(f"{prefix}{folder}", **options, on_error="skip")
    with pytest.warns(UserWarning, match="samples are skipped: .*chunk-0-"):
        batches = list(StreamingDataLoader(dataset, batch_size=8, collate_fn=list))
    assert [len(batch) for batch in batches] == [8] * 15
    seen = {sample["i"] for batch in batches for sample in batch}
    missing = set(range(120)) - seen
    assert set(range(70, 80)) <= missing <= {*range(30, 40), *range(70, 80)}
    assert dataset.stats()["skipped"] == len(missing)
    with pytest.raises((ChecksumError, OSError, ValueError), match=r"chunk-0-[37]"):
        list(StreamingDataset(f"{prefix}{folder}", **options))
