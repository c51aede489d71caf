"""From the plan of a worker to its samples: opens pieces, decodes batch after batch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

from aiolit.format.loader import SampleReader
from aiolit.plan.stream import WorkerStream
from aiolit.runtime.budget import ByteBudget
from aiolit.runtime.portal import Portal, portal
from aiolit.streaming.feed import PieceFeed, PieceWindow
from aiolit.streaming.fetch import Held
from aiolit.streaming.source import ChunkSource

_AHEAD_BYTES = 1 << 30  # pieces that are open or on their way, per stream
_BLOCK_BYTES = 8 << 20  # how much is read between two releases of finished pieces
_EARLY_SHARE = 50  # at most a fiftieth of the bytes is fetched by range before its chunk arrives
_EARLY_LEAST = 8  # and only where the chunks are this many times larger than the batch


@dataclass(frozen=True, slots=True)
class Batch:
    """The samples of one batch, and where each of them lies.

    Attributes:
        values: The samples.
        chunks: The chunk of each.
        samples: The index of each in its chunk.
    """

    values: list[Any]
    chunks: list[int]
    samples: list[int]


def piece_bytes(source: ChunkSource, stream: WorkerStream) -> list[int]:
    """Estimate the bytes of each piece from its share of its chunk."""
    pieces = stream.pieces
    share = (pieces.stop - pieces.start) / source.counts[pieces.chunk]
    return [int(nbytes) for nbytes in source.nbytes[pieces.chunk] * share]


def make_window(source: ChunkSource, stream: WorkerStream, ahead: int) -> PieceWindow:
    """Return what opens the pieces of a stream ahead of its reader; call it on the loop.

    Args:
        source: The chunks.
        stream: The worker's plan.
        ahead: Chunks to fetch beyond the two windows that are being read and come next.
    """
    budget = ByteBudget(_AHEAD_BYTES, name="the prefetch budget")
    most = 2 * stream.widest_window + max(ahead, 1)
    nbytes = piece_bytes(source, stream)
    return PieceWindow(stream.pieces, nbytes, source.open_piece, budget, most)


def block_samples(source: ChunkSource, stream: WorkerStream) -> int:
    """Return how many samples to plan at once: few enough that finished pieces are let go soon."""
    mean = sum(piece_bytes(source, stream)) // max(1, len(stream.pieces))
    return max(1, min(4096, _BLOCK_BYTES // max(1, mean)))


class BatchReader:
    """Reads a worker's batches in the calling thread; the portal's loop fetches ahead.

    Use it as a context manager: leaving it cancels what is on its way and closes what is open.
    """

    def __init__(self, source: ChunkSource, stream: WorkerStream, ahead: int) -> None:
        self._source, self._stream, self._ahead = source, stream, ahead
        self._chunk = stream.pieces.chunk.tolist()
        self._readers: dict[int, SampleReader] = {}
        self._held: dict[int, Held] = {}
        self._feed: PieceFeed | None = None
        self._portal: Portal | None = None
        total = int(sum(piece_bytes(source, stream)))
        self._early_bytes = total // _EARLY_SHARE
        self._mean = max(1, total // max(1, len(stream.pieces)))

    def __enter__(self) -> Self:
        if not all(self._source.is_direct(chunk) for chunk in set(self._chunk)):
            self._portal = portal()
            self._source.open_on(self._portal)
            self._feed = PieceFeed(
                self._portal, lambda: make_window(self._source, self._stream, self._ahead)
            )
        return self

    def __exit__(self, *exc: object) -> None:
        self._readers.clear()
        self._held.clear()
        if self._feed is not None:
            self._feed.close()

    def batches(self) -> Iterator[Batch]:
        """Yield the batches in order."""
        chunk_of = self._chunk
        for block in self._stream.blocks(block_samples(self._source, self._stream)):
            pieces, samples, begin = block.piece.tolist(), block.sample.tolist(), 0
            for end in block.ends.tolist():
                of_batch, indices = pieces[begin:end], samples[begin:end]
                values = self._read(of_batch, indices)
                yield Batch(values, [chunk_of[piece] for piece in of_batch], indices)
                begin = end
            for finished in block.finished:
                self._finish(finished)

    def _read(self, pieces: list[int], samples: list[int]) -> list[Any]:
        readers = self._readers
        wanted = set(pieces)
        if not wanted <= readers.keys() and not self._open(wanted, len(pieces)):
            return self._read_by_range(pieces, samples)
        stats, began = self._source.stats, time.perf_counter()
        if len(wanted) == 1:
            values = readers[pieces[0]].samples(samples)
        else:
            values = [
                readers[piece].sample(sample) for piece, sample in zip(pieces, samples, strict=True)
            ]
        stats.decode_seconds += time.perf_counter() - began
        stats.samples += len(values)
        stats.batches += 1
        return values

    def _open(self, pieces: set[int], batch: int) -> bool:
        """Open the pieces of a batch; False if some must be read by range."""
        began = time.perf_counter()
        missing = sorted(piece for piece in pieces if piece not in self._readers)
        if self._feed is not None and self._is_early(missing, batch):
            return False
        for piece in missing:
            held = self._source.open_direct(self._chunk[piece]) if self._feed is None else None
            if self._feed is not None:
                held = self._feed.get(piece)
            if held is None:
                return False
            self._held[piece], self._readers[piece] = held, held.reader
        self._source.stats.wait_seconds += time.perf_counter() - began
        return True

    def _is_early(self, missing: list[int], batch: int) -> bool:
        """Whether to read a batch by range because its chunks, much larger, are still coming."""
        assert self._feed is not None
        need = batch * self._mean
        coming = [piece for piece in missing if not self._feed.is_ready(piece)]
        nbytes = sum(int(self._source.nbytes[self._chunk[piece]]) for piece in coming)
        if need > self._early_bytes or nbytes < _EARLY_LEAST * need:
            return False
        self._early_bytes -= need
        return True

    def _read_by_range(self, pieces: list[int], samples: list[int]) -> list[Any]:
        assert self._portal is not None
        began = time.perf_counter()
        chunks = [self._chunk[piece] for piece in pieces]
        readers, held = self._portal.call(self._source.open_samples, chunks, samples)
        stats = self._source.stats
        stats.wait_seconds += time.perf_counter() - began
        values = [reader.sample(sample) for reader, sample in zip(readers, samples, strict=True)]
        for one in held:
            one.close()
        stats.samples += len(values)
        stats.batches += 1
        return values

    def _finish(self, pieces: range) -> None:
        for piece in pieces:
            self._readers.pop(piece, None)
            self._held.pop(piece, None)
        if self._feed is not None:
            self._feed.finish(pieces)
