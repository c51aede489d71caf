"""Which member of a mixture comes next: exact shares, in a random order that can be entered
anywhere.

The picks of a lane come in blocks. How many picks of each member the first ``x`` blocks hold is a
closed form, so going on at any pick costs one block, whatever was read before; inside a block the
picks are permuted. At the end of every block each member's count is within one of its share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aiolit.plan.permute import permutation
from aiolit.plan.runs import Ints

_BLOCK = 256
_LARGEST = 1 << 16  # picks in a block at the most, nearly
_PICK_ORDER = 21


def spread(counts: Ints, positions: Ints) -> NDArray[np.int64]:
    """Return how many of the first ``x`` samples of a mixture are of each member, for each ``x`` of
    ``positions``: ``result[m, i]``.

    Nothing but the counts and ``x`` goes into it and no number falls as ``x`` grows, so however a
    mixture is cut, the same samples lie before the same position. Each number is the member's share
    rounded, once for each time that the members are halved.
    """
    if len(counts) == 1:
        return positions[np.newaxis]
    half = len(counts) // 2
    first, total = int(counts[:half].sum()), int(counts.sum())
    # Where there is nothing, positions are 0 and so is their share.
    left = (2 * positions * first + total) // max(1, 2 * total)
    parts = spread(counts[:half], left), spread(counts[half:], positions - left)
    return np.concatenate(parts)


class Picks:
    """The sequence of members of one lane.

    A member that is rarer than one in ``_LARGEST`` picks is placed by itself; the others share
    what is left. Blocks are so large that the rarest of those has a place in each: then no count
    steps back from one block to the next.

    Args:
        counts: How many picks of each member the lane has.
        words: The key of its permutations.

    Attributes:
        length: How many picks there are.
        block: How many picks a block has.
    """

    def __init__(self, counts: Sequence[int], words: tuple[int, ...]) -> None:
        self.counts = np.asarray(counts, np.int64)
        self._words = words
        self.length = int(self.counts.sum())
        self._rare = self.counts * _LARGEST < self.length
        self._edges = np.concatenate(([0], np.cumsum(np.where(self._rare, 0, self.counts))))
        self.block = _BLOCK
        if self.length:
            common = self.counts[(self.counts > 0) & ~self._rare]
            spread = -(-self.length // int(common.min())) + int(self._rare.sum())
            self.block = max(_BLOCK, spread)
        self._kept: tuple[int, Ints] = (-1, np.zeros(0, np.int64))

    def upto(self, position: int) -> Ints:
        """Return how many of the first ``position`` picks are of each member."""
        block, inside = divmod(position, self.block)
        found = self._at(block * self.block)
        if inside:
            found = found + np.bincount(self._of_block(block)[:inside], minlength=len(self.counts))
        return found

    def take(self, position: int, count: int) -> Ints:
        """Return the members of ``count`` picks from ``position`` on."""
        end = position + count
        blocks = range(position // self.block, -(-end // self.block))
        found = np.concatenate([np.zeros(0, np.int64), *map(self._of_block, blocks)])
        begin = position - position // self.block * self.block
        return found[begin : begin + count]

    def _at(self, position: int) -> Ints:
        if not self.length:
            return np.zeros_like(self.counts)
        position = min(position, self.length)
        # Rounded, so that the last pick of a rare member is far from the end of the lane.
        rare = (2 * position * self.counts + self.length) // (2 * self.length)
        found = np.where(self._rare, rare, 0)
        left, shared = position - int(found.sum()), int(self._edges[-1])
        return found + np.diff(left * self._edges // shared)

    def _of_block(self, block: int) -> Ints:
        if self._kept[0] != block:
            begin = block * self.block
            counts = self._at(begin + self.block) - self._at(begin)
            members = np.repeat(np.arange(len(counts)), counts)
            order = permutation(len(members), _PICK_ORDER, *self._words, block)
            self._kept = block, members[order]
        return self._kept[1]
