"""Choosing samples: subsets, splits, repetitions; by sample or by chunk, with exact lengths."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from aiolit.plan.permute import permutation
from aiolit.plan.runs import Ints, Runs

_SUBSAMPLE, _SPLIT = 11, 12


def exact_shares(total: int, shares: Sequence[float]) -> list[int]:
    """Divide ``total`` in proportion: each result is the share rounded up or down, and together
    they are the sum of the shares, rounded (the method of the largest remainder)."""
    wanted = [total * share for share in shares]
    found = [int(one) for one in wanted]
    left = round(sum(wanted)) - sum(found)
    by_remainder = sorted(range(len(shares)), key=lambda one: found[one] - wanted[one])
    for one in by_remainder[:left]:
        found[one] += 1
    return found


def pick(runs: Runs, positions: Ints) -> Runs:
    """Return the samples at the positions, in the order of the positions; repeats are allowed."""
    return Runs.of_samples(*runs.samples_at(positions))


def split(runs: Runs, counts: Sequence[int], *, seed: int | None, by_chunk: bool) -> list[Runs]:
    """Divide a list of samples into disjoint ones of exactly the given lengths.

    Args:
        runs: The samples.
        counts: The lengths; together at most ``len(runs)``.
        seed: Choose at random; None takes them one after the other.
        by_chunk: Choose whole runs at random instead of samples, so that a split touches few
            chunks; a run at a border is cut.

    Returns:
        Each in the order of ``runs``, unless ``by_chunk`` put its runs in a random one.
    """
    edges = [0, *np.cumsum(counts).tolist()]
    if seed is None or by_chunk:
        order = None if seed is None else permutation(runs.num_runs, _SPLIT, seed)
        source = runs if order is None else runs.take(order)
        return [source.slice(lo, hi) for lo, hi in pairwise(edges)]
    order = permutation(len(runs), _SPLIT, seed)
    return [pick(runs, np.sort(order[lo:hi])) for lo, hi in pairwise(edges)]


def subsample(runs: Runs, share: float, *, seed: int | None, by_chunk: bool) -> Runs:
    """Return ``share`` of the samples; above 1, whole copies of all and a part of them.

    Args:
        runs: The samples.
        share: How many of them, as a share; above 0.
        seed: Choose the part at random; None takes the first.
        by_chunk: As for ``split``.
    """
    copies, rest = divmod(round(len(runs) * share), max(1, len(runs)))
    part: list[Runs] = []
    if rest:
        part = split(runs, [rest], seed=seed, by_chunk=by_chunk)
    return Runs.concat([*([runs] * copies), *part])
