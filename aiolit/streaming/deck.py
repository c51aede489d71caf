"""What a streaming data set deals to its readers: decks, cut into shares that can be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import numpy as np

from aiolit.plan.runs import Ints


class LaneReader(AbstractContextManager["LaneReader"], ABC):
    """Reads some lanes of a share. Leaving its block ends what it has on the way."""

    @abstractmethod
    def take(self, lane: int, count: int) -> list[Any]:
        """Return the next ``count`` samples of a lane, by its place in the list of lanes opened.

        The caller must not ask for more than the lane has.
        """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


class ReadableShares(ABC):
    """A deck, cut into lanes, in this process."""

    @abstractmethod
    def open(self, lanes: Sequence[int], skips: Sequence[int]) -> LaneReader:
        """Return a reader of some lanes that begins behind the samples to skip in each."""

    @abstractmethod
    def rest(self, consumed: Ints) -> ReadableDeck:
        """Return what is left once so many samples of each lane were read."""


class ReadableDeck(ABC):
    """The samples of an epoch, or what is left of them."""

    @abstractmethod
    def __len__(self) -> int:
        """Count the samples."""

    @abstractmethod
    def deal(self, lengths: Ints, words: tuple[int, ...]) -> ReadableShares:
        """Cut into lanes of these lengths, in order; they may be fewer samples than there are."""


class SliceDeck(ReadableDeck):
    """The samples ``[lo, hi)`` of another deck."""

    def __init__(self, deck: ReadableDeck, lo: int, hi: int) -> None:
        self._deck, self._lo, self._hi = deck, lo, hi

    def __len__(self) -> int:
        return self._hi - self._lo

    def deal(self, lengths: Ints, words: tuple[int, ...]) -> ReadableShares:
        tail = len(self) - int(lengths.sum())
        behind = len(self._deck) - self._hi
        padded = np.concatenate(([self._lo], lengths, [tail, behind])).astype(np.int64)
        return _SliceShares(self._deck.deal(padded, words), padded)


class _SliceShares(ReadableShares):
    """Lane ``l`` is lane ``l + 1`` of the deck below: the one before is what was cut off."""

    def __init__(self, shares: ReadableShares, lengths: Ints) -> None:
        self._shares, self._lengths = shares, lengths

    def open(self, lanes: Sequence[int], skips: Sequence[int]) -> LaneReader:
        return self._shares.open([lane + 1 for lane in lanes], skips)

    def rest(self, consumed: Ints) -> ReadableDeck:
        first, behind = self._lengths[:1], self._lengths[-1:]
        return self._shares.rest(np.concatenate((first, consumed, [0], behind)))


class ChainDeck(ReadableDeck):
    """Several decks, one after the other."""

    def __init__(self, decks: Sequence[ReadableDeck]) -> None:
        self._decks = [deck for deck in decks if len(deck)]

    def __len__(self) -> int:
        return sum(len(deck) for deck in self._decks)

    def deal(self, lengths: Ints, words: tuple[int, ...]) -> ReadableShares:
        edges = np.concatenate(([0], np.cumsum(lengths)))
        ends = [0, *np.cumsum([len(deck) for deck in self._decks]).tolist()]
        cut = [np.diff(np.clip(edges, begin, end)) for begin, end in pairwise(ends)]
        shares = [
            deck.deal(part, (*words, number))
            for number, (deck, part) in enumerate(zip(self._decks, cut, strict=True))
        ]
        return _ChainShares(shares, cut)


class _ChainShares(ReadableShares):
    def __init__(self, shares: list[ReadableShares], cut: list[Ints]) -> None:
        self._shares, self._cut = shares, cut

    def open(self, lanes: Sequence[int], skips: Sequence[int]) -> LaneReader:
        return _ChainReader(self._shares, self._cut, lanes, skips)

    def rest(self, consumed: Ints) -> ReadableDeck:
        left, decks = consumed.copy(), []
        for shares, cut in zip(self._shares, self._cut, strict=True):
            here = np.minimum(left, cut)
            left -= here
            decks.append(shares.rest(here))
        return ChainDeck(decks)


class _ChainReader(LaneReader):
    """Opens the readers of one deck when those of the deck before are used up."""

    def __init__(
        self,
        shares: list[ReadableShares],
        cut: list[Ints],
        lanes: Sequence[int],
        skips: Sequence[int],
    ) -> None:
        self._shares, self._cut, self._lanes = shares, cut, lanes
        self._at = [0] * len(lanes)
        self._skips = list(skips)
        self._open: dict[tuple[int, int], LaneReader] = {}

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._open:
            self._open.popitem()[1].__exit__(exc_type, exc, traceback)

    def take(self, lane: int, count: int) -> list[Any]:
        found: list[Any] = []
        while len(found) < count:
            part = self._at[lane]
            left = int(self._cut[part][self._lanes[lane]]) - self._skips[lane]
            if left <= 0:
                self._leave(part, lane)
                continue
            here = min(left, count - len(found))
            found += self._reader(part, lane).take(0, here)
            self._skips[lane] += here
        return found

    def _reader(self, part: int, lane: int) -> LaneReader:
        key = part, lane
        if key not in self._open:
            reader = self._shares[part].open([self._lanes[lane]], [self._skips[lane]])
            self._open[key] = reader.__enter__()
        return self._open[key]

    def _leave(self, part: int, lane: int) -> None:
        self._skips[lane] -= int(self._cut[part][self._lanes[lane]])
        self._at[lane] += 1
        reader = self._open.pop((part, lane), None)
        if reader is not None:
            reader.__exit__(None, None, None)
