"""The items of an epoch, dealt to lanes and read ahead."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import numpy as np

from aiolit.plan.runs import Ints
from aiolit.raw.fetch import RawSource
from aiolit.raw.window import ItemFeed, ItemWindow
from aiolit.runtime.ahead import spread
from aiolit.runtime.budget import ByteBudget
from aiolit.runtime.portal import portal
from aiolit.streaming.deck import LaneReader, ReadableDeck, ReadableShares

Finish = Callable[[list[Any], list[int]], list[Any]]


@dataclass(frozen=True, slots=True)
class ItemPlan:
    """How items are read.

    Attributes:
        source: The files.
        finish: Makes the user's samples of the bytes of items, and their numbers.
        ahead_bytes: Bytes that may be on their way, or there, ahead of a reader.
        ahead: Items that may be, however small.
    """

    source: RawSource
    finish: Finish
    ahead_bytes: int
    ahead: int


class ItemDeck(ReadableDeck):
    """Items of a raw data set, in the order in which they are dealt.

    Args:
        plan: How they are read.
        count: How many they are.
        order: Works their numbers out, when they are needed.
    """

    def __init__(self, plan: ItemPlan, count: int, order: Callable[[], Ints]) -> None:
        self.plan, self._count, self._order = plan, count, order

    def __len__(self) -> int:
        return self._count

    @cached_property
    def items(self) -> Ints:
        """The numbers of the items."""
        return self._order()

    def deal(self, lengths: Ints, words: tuple[int, ...]) -> ItemShares:
        return ItemShares(self.plan, self, lengths)


class ItemShares(ReadableShares):
    """Items, cut into lanes."""

    def __init__(self, plan: ItemPlan, deck: ItemDeck, lengths: Ints) -> None:
        self._plan, self._deck, self._lengths = plan, deck, lengths
        self._edges = np.concatenate(([0], np.cumsum(lengths)))

    def open(self, lanes: Sequence[int], skips: Sequence[int]) -> LaneReader:
        return ItemReader(self._plan, self.items(lanes, skips))

    def items(self, lanes: Sequence[int], skips: Sequence[int]) -> list[Ints]:
        """Return what is left of some lanes."""
        edges, items = self._edges, self._deck.items
        return [
            items[edges[lane] + skip : edges[lane + 1]]
            for lane, skip in zip(lanes, skips, strict=True)
        ]

    def rest(self, consumed: Ints) -> ItemDeck:
        lanes = range(len(self._lengths))

        def left() -> Ints:
            undealt = self._deck.items[self._edges[-1] :]
            return np.concatenate([*self.items(lanes, consumed.tolist()), undealt])

        return ItemDeck(self._plan, len(self._deck) - int(consumed.sum()), left)


def make_window(plan: ItemPlan, lanes: Sequence[Ints]) -> ItemWindow:
    """Return what fetches items ahead of their reader; call it on the loop."""
    budget = ByteBudget(plan.ahead_bytes, name="prefetch_bytes")
    source = plan.source
    nbytes = source.items.nbytes
    return ItemWindow(source.get, lanes, nbytes, budget, plan.ahead, source.skips())


class ItemReader(LaneReader):
    """Reads lanes in the calling thread; the portal's loop fetches ahead."""

    def __init__(self, plan: ItemPlan, lanes: list[Ints]) -> None:
        self._plan, self._lanes = plan, lanes
        self._taken = [0] * len(lanes)
        self._feed: ItemFeed | None = None

    def __enter__(self) -> Self:
        loop = portal()
        self._plan.source.open_on(loop)
        self._feed = ItemFeed(loop, lambda: make_window(self._plan, self._lanes))
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._feed is not None:
            self._feed.close()
            stats = self._plan.source.stats
            stats.chunks_ahead = stats.bytes_ahead = 0

    def take(self, lane: int, count: int) -> list[Any]:
        assert self._feed is not None
        stats, began = self._plan.source.stats, time.perf_counter()
        values = self._feed.take(lane, count)
        there = time.perf_counter()
        stats.wait_seconds += there - began
        stats.samples += len(values)
        stats.chunks_ahead, stats.bytes_ahead = self._feed.ahead
        first = self._taken[lane]
        self._taken[lane] += count
        numbers: list[int] = self._lanes[lane][first : first + count].tolist()
        finish = self._plan.finish
        found = spread(count, lambda lo, hi: finish(values[lo:hi], numbers[lo:hi]))
        stats.decode_seconds += time.perf_counter() - there
        return found
