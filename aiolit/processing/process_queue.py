"""A ``multiprocessing.Queue`` as a source: drained in the parent, whatever its start method."""

from __future__ import annotations

import asyncio
import multiprocessing
import queue as thread_queue
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from aiolit.errors import ProducerError
from aiolit.processing.sentinel import ALL_DONE
from aiolit.processing.sources import InputSource
from aiolit.store.threads import run_in_thread

__all__ = ["ProcessQueueSource", "is_process_queue"]


def is_process_queue(items: object) -> bool:
    """Whether it is a queue that other processes put into through a pipe."""
    return isinstance(getattr(items, "_reader", None), Connection) and hasattr(items, "get")


class ProcessQueueSource(InputSource):
    """What is put into a ``multiprocessing.Queue`` or ``SimpleQueue``, up to `ALL_DONE`.

    It waits for the pipe, and for the end of this process's children: where all of them have
    ended, nothing is left in the pipe, and this process has put nothing itself, nobody will ever
    send the mark, and that is an error.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._had_children = False
        self._ended = False

    async def take(self, most: int) -> Sequence[Any]:
        """Return the next inputs; none after `ALL_DONE`.

        Raises:
            ProducerError: Every child process has ended without sending `ALL_DONE`.
        """
        while not self._ended:
            children = multiprocessing.active_children()
            block = await run_in_thread(self._drain, most)
            if block and block[-1] is ALL_DONE:
                self._ended = True
                block.pop()
            if block:
                return block
            if self._ended:
                break
            if self._had_children and not children and not self._fed_by_us():
                raise ProducerError(
                    "the process that fills the queue has ended without putting ALL_DONE"
                )
            self._had_children = self._had_children or bool(children)
            await self._event([child.sentinel for child in children])
        return []

    def _drain(self, most: int) -> list[Any]:
        block: list[Any] = []
        while len(block) < most and self._queue._reader.poll():
            try:
                block.append(self._get())
            except thread_queue.Empty:
                break
            if block[-1] is ALL_DONE:
                break
        return block

    def _get(self) -> Any:
        if isinstance(self._queue, multiprocessing.queues.Queue):
            return self._queue.get(block=False)
        return self._queue.get()

    def _fed_by_us(self) -> bool:
        # The thread that writes into the pipe starts with the first `put` in this process.
        return getattr(self._queue, "_thread", None) is not None

    async def _event(self, sentinels: Sequence[int]) -> None:
        """Wait until the pipe has something, or a child process ends."""
        loop = asyncio.get_running_loop()
        happened = asyncio.Event()
        fds = [self._queue._reader.fileno(), *sentinels]
        watched = []
        try:
            for fd in fds:
                loop.add_reader(fd, happened.set)
                watched.append(fd)
            await happened.wait()
        finally:
            for fd in watched:
                loop.remove_reader(fd)
