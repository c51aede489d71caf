"""The deck of a mixture: samples of several decks, in exact shares."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from aiolit.plan.picks import Picks, spread
from aiolit.plan.runs import Ints
from aiolit.streaming.deck import LaneReader, ReadableDeck, ReadableShares


class MixDeck(ReadableDeck):
    """Samples of several decks.

    Args:
        decks: The members.
        phases: For each phase of the epoch, how many samples of each member it holds. A lane goes
            through the phases one after the other, and so all readers are in the same phase.
        seed: The seed of the picks.
    """

    def __init__(self, decks: Sequence[ReadableDeck], phases: NDArray[np.int64], seed: int) -> None:
        self._decks, self._phases, self._seed = decks, phases, seed

    def __len__(self) -> int:
        return int(self._phases.sum())

    def deal(self, lengths: Ints, words: tuple[int, ...]) -> MixShares:
        # How much of each phase lies before each border between lanes, and of each member in that.
        edges = np.concatenate(([0], np.cumsum(lengths)))
        of_phase = spread(self._phases.sum(axis=1), edges)
        counts = np.stack(
            [np.diff(spread(*pair), axis=1) for pair in zip(self._phases, of_phase, strict=True)]
        )  # phase, member, lane
        shares = [
            deck.deal(counts[:, member].sum(axis=0), (*words, member))
            for member, deck in enumerate(self._decks)
        ]
        return MixShares(shares, counts, self._phases, self._seed, words)


class MixShares(ReadableShares):
    """A mixture, cut into lanes; ``counts`` is by phase, member and lane."""

    def __init__(
        self,
        shares: Sequence[ReadableShares],
        counts: NDArray[np.int64],
        phases: NDArray[np.int64],
        seed: int,
        words: tuple[int, ...],
    ) -> None:
        self._shares, self.counts, self._phases = shares, counts, phases
        self._seed, self._words = seed, words

    def picks(self, lane: int) -> LanePicks:
        """Return the sequence of members of a lane."""
        words = (self._seed, *self._words, lane)
        return LanePicks(
            [Picks(counts[:, lane].tolist(), (*words, n)) for n, counts in enumerate(self.counts)]
        )

    def open(self, lanes: Sequence[int], skips: Sequence[int]) -> LaneReader:
        picks = [self.picks(lane) for lane in lanes]
        done = [one.upto(skip).sum(axis=0) for one, skip in zip(picks, skips, strict=True)]
        readers = [
            shares.open(lanes, [int(counts[member]) for counts in done])
            for member, shares in enumerate(self._shares)
        ]
        return _MixReader(readers, picks, list(skips))

    def unit_samples_from(self, lane: int, skip: int) -> int:
        """Count the samples that a lane of whole batches holds behind the first ones."""
        done = self.picks(lane).upto(skip).sum(axis=0).tolist()
        return sum(
            units.samples_from(lane, count) for units, count in zip(self._units, done, strict=True)
        )

    def samples_of_unit(self, lane: int, position: int) -> int:
        """Count the samples of one whole batch of a lane."""
        return self.unit_samples_from(lane, position) - self.unit_samples_from(lane, position + 1)

    @property
    def _units(self) -> list[_UnitShares]:
        return [shares for shares in self._shares if isinstance(shares, _UnitShares)]

    def rest(self, consumed: Ints) -> MixDeck:
        lanes = range(self.counts.shape[2])
        done = np.stack([self.picks(lane).upto(int(consumed[lane])) for lane in lanes], axis=2)
        decks = [shares.rest(done[:, n].sum(axis=0)) for n, shares in enumerate(self._shares)]
        return MixDeck(decks, self._phases - done.sum(axis=2), self._seed)


class LanePicks:
    """The picks of a lane, phase after phase."""

    def __init__(self, phases: list[Picks]) -> None:
        self._phases = phases

    def upto(self, position: int) -> NDArray[np.int64]:
        """Return how many of the first picks are of each phase and member."""
        found = []
        for phase in self._phases:
            here = min(position, phase.length)
            found.append(phase.upto(here))
            position -= here
        return np.stack(found)

    def take(self, position: int, count: int) -> Ints:
        """Return the members of some picks."""
        found = [np.zeros(0, np.int64)]
        for phase in self._phases:
            here = min(count, max(0, phase.length - position))
            if here:
                found.append(phase.take(position, here))
                count -= here
            position = max(0, position - phase.length)
        return np.concatenate(found)


class _MixReader(LaneReader):
    def __init__(
        self, readers: Sequence[LaneReader], picks: list[LanePicks], at: list[int]
    ) -> None:
        self._readers, self._picks, self._at = readers, picks, at
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for reader in self._readers:
                stack.enter_context(reader)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(exc_type, exc, traceback)

    def take(self, lane: int, count: int) -> list[Any]:
        members = self._picks[lane].take(self._at[lane], count)
        self._at[lane] += count
        counts = np.bincount(members, minlength=len(self._readers)).tolist()
        given = [
            iter(reader.take(lane, number) if number else [])
            for reader, number in zip(self._readers, counts, strict=True)
        ]
        return [next(given[member]) for member in members.tolist()]


class UnitDeck(ReadableDeck):
    """Whole batches of a deck's samples: what a mixture picks when each batch is of one member.

    Args:
        deck: The samples.
        size: Samples in a batch.
        drop_last: Whether a last, short batch is left out.
    """

    def __init__(self, deck: ReadableDeck, size: int, *, drop_last: bool) -> None:
        self._deck, self._size, self._drop_last = deck, size, drop_last

    def __len__(self) -> int:
        whole, left = divmod(len(self._deck), self._size)
        return whole + bool(left and not self._drop_last)

    def deal(self, lengths: Ints, words: tuple[int, ...]) -> ReadableShares:
        ends = np.minimum(np.cumsum(lengths) * self._size, len(self._deck))
        samples = np.diff(ends, prepend=0)
        return _UnitShares(self._deck.deal(samples, words), samples, self._size, self._drop_last)


class _UnitShares(ReadableShares):
    def __init__(self, shares: ReadableShares, samples: Ints, size: int, drop_last: bool) -> None:
        self._shares, self._samples, self._size = shares, samples, size
        self._drop_last = drop_last

    def open(self, lanes: Sequence[int], skips: Sequence[int]) -> LaneReader:
        reader = self._shares.open(lanes, [skip * self._size for skip in skips])
        left = [self.samples_from(lane, skip) for lane, skip in zip(lanes, skips, strict=True)]
        return _UnitReader(reader, left, self._size)

    def samples_from(self, lane: int, units: int) -> int:
        """Count the samples of a lane behind its first units."""
        return max(0, int(self._samples[lane]) - units * self._size)

    def rest(self, consumed: Ints) -> ReadableDeck:
        done = np.minimum(consumed * self._size, self._samples)
        return UnitDeck(self._shares.rest(done), self._size, drop_last=self._drop_last)


class _UnitReader(LaneReader):
    def __init__(self, reader: LaneReader, left: list[int], size: int) -> None:
        self._reader, self._left, self._size = reader, left, size

    def __enter__(self) -> Self:
        self._reader.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._reader.__exit__(exc_type, exc, traceback)

    def take(self, lane: int, count: int) -> list[Any]:
        found = []
        for _ in range(count):
            here = min(self._size, self._left[lane])
            self._left[lane] -= here
            found.append(self._reader.take(lane, here))
        return found
