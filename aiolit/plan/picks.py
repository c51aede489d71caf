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
_PICK_ORDER = 21


def apportion(quotas: Ints, lengths: Ints) -> NDArray[np.int64]:
    """Divide the members' quotas among lanes: ``result[m, l]`` picks of member ``m`` in lane ``l``.

    Every lane gets exactly its length, no member more than its quota, and each lane's shares are
    those of what was left before it, rounded by the largest remainder. ``lengths`` may sum to less
    than ``quotas``.
    """
    left = quotas.astype(np.int64).copy()
    found = np.zeros((len(quotas), len(lengths)), np.int64)
    for lane, length in enumerate(lengths.tolist()):
        total = int(left.sum())
        if not total or not length:
            continue
        exact = left * length
        share = exact // total
        order = np.argsort(-(exact % total), kind="stable")
        share[order[: length - int(share.sum())]] += 1
        found[:, lane] = share
        left -= share
    return found


class Picks:
    """The sequence of members of one lane.

    Args:
        counts: How many picks of each member the lane has.
        words: The key of its permutations.
    """

    def __init__(self, counts: Sequence[int], words: tuple[int, ...]) -> None:
        self.counts = np.asarray(counts, np.int64)
        self._edges = np.concatenate(([0], np.cumsum(self.counts)))
        self._words = words
        self.length = int(self._edges[-1])
        rarest = int(self.counts[self.counts > 0].min()) if self.length else 1
        # Blocks so large that the rarest member has a place in each: then no count steps back.
        self._block = max(_BLOCK, -(-self.length // rarest))

    def upto(self, position: int) -> Ints:
        """Return how many of the first ``position`` picks are of each member."""
        block, inside = divmod(position, self._block)
        found = self._at(block * self._block)
        if inside:
            found = found + np.bincount(self._of_block(block)[:inside], minlength=len(self.counts))
        return found

    def take(self, position: int, count: int) -> Ints:
        """Return the members of ``count`` picks from ``position`` on."""
        end = position + count
        blocks = range(position // self._block, -(-end // self._block))
        found = np.concatenate([np.zeros(0, np.int64), *map(self._of_block, blocks)])
        begin = position - position // self._block * self._block
        return found[begin : begin + count]

    def _at(self, position: int) -> Ints:
        if not self.length:
            return np.zeros_like(self.counts)
        steps = min(position, self.length) * self._edges // self.length
        return np.diff(steps)

    def _of_block(self, block: int) -> Ints:
        begin = block * self._block
        counts = self._at(begin + self._block) - self._at(begin)
        members = np.repeat(np.arange(len(counts)), counts)
        return members[permutation(len(members), _PICK_ORDER, *self._words, block)]
