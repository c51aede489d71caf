"""The progress bar of a command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar without tqdm's own thread, which would outlive the command."""

    monitor_interval = 0


# A lock of this process: tqdm's own would fix the start method of multiprocessing.
_Bar.set_lock(threading.RLock())


@contextmanager
def chunk_bar(label: str, *, shown: bool) -> Iterator[Callable[[int, int], object] | None]:
    """Show chunks done on stderr while the block runs; yield what is told how many there are."""
    if not shown:
        yield None
        return
    with _Bar(desc=label, unit=" chunks", dynamic_ncols=True, leave=False) as bar:

        def show(total: int, done: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextmanager
def byte_bar(label: str, total: int, *, shown: bool) -> Iterator[Callable[[int], object]]:
    """Show bytes done on stderr while the block runs; yield what adds to them."""
    if not shown:
        yield lambda nbytes: None
        return
    with _Bar(
        total=total, desc=label, unit="B", unit_scale=True, dynamic_ncols=True, leave=False
    ) as bar:
        yield bar.update
