"""A thread that another one can tell to end, also while it waits for the event loop."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from typing import Any

from aiolit.runtime.loop_thread import Job, LoopThread

__all__ = ["StoppableThread"]


class StoppableThread(threading.Thread):
    """A thread whose calls of a portal end early once ``stop`` was called.

    They raise ``concurrent.futures.CancelledError`` then, those under way and those to come.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name=name)
        self.stopped = False
        self._call: tuple[LoopThread, Job[Any]] | None = None

    def stop(self) -> None:
        """Tell it to end; does not wait for that. Finalizers may call it: it takes no lock that is
        held while anything is waited for."""
        # In this order, as the other one in begin_call: one of the two sees what the other did.
        self.stopped = True
        if (call := self._call) is not None:
            shared, job = call
            shared.post(job.cancel)

    def begin_call(self, shared: LoopThread, job: Job[Any]) -> None:
        """Note a call of a portal that this thread is about to wait for.

        Raises:
            CancelledError: The thread was told to end.
        """
        self._call = shared, job
        if self.stopped:
            raise CancelledError

    def end_call(self) -> None:
        """Forget the call."""
        self._call = None
