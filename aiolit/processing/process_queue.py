"""A ``multiprocessing.Queue`` as a source: drained in the parent, whatever its start method."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.queues
import os
import queue as thread_queue
import threading
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
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

    It waits for the pipe, and for the end of this process's children. Where nobody is left who
    could put anything, nobody will ever send the mark, and that is an error.
    """

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self._had_children = False
        self._looked = False
        self._ended = False

    async def take(self, most: int) -> Sequence[Any]:
        """Return the next inputs; none after `ALL_DONE`.

        Raises:
            ProducerError: Nobody is left who could put `ALL_DONE`.
        """
        while not self._ended:
            # Before the look into the pipe: what a child put before it ended is in there.
            children = multiprocessing.active_children()
            block = await run_in_thread(self._drain, most)
            if block and block[-1] is ALL_DONE:
                self._ended = True
                block.pop()
            if block:
                self._note(children)
                return block
            if self._ended:
                break
            if not children and not self._looked and await run_in_thread(self._is_orphaned):
                raise ProducerError(
                    "the process that fills the queue has ended without putting ALL_DONE"
                )
            self._looked = not children
            self._note(children)
            await self._event([child.sentinel for child in children])
        return []

    def _note(self, children: Sequence[object]) -> None:
        if children:
            self._had_children, self._looked = True, False

    def _is_orphaned(self) -> bool:
        """Whether no process and no thread is left that could put something."""
        # The thread that writes into the pipe starts with the first `put` in this process.
        if getattr(self._queue, "_thread", None) is not None:
            return False
        holders = other_holders(self._queue._reader.fileno())
        if holders is not None:
            return not holders and (self._had_children or not _other_threads())
        return self._had_children

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


def _other_threads() -> bool:
    return any(
        thread is not threading.main_thread() and not thread.name.startswith("aiolit-")
        for thread in threading.enumerate()
    )


def other_holders(fd: int) -> list[int] | None:
    """Return the pids of other processes that have the pipe open, or None where nobody knows."""
    processes = Path("/proc")
    try:
        pipe = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None
    found = []
    for folder in processes.iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            with suppress(OSError):  # it has ended, or belongs to somebody else
                if any(os.readlink(each) == pipe for each in (folder / "fd").iterdir()):
                    found.append(int(folder.name))
    return found
