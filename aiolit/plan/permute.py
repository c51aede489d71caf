"""Permutations that are the same on every machine and with every version of numpy.

numpy promises stable streams for ``RandomState`` only (NEP 19), and resuming a run must not depend
on the version it is resumed with. Large permutations are shuffled by it. Its seeding takes longer
than all of a small one: those sort keys made here, by SplitMix64 (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014), a bijection of 64-bit integers. Distinct
inputs give distinct keys, so sorting them has one result, whatever the sorting algorithm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_LARGE = 4096  # from here on shuffling is faster than sorting; part of what fixes the order
_GAMMA = 0x9E3779B97F4A7C15


def mix(*words: int) -> int:
    """Fold integers into one well-mixed 64-bit integer; the order of the words matters."""
    state = 0
    for word in words:
        state = _finalize(((state ^ (word & _MASK)) + _GAMMA) & _MASK)
    return state


def keys(count: int, seed: int, start: int = 0) -> NDArray[np.uint64]:
    """Return ``count`` distinct pseudo-random 64-bit keys of the counters from ``start`` on."""
    z = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    z *= np.uint64(_GAMMA)
    z += np.uint64(seed & _MASK)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def permutation(count: int, *words: int) -> NDArray[np.int64]:
    """Return a permutation of ``range(count)``, a function of ``count`` and the key words alone."""
    seed = mix(*words)
    if count < _LARGE:
        return np.argsort(keys(count, seed))
    order = np.arange(count, dtype=np.int64)
    np.random.RandomState([seed >> 32, seed & 0xFFFFFFFF]).shuffle(order)
    return order


def _finalize(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
