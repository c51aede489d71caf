"""The progress bar of a job."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

__all__ = ["ProgressBar"]


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar without tqdm's own thread, which would outlive the job."""

    monitor_interval = 0


# A lock of this process: tqdm's own would fix the start method of multiprocessing.
_Bar.set_lock(threading.RLock())


class ProgressBar:
    """Inputs and bytes done, shown on stderr at most ten times a second.

    Args:
        total: How many inputs there are, or None.
        initial: How many were done by an earlier attempt.
        label: What is shown before the bar.
        shown: Whether anything is shown.
    """

    def __init__(
        self, *, total: int | None, initial: int = 0, label: str = "optimize", shown: bool = True
    ) -> None:
        self._nbytes = 0
        self._bar: Any = None
        if shown:
            self._bar = _Bar(
                total=total, initial=initial, desc=label, unit=" inputs", dynamic_ncols=True
            )

    def update(self, inputs: int, nbytes: int) -> None:
        """Add inputs and bytes."""
        self._nbytes += nbytes
        if self._bar is None:
            return
        seconds = self._bar.format_dict["elapsed"]
        if seconds > 0:
            rate = self._nbytes / seconds / 1e6
            self._bar.set_postfix_str(f"{rate:.1f} MB/s", refresh=False)
        self._bar.update(inputs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
