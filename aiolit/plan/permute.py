"""Permutations that are the same on every machine and with every version of numpy.

numpy promises stable streams for ``RandomState`` only, and resuming a run must not depend on the
version it is resumed with. So the keys are made here: SplitMix64 (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", OOPSLA 2014), a bijection of 64-bit integers. Distinct
inputs give distinct keys, so sorting them has one result, whatever the sorting algorithm.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
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
    return np.argsort(keys(count, mix(*words)))


def _finalize(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
