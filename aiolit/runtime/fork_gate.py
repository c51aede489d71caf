"""No fork while a process is being started.

A child that is forked by another thread in that moment keeps a copy of the pipes of the one that is
started. Then nobody sees these close: the start never returns, or a death is never noticed. A
data loader with forked workers, read while `optimize` starts its own, is such a thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

__all__ = ["no_fork"]


class _Gate:
    """A lock that every fork of this process takes, once it was first used."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._registered = False

    @contextmanager
    def closed(self) -> Iterator[None]:
        with self._lock:
            if not self._registered:
                self._registered = True
                os.register_at_fork(
                    before=self._lock.acquire,
                    after_in_parent=self._lock.release,
                    after_in_child=self._lock.release,
                )
            yield


_gate = _Gate()


def no_fork() -> AbstractContextManager[None]:
    """Hold off forks by other threads inside the ``with`` block; for starting a process only."""
    return _gate.closed()
