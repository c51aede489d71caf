"""Statistics over workers and iterations, the verdict on four kinds of runs, and who is told."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from aiolit import (
    CombinedStreamingDataset,
    StreamingDataLoader,
    StreamingDataset,
    StreamingRawDataset,
)
from aiolit.runtime.portal import Portal, portal
from aiolit.testing.faulty_server import Answer, Asked, FaultyServer

pytestmark = pytest.mark.keeps_open(
    "environment", "threads", reason="torch's handler of SIGCHLD; the portal's threads"
)

COUNT, BATCH = 60, 5
ROUND_TRIP_S = 0.3


class WriteDataset(Protocol):
    def __call__(
        self, samples: Any, *, chunk_size: int, name: str = "data", **options: Any
    ) -> Path: ...


@pytest.fixture
def folder(write_dataset: WriteDataset) -> Path:
    return write_dataset([f"text {number}" for number in range(COUNT)], chunk_size=10)


def burn(value: Any) -> Any:
    """Take so much CPU time that everything else of a small run is little beside it."""
    hashlib.pbkdf2_hmac("sha256", b"", b"", 20_000)
    return value


# ---- the verdict -------------------------------------------------------------------------------


@pytest.fixture
def server(folder: Path) -> Iterator[FaultyServer]:
    """A server with the data set below /data, in a thread of its own."""
    made = FaultyServer()
    made.objects = {f"/data/{path.name}": path.read_bytes() for path in folder.iterdir()}
    with Portal() as own, own.wrap_async_context_manager(made):
        yield made


def a_round_trip_later(asked: Asked) -> Answer:
    """Play a distant server."""
    came = asyncio.Event()
    asyncio.get_running_loop().call_later(ROUND_TRIP_S, came.set)
    return Answer(after=came)


def verdict(loader: StreamingDataLoader, step: Callable[[Any], Any] = len) -> str:
    for batch in loader:
        step(batch)
    found: str = loader.stats()["verdict"]
    assert found.partition("-bound: ")[2]  # and says what to do
    return found.partition("-bound: ")[0]


def test_a_run_that_waits_for_the_network(server: FaultyServer, tmp_path: Path) -> None:
    server.rule = a_round_trip_later
    dataset = StreamingDataset(f"{server.url}/data", cache_dir=tmp_path / "cache")
    assert verdict(StreamingDataLoader(dataset, batch_size=BATCH)) == "network"
    portal().call(dataset.source.aclose)


@pytest.mark.parametrize("options", [{}, {"decode_threads": 1}, {"num_workers": 1}])
def test_a_run_that_waits_for_decoding(options: dict[str, Any], folder: Path) -> None:
    dataset = StreamingDataset(folder, transform=burn)
    assert verdict(StreamingDataLoader(dataset, batch_size=BATCH, **options)) == "decode"


def test_a_run_that_waits_for_collation(folder: Path) -> None:
    def collate(samples: list[str]) -> list[str]:
        return [burn(sample) for sample in samples]

    dataset = StreamingDataset(folder)
    loader = StreamingDataLoader(dataset, batch_size=BATCH, collate_fn=collate)
    assert verdict(loader) == "data"


def test_a_run_that_computes(folder: Path) -> None:
    loader = StreamingDataLoader(StreamingDataset(folder), batch_size=BATCH)
    assert verdict(loader, lambda batch: [burn(one) for one in batch]) == "consumer"


# ---- figures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"decode_threads": 2}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}],
)
def test_figures_add_up_over_iterations(
    options: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    dataset = StreamingDataset(f"local:{folder}", cache_dir=tmp_path / "cache")
    assert dataset[0] == "text 0"  # not this loader's doing
    loader = StreamingDataLoader(dataset, batch_size=BATCH, **options)
    assert loader.stats()["samples"] == 0
    for epoch in (1, 2):
        for taken, _ in enumerate(loader, 1):
            ready = loader.stats()["batches_ready"]
            assert 0 <= ready <= COUNT // BATCH - taken
        found = loader.stats()
        assert found["samples"] == epoch * COUNT
        assert found["batches"] == epoch * COUNT // BATCH
        assert found["chunks_ahead"] == found["bytes_ahead"] == found["requests_running"] == 0
        assert found["batches_ready"] == 0
    assert found["cache_misses"] + found["cache_hits"] >= 12
    assert found["cache_misses"] <= 8
    assert found["bytes_fetched"] >= sum(path.stat().st_size for path in folder.glob("*.bin")) // 2
    assert found["fetch_seconds"] > 0
    json.dumps(found)


def test_figures_of_an_iteration_that_was_broken_off(folder: Path) -> None:
    loader = StreamingDataLoader(StreamingDataset(folder), batch_size=BATCH, num_workers=1)
    for _ in loader:
        break
    once = loader.stats()["samples"]
    assert BATCH <= once <= COUNT
    list(loader)
    assert COUNT + BATCH <= loader.stats()["samples"] <= COUNT + once + 4 * BATCH


@pytest.mark.parametrize("num_workers", [0, 1])
def test_retries_and_evictions_are_counted(
    num_workers: int, server: FaultyServer, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"cache": "memory", "max_cache_size": 400, "shuffle_window": 10}
    dataset = StreamingDataset(f"{server.url}/data", cache_dir=tmp_path / "cache", **options)
    server.answers.append(Answer(status=503))
    loader = StreamingDataLoader(dataset, batch_size=BATCH, num_workers=num_workers)
    assert sum(len(batch) for batch in loader) == COUNT
    found = loader.stats()
    assert found["retries"] == 1
    assert found["evictions"] > 0
    assert len(server.asked) == found["requests"] + 1  # the index was before
    portal().call(dataset.source.aclose)


def test_what_is_ahead_is_told_while_it_is(folder: Path, tmp_path: Path) -> None:
    dataset = StreamingDataset(f"local:{folder}", cache_dir=tmp_path / "cache")
    batches = iter(StreamingDataLoader(dataset, batch_size=BATCH, collate_fn=list))
    for _ in range(8):
        next(batches)
    assert dataset.stats()["chunks_ahead"] > 0
    assert dataset.stats()["bytes_ahead"] > 0
    list(batches)
    assert dataset.stats()["chunks_ahead"] == dataset.stats()["bytes_ahead"] == 0


def test_every_kind_of_data_set_has_figures(folder: Path, tmp_path: Path) -> None:
    def one() -> StreamingDataset:
        return StreamingDataset(f"local:{folder}", cache_dir=tmp_path / "cache")

    both = CombinedStreamingDataset([one(), one()], iterate_over_all=True)
    assert len(list(both)) == 2 * COUNT == both.stats()["samples"]
    raw = StreamingRawDataset(folder, cache_dir=tmp_path / "cache")
    assert len(list(raw)) == len(raw) == raw.stats()["samples"]
    assert raw.stats()["bytes_fetched"] == sum(path.stat().st_size for path in folder.iterdir())


# ---- who is told -------------------------------------------------------------------------------


@pytest.mark.parametrize(("every_s", "calls"), [(0.0, COUNT // BATCH + 1), (3600.0, 1)])
def test_a_function_that_is_told(every_s: float, calls: int, folder: Path) -> None:
    told: list[dict[str, Any]] = []
    loader = StreamingDataLoader(StreamingDataset(folder), batch_size=BATCH)
    loader.on_stats(told.append, every_s=every_s)
    list(loader)
    assert len(told) == calls
    assert told[-1] == loader.stats()
    loader.on_stats(None)
    list(loader)
    assert len(told) == calls


def test_what_that_function_raises_is_raised(folder: Path) -> None:
    def refuse(stats: dict[str, Any]) -> None:
        raise ValueError(f"{stats['batches']} batches")

    loader = StreamingDataLoader(StreamingDataset(folder), batch_size=BATCH)
    loader.on_stats(refuse, every_s=0)
    batches = iter(loader)
    next(batches)
    with pytest.raises(ValueError, match="batches"):
        next(batches)
