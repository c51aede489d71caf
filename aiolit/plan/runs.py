"""Runs of samples: how a part of a data set is written down without listing its samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """An ordered list of runs; run ``k`` is the samples ``[start[k], stop[k])`` of ``chunk[k]``.

    Position ``p`` of the list is its ``p``-th sample. Runs are never empty.
    """

    chunk: Ints
    start: Ints
    stop: Ints
    ends: Ints = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", np.cumsum(self.stop - self.start))

    @classmethod
    def of(cls, runs: Iterable[tuple[int, int, int]]) -> Runs:
        """Build from ``(chunk, start, stop)`` triples; empty ones are left out."""
        rows = np.array([run for run in runs if run[1] < run[2]], dtype=np.int64).reshape(-1, 3)
        return cls(rows[:, 0].copy(), rows[:, 1].copy(), rows[:, 2].copy())

    @classmethod
    def whole(cls, counts: Ints) -> Runs:
        """Build the runs of a data set whose chunk ``c`` holds ``counts[c]`` samples."""
        chunk = np.flatnonzero(counts).astype(np.int64)
        return cls(chunk, np.zeros(len(chunk), np.int64), counts[chunk].astype(np.int64))

    @classmethod
    def of_samples(cls, chunk: Ints, sample: Ints) -> Runs:
        """Build from single samples, in their order; neighbours of one chunk are joined."""
        if not len(chunk):
            return cls(chunk, sample, sample)
        joined = (chunk[1:] == chunk[:-1]) & (sample[1:] == sample[:-1] + 1)
        first = np.flatnonzero(np.concatenate(([True], ~joined)))
        last = np.concatenate((first[1:], [len(chunk)])) - 1
        return cls(chunk[first], sample[first], sample[last] + 1)

    @classmethod
    def concat(cls, parts: Iterable[Runs]) -> Runs:
        """Join lists of runs, in order."""
        listed = [part for part in parts if len(part.chunk)]
        if len(listed) == 1:
            return listed[0]
        empty = [np.zeros(0, np.int64)]
        return cls(
            np.concatenate([part.chunk for part in listed] or empty),
            np.concatenate([part.start for part in listed] or empty),
            np.concatenate([part.stop for part in listed] or empty),
        )

    def __len__(self) -> int:
        """Count the samples (not the runs)."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def num_runs(self) -> int:
        return len(self.chunk)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.chunk.tolist(), self.start.tolist(), self.stop.tolist(), strict=True)

    def take(self, order: Ints) -> Runs:
        """Put the runs (not the samples) in another order."""
        return Runs(self.chunk[order], self.start[order], self.stop[order])

    def slice(self, lo: int, hi: int) -> Runs:
        """Return the samples at positions ``[lo, hi)``, cutting runs where needed."""
        lo, hi = max(lo, 0), min(hi, len(self))
        if lo >= hi:
            none = np.zeros(0, np.int64)
            return Runs(none, none, none)
        first = int(np.searchsorted(self.ends, lo, side="right"))
        last = int(np.searchsorted(self.ends, hi, side="left"))
        chunk = self.chunk[first : last + 1]
        start, stop = self.start[first : last + 1].copy(), self.stop[first : last + 1].copy()
        stop[-1] -= int(self.ends[last]) - hi
        before = int(self.ends[first - 1]) if first else 0
        start[0] += lo - before
        return Runs(chunk, start, stop)

    def expand(self, lo: int = 0, hi: int | None = None) -> tuple[Ints, Ints]:
        """Write the samples at positions ``[lo, hi)`` out, by default all of them.

        Returns:
            The number of its run, and its index in the chunk: one entry of each for each sample.
        """
        part = self.slice(lo, len(self) if hi is None else hi)
        lengths = part.stop - part.start
        run = np.repeat(np.arange(len(lengths), dtype=np.int64), lengths)
        sample = np.arange(len(part), dtype=np.int64) - (part.ends - lengths - part.start)[run]
        return run + int(np.searchsorted(self.ends, lo, side="right")), sample

    def positions_of(self, chunks: Sequence[int], samples: Sequence[int]) -> list[int]:
        """Return where in the list samples are; of one that is there more than once, one place."""
        order = np.lexsort((self.start, self.chunk))
        width = int(self.stop.max(initial=0)) + 1
        keys = self.chunk[order] * width + self.start[order]
        wanted = np.asarray(chunks, np.int64) * width + np.asarray(samples, np.int64)
        run = order[np.searchsorted(keys, wanted, side="right") - 1]
        found: Ints = self.ends[run] - self.stop[run] + np.asarray(samples, np.int64)
        return [int(place) for place in found]

    def sample_at(self, position: int) -> tuple[int, int]:
        """Return ``(chunk, sample index)`` of the sample at a position."""
        run = self.ends.searchsorted(position, side="right")
        return int(self.chunk[run]), int(self.stop[run] - self.ends[run]) + position

    def samples_at(self, positions: Ints) -> tuple[Ints, Ints]:
        """Return ``(chunk, sample index)`` of the samples at the positions."""
        run = np.searchsorted(self.ends, positions, side="right")
        return self.chunk[run], self.stop[run] - (self.ends[run] - positions)
