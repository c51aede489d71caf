"""The deck of a ``StreamingDataset``: from lanes of a plan to samples, pieces fetched ahead."""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import TracebackType
from typing import Any, Self

import numpy as np
from torch.utils.data import default_collate

from aiolit.errors import DatasetError, StoreError
from aiolit.format.loader import SampleReader, SampleTable
from aiolit.plan.lanes import Lanes, OrderOptions, Pool
from aiolit.plan.runs import Ints
from aiolit.plan.stream import LaneStream, Taken
from aiolit.runtime.ahead import spread
from aiolit.runtime.budget import ByteBudget
from aiolit.runtime.portal import Portal, portal
from aiolit.runtime.read_ahead import ReadAhead
from aiolit.runtime.tracing import complete
from aiolit.streaming.columns import ColumnCollate, Rows
from aiolit.streaming.deck import LaneReader, ReadableDeck, ReadableShares
from aiolit.streaming.feed import PieceFeed, PieceWindow
from aiolit.streaming.held import Held
from aiolit.streaming.source import ChunkSource

_AHEAD_BYTES = 1 << 30  # pieces that are open or on their way, per stream
_PAGES_AHEAD = 128 << 20  # bytes of local chunks that the kernel reads before they are opened
_PIECES_AHEAD = 64  # at most, each time
_EARLY_SHARE = 25  # at most 4 % of the bytes are fetched by range before their chunks arrive
_TOGETHER_BYTES = 256 << 10  # small batches are made together, up to so many bytes
_DRAWS = 16  # pieces that are tried for a sample in the place of a batch that fails whole
_EARLY_LEAST = 8  # and only where the chunks are this many times larger than the batch


@dataclass(frozen=True, slots=True)
class Batch:
    """Some samples, and where each of them lies.

    Attributes:
        values: The samples.
        chunks: The chunk of each.
        samples: The index of each in its chunk.
    """

    values: list[Any]
    chunks: list[int]
    samples: list[int]


Finish = Callable[[Batch], list[Any]]


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """How a data set's chunks are read.

    Attributes:
        source: The chunks.
        ahead: Chunks to fetch beyond those of the windows that are read now and next.
        finish: Makes the user's samples of decoded ones.
        skips: Whether a sample that cannot be read is replaced by another.
    """

    source: ChunkSource
    ahead: int
    finish: Finish
    skips: bool = False


@dataclass(frozen=True, slots=True)
class RunsDeck(ReadableDeck):
    """Samples of a data set's chunks."""

    plan: ReadPlan
    pool: Pool
    order: OrderOptions

    def __len__(self) -> int:
        return len(self.pool)

    def deal(self, lengths: Ints, words: tuple[int, ...]) -> RunsShares:
        return RunsShares(self.plan, Lanes(self.pool, lengths, self.order, words))


@dataclass(frozen=True, slots=True)
class RunsShares(ReadableShares):
    """Samples of a data set's chunks, cut into lanes."""

    plan: ReadPlan
    lanes: Lanes

    def open(self, lanes: Sequence[int], skips: Sequence[int]) -> LaneReader:
        return RunsReader(self.plan, self.stream(lanes, skips))

    def stream(self, lanes: Sequence[int], skips: Sequence[int]) -> LaneStream:
        """Return what is to be read of some lanes."""
        return LaneStream([self.lanes.lane(lane) for lane in lanes], skips)

    def rest(self, consumed: Ints) -> RunsDeck:
        return RunsDeck(self.plan, self.lanes.rest(consumed), self.lanes.options)


def piece_bytes(source: ChunkSource, stream: LaneStream) -> list[int]:
    """Estimate the bytes of each piece from its share of its chunk."""
    means = (source.nbytes / np.maximum(source.counts, 1)).tolist()
    return [int(means[piece.chunk] * piece.fetched) for piece in stream.pieces]


def held_bytes(source: ChunkSource, stream: LaneStream) -> list[int]:
    """Estimate what each piece holds while it is open: of a chunk that is only read whole, all."""
    return [
        int(source.nbytes[piece.chunk]) if source.is_whole_only(piece.chunk) else own
        for piece, own in zip(stream.pieces, piece_bytes(source, stream), strict=True)
    ]


def _most_open() -> int:
    """Return how many chunks may be open at once: an open chunk takes two descriptors."""
    return max(8, min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 8))


def make_window(plan: ReadPlan, stream: LaneStream) -> PieceWindow:
    """Return what opens the pieces of a stream ahead of its reader; call it on the loop."""
    budget = ByteBudget(_AHEAD_BYTES, name="the prefetch budget")
    most = min(2 * stream.widest_window + max(plan.ahead, 1), _most_open())
    nbytes = held_bytes(plan.source, stream)
    return PieceWindow(stream.pieces, nbytes, plan.source.open_piece, budget, most)


class RunsReader(LaneReader):
    """Reads lanes in the calling thread; the portal's loop fetches ahead."""

    def __init__(self, plan: ReadPlan, stream: LaneStream) -> None:
        self._plan, self._source, self._stream = plan, plan.source, stream
        self._chunk = [piece.chunk for piece in stream.pieces]
        self._readers: dict[int, SampleReader] = {}
        self._tables: dict[int, SampleTable] = {}
        self._held: dict[int, Held] = {}
        self._warned: set[int] = set()
        self._spare: list[Any] = []  # a good sample, once there was one
        self._lost: dict[int, Exception] = {}  # pieces that the store cannot give
        self._made: Iterator[Any] = iter(())  # batches that were made together
        self._feed: PieceFeed | None = None
        self._portal: Portal | None = None
        self._ends = list(accumulate(piece_bytes(self._source, stream)))
        self._pages = ReadAhead()
        self._advised = 0  # pieces whose pages are there or coming
        total = self._ends[-1] if self._ends else 0
        self._mean = max(1, total // max(1, stream.num_samples))
        self._early_bytes = total // _EARLY_SHARE

    def __enter__(self) -> Self:
        if not all(self._source.is_direct(chunk) for chunk in set(self._chunk)):
            self._portal = portal()
            self._source.open_on(self._portal)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._readers.clear()
        self._tables.clear()
        self._held.clear()
        self._pages.close()
        if self._feed is not None:
            self._feed.close()
            self._source.stats.chunks_ahead = self._source.stats.bytes_ahead = 0

    def take(self, lane: int, count: int) -> list[Any]:
        return self._of_taken(self._stream.take(lane, count))

    def collated(self, wants: Sequence[tuple[int, int]], columns: ColumnCollate) -> Any:
        """Return the batch of the next samples of some lanes, collated.

        Args:
            wants: Lanes and how many samples of each, in the batch's order.
            columns: What makes a batch of rows; where it cannot, torch's ``default_collate`` does.
        """
        batch = next(self._made, None)
        if batch is None and self._make_several(wants, columns):
            batch = next(self._made)
        if batch is None:
            return self._collated_alone(wants, columns)
        self._source.stats.samples += wants[0][1]
        self._source.stats.batches += 1
        return batch

    def _make_several(self, wants: Sequence[tuple[int, int]], columns: ColumnCollate) -> bool:
        """Make the coming batches of a lane together, those of the open window at most.

        Returns:
            False if they are to be made one by one: they are large, some of their chunks are not
            open yet, or they are not of one shape.
        """
        lane, count = wants[0]
        most = min(self._stream.left(lane), _TOGETHER_BYTES // self._mean) // count
        if len(wants) > 1 or most < 2:
            return False
        window = self._stream.window(lane)
        most = min(most, len(window.piece) // count) * count
        piece, sample = window.piece[:most], window.sample[:most]
        if most < 2 * count:
            return False
        wanted = _distinct(piece)
        if not self._tables.keys() >= set(wanted):
            return False
        began = time.perf_counter()
        rows = self._gather(wanted, piece, sample)
        made = None if rows is None else columns.several(rows, count)
        if made is None:
            return False
        self._made = made
        for finished in self._stream.take(lane, most).finished:
            self._finish(finished)
        self._source.stats.collate_seconds += time.perf_counter() - began
        return True

    def _collated_alone(self, wants: Sequence[tuple[int, int]], columns: ColumnCollate) -> Any:
        taken = [self._stream.take(lane, count) for lane, count in wants]
        began = time.perf_counter()
        waited = self._source.stats.wait_seconds
        rows = self._rows(taken)
        batch = None if rows is None else columns(rows)
        if rows is None or batch is None:
            return default_collate([value for one in taken for value in self._of_taken(one)])
        self._source.stats.samples += len(rows)
        self._source.stats.batches += 1
        waited = self._source.stats.wait_seconds - waited
        self._source.stats.collate_seconds += time.perf_counter() - began - waited
        for one in taken:
            for finished in one.finished:
                self._finish(finished)
        return batch

    def _rows(self, taken: Sequence[Taken]) -> Rows | None:
        """Gather the stored bytes of samples; None where they are not rows of one length."""
        piece = np.concatenate([one.piece for one in taken])
        sample = np.concatenate([one.sample for one in taken])
        wanted = _distinct(piece)
        if not self._tables.keys() >= set(wanted) and not self._open_tables(wanted, len(piece)):
            return None
        return self._gather(wanted, piece, sample)

    def _gather(self, wanted: list[int], piece: Ints, sample: Ints) -> Rows | None:
        """Gather rows of open tables, those of the pieces ``wanted``."""
        tables = [self._tables[one] for one in wanted]
        if len(tables) == 1:
            only: Rows = tables[0].rows.take(sample - tables[0].first, axis=0)
            return only
        nbytes = tables[0].rows.shape[1]
        if any(table.rows.shape[1] != nbytes for table in tables):
            return None
        rows = np.empty((len(piece), nbytes), np.uint8)
        for one, table in zip(wanted, tables, strict=True):
            here = np.flatnonzero(piece == one)
            rows[here] = table.rows.take(sample[here] - table.first, axis=0)
        return rows

    def _open_tables(self, pieces: list[int], batch: int) -> bool:
        missing = set(pieces) - self._readers.keys()
        if missing and not self._open(set(pieces), batch):
            return False
        for piece in pieces:
            if piece not in self._tables:
                table = self._readers[piece].table()
                if table is None:
                    return False
                self._tables[piece] = table
        return True

    def _of_taken(self, taken: Taken) -> list[Any]:
        pieces, samples = taken.piece.tolist(), taken.sample.tolist()
        values = self._read_or_skip(pieces, samples)
        for finished in taken.finished:
            self._finish(finished)
        chunk_of, finish, began = self._chunk, self._plan.finish, time.perf_counter()

        def finished_from(first: int, stop: int) -> list[Any]:
            chunks = [chunk_of[piece] for piece in pieces[first:stop]]
            return finish(Batch(values[first:stop], chunks, samples[first:stop]))

        found = spread(len(values), finished_from)
        self._source.stats.decode_seconds += time.perf_counter() - began
        return found

    def _read_or_skip(self, pieces: list[int], samples: list[int]) -> list[Any]:
        """Read a batch; where it fails and skipping is allowed, sample by sample."""
        if not self._plan.skips:
            return self._read(pieces, samples)
        if not self._lost.keys().isdisjoint(pieces):
            return self._read_singly(pieces, samples)
        try:
            values = self._read(pieces, samples)
        except (DatasetError, StoreError):
            return self._read_singly(pieces, samples)
        self._spare = values[-1:]
        return values

    def _read_singly(self, pieces: list[int], samples: list[int]) -> list[Any]:
        # What is in place of a sample comes from its own batch, so that steps stay equal.
        good: dict[int, Any] = {}
        failed: Exception | None = None
        for number, (piece, sample) in enumerate(zip(pieces, samples, strict=True)):
            try:
                if piece in self._lost:  # to ask again would take the retries' time again
                    raise self._lost[piece]
                (good[number],) = self._read([piece], [sample])
            except (DatasetError, StoreError) as error:
                failed = error
                self._warn_of(piece, error)
                if isinstance(error, StoreError):
                    self._lost[piece] = error
        self._source.stats.skipped += len(pieces) - len(good)
        if not good:
            assert failed is not None
            good[0] = self._spare[0] if self._spare else self._draw(pieces[0], failed)
        self._spare = [next(iter(good.values()))]
        there = sorted(good)
        return [good.get(number, good[there[number % len(there)]]) for number in range(len(pieces))]

    def _draw(self, near: int, failed: Exception) -> Any:
        """Read a sample of another piece, in the place of those that all fail."""
        others, count = self._stream.pieces, len(self._stream.pieces)
        for turn in range(min(_DRAWS, count - 1)):
            piece = others[(near + 1 + turn * max(1, count // _DRAWS)) % count]
            sample = piece.start if piece.samples is None else piece.samples[0]
            try:
                return read_samples(self._source, [piece.chunk], [sample])[0]
            except (DatasetError, StoreError) as error:
                failed = error
        raise failed

    def _warn_of(self, piece: int, error: Exception) -> None:
        chunk = self._chunk[piece]
        if chunk not in self._warned:
            self._warned.add(chunk)
            warnings.warn(f"samples are skipped: {error}", stacklevel=2)

    def _read(self, pieces: list[int], samples: list[int]) -> list[Any]:
        readers, stats = self._readers, self._source.stats
        stats.samples += len(samples)
        wanted = set(pieces)
        if not wanted <= readers.keys() and not self._open(wanted, len(pieces)):
            return self._read_by_range(pieces, samples)
        began = time.perf_counter()

        def read(first: int, stop: int) -> list[Any]:
            if len(wanted) == 1:
                return readers[pieces[0]].samples(samples[first:stop])
            places = zip(pieces[first:stop], samples[first:stop], strict=True)
            return [readers[piece].sample(sample) for piece, sample in places]

        values = spread(len(samples), read)
        stats.decode_seconds += time.perf_counter() - began
        complete("decode", "decode", int(began * 1e9), samples=len(values))
        return values

    def _open(self, pieces: set[int], batch: int) -> bool:
        """Open the pieces of a batch; False if some must be read by range."""
        began = time.perf_counter()
        missing = sorted(piece for piece in pieces if piece not in self._readers)
        if self._portal is not None:
            if self._is_early(missing, batch):
                return False
            self._start(self._portal)
        else:
            self._read_ahead(missing[-1])
        for piece in missing:
            if self._feed is not None:
                held = self._feed.get(piece)
            else:
                held = self._source.open_direct(self._chunk[piece])
            if held is None:
                return False
            self._held[piece], self._readers[piece] = held, held.reader
        if self._feed is None and len(self._readers) > _most_open():
            self._forget(pieces)
        self._source.stats.wait_seconds += time.perf_counter() - began
        if missing:
            complete("wait", "open pieces", int(began * 1e9), pieces=len(missing))
            self._note_ahead()
        return True

    def _note_ahead(self) -> None:
        if self._feed is not None:
            stats = self._source.stats
            stats.chunks_ahead, stats.bytes_ahead = self._feed.ahead

    def _forget(self, pieces: set[int]) -> None:
        """Unmap local chunks but those of these pieces; they are mapped anew when needed."""
        for piece in self._readers.keys() - pieces:
            self._tables.pop(piece, None)
            del self._readers[piece], self._held[piece]

    def _start(self, portal: Portal) -> None:
        """Begin to fetch chunks ahead."""
        if self._feed is None:
            self._feed = PieceFeed(portal, lambda: make_window(self._plan, self._stream))

    def _read_ahead(self, opening: int) -> None:
        """Have the pages of local chunks come: up to the piece that is opened now, and of more."""
        last, left = self._ends[opening] + _PAGES_AHEAD, 2 * _PAGES_AHEAD
        # So many at once: a window may be as wide as the data set, and chunks may be tiny.
        for number in range(self._advised, min(self._advised + _PIECES_AHEAD, len(self._ends))):
            if left <= 0 or self._ends[number] > last:
                break
            piece = self._stream.pieces[number]
            self._advised = number + 1
            extent = self._source.extent(piece) if piece.samples is None else None
            if extent is not None:
                path, start, stop = extent
                self._pages.advise(path, start, min(stop, start + _PAGES_AHEAD))
                left -= stop - start

    def _is_early(self, missing: list[int], batch: int) -> bool:
        """Whether to read a batch by range because its chunks, much larger, are still coming."""
        need, feed = batch * self._mean, self._feed
        coming = [piece for piece in missing if feed is None or not feed.is_ready(piece)]
        nbytes = sum(int(self._source.nbytes[self._chunk[piece]]) for piece in coming)
        if need > self._early_bytes or nbytes < _EARLY_LEAST * need:
            return False
        self._early_bytes -= need
        return True

    def _read_by_range(self, pieces: list[int], samples: list[int]) -> list[Any]:
        chunks = [self._chunk[piece] for piece in pieces]
        began = time.perf_counter()
        values = read_samples(self._source, chunks, samples)
        if self._portal is not None:
            # Not before: whole chunks on the way would hold up what is waited for.
            self._start(self._portal)
        self._source.stats.wait_seconds += time.perf_counter() - began
        return values

    def _finish(self, pieces: range) -> None:
        for piece in pieces:
            self._readers.pop(piece, None)
            self._tables.pop(piece, None)
            self._held.pop(piece, None)
        if self._feed is not None:
            self._feed.finish(pieces)


def _distinct(numbers: Ints) -> list[int]:
    """Return the different ones, sorted; most often it is one."""
    if (numbers == numbers[0]).all():
        return [int(numbers[0])]
    found: list[int] = np.unique(numbers).tolist()
    return found


def read_samples(source: ChunkSource, chunks: list[int], samples: list[int]) -> list[Any]:
    """Read single samples, wherever they lie, in the order asked for; few requests, all at once."""
    if not chunks:
        return []
    if all(map(source.is_direct, set(chunks))):
        direct = [source.direct_reader(chunk) for chunk in chunks]
        return [
            reader.sample(sample)
            for reader, sample in zip(direct, samples, strict=True)
            if reader is not None
        ]
    loop = portal()
    source.open_on(loop)
    values: list[Any] = [None] * len(chunks)
    for turn in source.turns(chunks):
        wanted = [samples[place] for place in turn]
        readers, held = loop.call(source.open_samples, [chunks[place] for place in turn], wanted)
        try:
            for place, reader, sample in zip(turn, readers, wanted, strict=True):
                values[place] = reader.sample(sample)
        finally:
            for one in held:
                one.close()
    return values
