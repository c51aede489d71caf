"""How long inputs take, as the user says."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ConfigError

__all__ = ["WeightedSizer", "check_weights"]


class _Sizer(Protocol):
    def next_size(self) -> int: ...

    def finished(self, num_inputs: int, seconds: float) -> None: ...


def check_weights(weights: Any, items: Any, batch_size: int | None) -> NDArray[np.float64] | None:
    """Return the weight of each unit of work (an input, or a batch of them), or None.

    Raises:
        ConfigError: There is not one positive number for every input.
    """
    if weights is None:
        return None
    if not isinstance(items, list | tuple | range):
        raise ConfigError("weights needs inputs that are a list")
    try:
        values = np.asarray(weights, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"weights must be numbers: {error}") from error
    if values.shape != (len(items),):
        raise ConfigError(f"there are {values.size} weights for {len(items)} inputs")
    if not np.isfinite(values).all() or (values < 0).any():
        raise ConfigError("weights must be finite and not negative")
    if batch_size is not None:
        values = np.add.reduceat(values, np.arange(0, len(values), batch_size))
    return values


class WeightedSizer:
    """Runs of about equal weight instead of equal length."""

    def __init__(self, sizer: _Sizer, weights: NDArray[np.float64]) -> None:
        self._sizer = sizer
        self._ends = np.concatenate([[0.0], np.cumsum(weights)])
        self._mean = float(self._ends[-1]) / max(1, len(weights))
        self._handed = 0

    def next_size(self) -> int:
        """Return the number of inputs of the next run: at least one."""
        wanted = self._ends[min(self._handed, len(self._ends) - 1)]
        wanted += self._sizer.next_size() * self._mean
        stop = int(np.searchsorted(self._ends, wanted, side="right")) - 1
        size = max(1, stop - self._handed)
        self._handed += size
        return size

    def finished(self, num_inputs: int, seconds: float) -> None:
        """Take note of how long a run took."""
        self._sizer.finished(num_inputs, seconds)
