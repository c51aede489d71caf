"""Reading when fetching fails, stalls or is cancelled: a chunk's trouble is its readers' alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiolit.cache.chunks import CacheConfig, ChunkCache
from aiolit.cache.ledger import Ledger
from aiolit.errors import AccessDeniedError, ObjectChangedError, StoreUnavailableError
from aiolit.format.assemble import assemble
from aiolit.format.index import dump_index
from aiolit.format.loader import PyTreeLoader
from aiolit.format.serializers import SerializerRegistry
from aiolit.plan.stream import Piece
from aiolit.runtime.budget import ByteBudget
from aiolit.runtime.portal import portal
from aiolit.runtime.stats import Counters
from aiolit.store.base import Store
from aiolit.store.memory import MemoryStore
from aiolit.store.wrapped import WrappedStore
from aiolit.streaming.dataset import StreamingDataset
from aiolit.streaming.feed import PieceWindow
from aiolit.streaming.fetch import ChunkFetcher
from aiolit.streaming.held import Held
from aiolit.streaming.reading import held_bytes
from aiolit.streaming.run import Readers
from aiolit.streaming.topology import Topology
from aiolit.testing.datasets import write_dataset
from aiolit.testing.faulty_server import Answer, FaultyServer
from aiolit.testing.stores import Fault, FaultStore

SPACE = "0123456789abcdef-0123456789ab"
PER_CHUNK = 10


def sample(number: int) -> dict[str, Any]:
    return {"n": number, "x": np.random.default_rng(number).bytes(3000)}


class Place:
    """A data set in memory, and what fetches it through a cache."""

    def __init__(self, root: Path, samples: list[Any], limit: int | None, **options: Any) -> None:
        self.root, self._limit = root, limit
        self.index, self.files = assemble(samples, chunk_size=PER_CHUNK, **options)
        self.store = MemoryStore("memory://set")

    async def fill(self) -> Place:
        for name, data in self.files.items():
            await self.store.put(name, data)
        return self

    def fetcher(self, around: Callable[[Store], Store] = lambda store: store) -> ChunkFetcher:
        cache = ChunkCache(CacheConfig(self.root, self._limit), SPACE)
        registry = SerializerRegistry()
        bound = PyTreeLoader().bind(self.index, registry=registry, source="set")
        return ChunkFetcher(around(self.store), self.index, bound, cache, Counters())

    def left(self) -> list[str]:
        """Name what is in the cache; parts and reservations of nothing are an error."""
        files = sorted(path.name for path in (self.root / SPACE).iterdir())
        assert not [name for name in files if name.endswith(".part")]
        assert sorted(Ledger(self.root).paths()) == [f"{SPACE}/{name}" for name in files]
        return files


def whole(chunk: int) -> Piece:
    return Piece(chunk, 0, PER_CHUNK, None, PER_CHUNK)


def part(chunk: int, start: int, stop: int) -> Piece:
    return Piece(chunk, start, stop, None, stop - start)


def few(chunk: int, *samples: int) -> Piece:
    return Piece(chunk, samples[0], samples[-1] + 1, samples, len(samples))


def read(held: Held | None, index: int) -> int:
    assert held is not None
    found: int = held.reader.sample(index)["n"]
    return found


@pytest.fixture
async def place(tmp_path: Path) -> Place:
    return await Place(tmp_path, [sample(n) for n in range(50)], None).fill()


PIECES = {"whole": whole(2), "part": part(2, 3, 9), "few": few(2, 4, 7)}


# ---- one chunk fails ---------------------------------------------------------------------------


def of_key(key: str, fault: Fault) -> Callable[[str, str], Fault | None]:
    return lambda _, asked: fault if asked == key else None


@pytest.mark.parametrize("kind", PIECES)
async def test_a_failing_chunk_fails_alone(place: Place, kind: str) -> None:
    error = AccessDeniedError("no access to memory://set/chunk-0-2.bin", url="memory://set")
    faults: list[Fault | None] = [Fault(error=error, after_nbytes=5)]

    def choose(_: str, key: str) -> Fault | None:
        return faults[0] if key == "chunk-0-2.bin" else None

    fetcher = place.fetcher(lambda store: FaultStore(store, choose))
    with pytest.raises(AccessDeniedError) as caught:
        await fetcher.open_piece(PIECES[kind])
    assert caught.value is error
    assert place.left() == []
    held = await fetcher.open_piece(whole(1))
    assert read(held, 4) == 14
    faults[0] = None
    again = await fetcher.open_piece(PIECES[kind])
    assert read(again, 4) == 24
    for one in (held, again):
        assert one is not None
        one.close()


async def test_what_came_beside_a_failure_is_given_back(tmp_path: Path) -> None:
    """Compressed chunks come whole: the leases of those that arrived are closed again."""
    samples = [sample(n) for n in range(50)]
    place = await Place(tmp_path, samples, None, compression="zstd").fill()
    error = AccessDeniedError("no", url="memory://set")
    fetcher = place.fetcher(
        lambda store: FaultStore(store, of_key("chunk-0-3.zstd.bin", Fault(error=error)))
    )
    with pytest.raises(AccessDeniedError):
        await fetcher.open_samples([0, 1, 3], [0, 0, 0])
    assert set(place.left()) <= {"chunk-0-0.bin", "chunk-0-1.bin"}
    readers, held = await fetcher.open_samples([0, 1, 0], [2, 3, 2])
    found = [reader.sample(at)["n"] for reader, at in zip(readers, [2, 3, 2], strict=True)]
    assert found == [2, 13, 2]
    for one in held:
        one.close()


class Replacing(WrappedStore):
    """Replaces the object once one range of it has been read."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self._memory = inner

    async def read_into(self, key: str, start: int, out: memoryview, **rest: Any) -> str | None:
        etag = await self.inner.read_into(key, start, out, **rest)
        await self._memory.put(key, b"\1" * (await self.inner.head(key)).size)
        return etag


async def test_an_object_replaced_between_its_parts(tmp_path: Path) -> None:
    """A chunk larger than a part is fetched by several requests: all of one version."""
    samples = [{"x": np.random.default_rng(n).bytes(1 << 20)} for n in range(PER_CHUNK)]
    place = await Place(tmp_path, samples, None).fill()
    fetcher = place.fetcher(lambda _: Replacing(place.store))
    with pytest.raises(ObjectChangedError, match=r"chunk-0-0\.bin was replaced while it was read"):
        await fetcher.open_piece(whole(0))
    assert place.left() == []


# ---- cancelled ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PIECES)
async def test_cancelled_at_every_step(place: Place, kind: str) -> None:
    step, ended = 0, False
    while not ended:
        fetcher = place.fetcher()
        task = asyncio.create_task(fetcher.open_piece(PIECES[kind]))
        for _ in range(step):
            await _turn()
        ended = task.done()
        task.cancel()
        try:
            held = await task
        except asyncio.CancelledError:
            place.left()
        else:
            assert read(held, 4) == 24
            assert held is not None
            held.close()
        for name in place.left():
            (place.root / SPACE / name).unlink()
            Ledger(place.root).remove(f"{SPACE}/{name}", lambda _: True)
        step += 1
    assert step > 1


async def _turn() -> None:
    """Let others run to their next wait for a thread, and that thread end."""
    await asyncio.sleep(0)
    await asyncio.get_running_loop().run_in_executor(None, lambda: None)


async def test_cancelled_in_a_stall(place: Place) -> None:
    began = asyncio.Event()

    def choose(verb: str, _: str) -> Fault | None:
        began.set()
        return Fault(stall=True, after_nbytes=100)

    fetcher = place.fetcher(lambda store: FaultStore(store, choose))
    for piece in PIECES.values():
        began.clear()
        task = asyncio.create_task(fetcher.open_piece(piece))
        await began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert place.left() == []


# ---- the window of pieces ----------------------------------------------------------------------


class Opener:
    """Opens pieces when it is told to; counts what is open."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.open = 0
        self._gates: dict[int, asyncio.Future[None]] = {}

    def gate(self, chunk: int) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        return self._gates.setdefault(chunk, loop.create_future())

    async def __call__(self, piece: Piece) -> Held | None:
        self.asked.append(piece.chunk)
        await self.gate(piece.chunk)
        self.open += 1
        return Held(reader=None, release=self._closed)  # type: ignore[arg-type]

    def _closed(self, spent: bool) -> None:
        self.open -= 1


def window_of(opener: Opener, count: int, *, budget: int = 1000, most: int = 100) -> PieceWindow:
    pieces = [whole(chunk) for chunk in range(count)]
    return PieceWindow(pieces, [10] * count, opener, ByteBudget(budget), most)


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("budget", "most"), [(30, 100), (1000, 3)])
async def test_pieces_are_opened_in_order_within_their_bounds(budget: int, most: int) -> None:
    opener = Opener()
    window = window_of(opener, 6, budget=budget, most=most)
    async with asyncio.TaskGroup() as group:
        group.create_task(window.run())
        await settled()
        assert opener.asked == [0, 1, 2]  # the bound is reached, and kept
        for chunk in range(6):
            opener.gate(chunk).set_result(None)
        assert await window.wait(1) is not None
        assert await window.wait(5) is None  # it waits for us: to be read by range
        window.release([1])
        await settled()
        assert opener.asked == [0, 1, 2, 3]
        window.release([0, 2, 3, 4, 5])
    assert opener.open == 0
    assert 4 not in opener.asked


async def test_a_piece_larger_than_the_budget_is_opened_alone() -> None:
    opener = Opener()
    window = window_of(opener, 2, budget=7)
    opener.gate(0).set_result(None)
    opener.gate(1).set_result(None)
    async with asyncio.TaskGroup() as group:
        group.create_task(window.run())
        assert await window.wait(0) is not None
        assert await window.wait(1) is None
        window.release([0])
        await settled()
        assert await window.wait(1) is not None
        window.release([1])
    assert opener.open == 0


async def test_a_failed_piece_is_told_to_its_reader() -> None:
    opener, error = Opener(), StoreUnavailableError("503", url="x")
    window = window_of(opener, 3)
    async with asyncio.TaskGroup() as group:
        group.create_task(window.run())
        waiting = group.create_task(window.wait(2))
        await settled()
        opener.gate(1).set_exception(error)
        for chunk in (0, 2):
            opener.gate(chunk).set_result(None)
        with pytest.raises(StoreUnavailableError):
            await window.wait(1)
        assert await waiting is not None
        window.release(range(3))
    assert opener.open == 0


async def test_what_arrives_after_the_end_is_closed() -> None:
    """Cancelled in the very tick in which a piece arrives."""
    for early in (0, 1, 2, 3):
        opener = Opener()
        window = window_of(opener, 4)
        async with asyncio.TaskGroup() as group:
            group.create_task(window.run())
            await settled()
            for chunk in range(4):
                opener.gate(chunk).set_result(None)
            for _ in range(early):
                await asyncio.sleep(0)
            await window.stop()
        assert opener.open == 0


async def test_stopped_before_it_began() -> None:
    opener = Opener()
    window = window_of(opener, 1)
    async with asyncio.TaskGroup() as group:
        stopping = group.create_task(window.stop())
        group.create_task(window.run())
        await stopping
    assert opener.asked == []


# ---- over the wire -----------------------------------------------------------------------------

FAULTS: dict[str, list[Answer]] = {
    "reset": [Answer(after_nbytes=2000, then="reset")],
    "closed": [Answer(after_nbytes=2000, then="close")],
    "503": [Answer(status=503), Answer(status=503)],
    "throttled": [Answer(status=429)],
}


@pytest.mark.keeps_open("sockets", "threads", reason="connections of the process's portal")
@pytest.mark.parametrize("fault", FAULTS)
async def test_an_epoch_outlives_what_passes(place: Place, tmp_path: Path, fault: str) -> None:
    async with FaultyServer() as server:
        server.objects["/bucket/set/index.json"] = dump_index(place.index)
        for name, data in place.files.items():
            server.objects[f"/bucket/set/{name}"] = data
        options = {
            "endpoint_url": server.url,
            "aws_access_key_id": "x",
            "aws_secret_access_key": "y",
            "region_name": "us-east-1",
        }

        def epoch() -> list[Any]:
            dataset = StreamingDataset(
                "s3://bucket/set", cache_dir=tmp_path / "c", storage_options=options
            )
            server.answers.extend(FAULTS[fault])
            read = list(dataset)
            portal().call(dataset.source.aclose)
            return read

        assert await asyncio.to_thread(epoch) == [sample(n) for n in range(50)]


# ---- chunks that are only read whole ------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"compression": "zstd"}])
def test_parts_of_whole_chunks_count_as_whole(tmp_path: Path, options: dict[str, Any]) -> None:
    """Windows that cut compressed chunks hold each of them whole: that is what is reserved."""
    samples = [sample(n) for n in range(50)]
    folder = write_dataset(tmp_path / "data", samples, chunk_size=PER_CHUNK, **options)
    dataset = StreamingDataset(folder, shuffle=True, shuffle_window=4)
    readers = Readers(Topology(0, 1), 1, 4)
    run = dataset.begin(readers)
    shares = dataset.deck(run.position, run.options, readers).deal(np.array([50]), (0,))
    stream = shares.stream([0], [0])
    wholes = [int(dataset.source.nbytes[piece.chunk]) for piece in stream.pieces]
    assert len(wholes) > 5
    assert (held_bytes(dataset.source, stream) == wholes) == bool(options)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_long_list_of_single_samples(tmp_path: Path, compression: str | None) -> None:
    """Of a declared size that is large, chunks that are only read whole come in turns."""
    samples = [sample(n) for n in range(50)]
    folder = write_dataset(
        tmp_path / "data", samples, chunk_size=PER_CHUNK, compression=compression
    )
    dataset = StreamingDataset(f"local:{folder}", tmp_path / "cache", max_cache_size=1)
    wanted = [45, 3, 17, 3, 29, 44, 31, 0]
    assert dataset[wanted] == [samples[n] for n in wanted]
    source, chunks = dataset.source, [number // PER_CHUNK for number in wanted]
    assert source.turns(chunks) == [[0, 5, 1, 3, 7, 2, 4, 6]]
    source.nbytes = np.full(5, 100 << 20)
    turns = source.turns(chunks)
    assert turns == ([[0, 5, 1, 3, 7], [2, 4], [6]] if compression else [[0, 5, 1, 3, 7, 2, 4, 6]])
    assert dataset[wanted] == [samples[n] for n in wanted]
    assert source.turns([]) == [[]]
