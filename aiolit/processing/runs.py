"""Cut inputs into small runs and put their results back in order. Decisions only, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Run", "RunSizer"]

_AIM_S = 0.1
_GROWTH = 4.0
_MAX_INPUTS = 8192


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive inputs that one worker takes in one message.

    Attributes:
        number: Position among the runs of the job.
        first: Index of the first input.
        inputs: The inputs.
        attempt: How often workers died over this run.
        skip: How many samples of the first input lie in the data set already (after a restart).
    """

    number: int
    first: int
    inputs: Sequence[Any]
    attempt: int = 0
    skip: int = 0

    @property
    def stop(self) -> int:
        """The index behind the last input."""
        return self.first + len(self.inputs)

    def indices(self) -> Iterator[int]:
        """The indices of its inputs."""
        return iter(range(self.first, self.stop))


class RunSizer:
    """How many inputs the next run takes, so that a run lasts about 100 ms.

    It starts with one input and grows at most fourfold from one finished run to the next. Sizes
    change who works on what and when, never what is written.
    """

    def __init__(
        self, num_workers: int, *, total: int | None = None, aim_s: float = _AIM_S
    ) -> None:
        self._workers = num_workers
        self._total = total
        self._aim_s = aim_s
        self._size = 1.0
        self._handed = 0

    def next_size(self) -> int:
        """Return the number of inputs of the next run; towards the end runs get shorter."""
        size = int(self._size)
        if self._total is not None:
            # The last runs are small, so that the workers end together.
            share = (self._total - self._handed) // (2 * self._workers)
            size = min(size, max(1, share))
        self._handed += size
        return size

    def finished(self, num_inputs: int, seconds: float) -> None:
        """Take note of how long a run of ``num_inputs`` took in its worker."""
        wanted = num_inputs * self._aim_s / max(seconds, 1e-6)
        self._size = min(max(1.0, wanted), self._size * _GROWTH, _MAX_INPUTS)
