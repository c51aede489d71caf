"""The worker process of an async function: many inputs in flight on the loop of its portal."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Any

from aiolit.format.loader import EncodedItem
from aiolit.groups import single_error
from aiolit.processing.failure import describe, show
from aiolit.processing.outbox import Outbox
from aiolit.processing.protocol import Kind, RunMessage
from aiolit.processing.setup import SampleSender, Setup, receive_run
from aiolit.runtime.channel import Channel
from aiolit.runtime.portal import portal
from aiolit.store.threads import run_in_thread

__all__ = ["AsyncWorker"]

# Samples of an input that wait for earlier inputs of its run, in bytes, before it pauses.
_WAITING_BYTES = 8 << 20


class _JobEndedError(Exception):
    """An input failed and the parent knows."""


class AsyncWorker:
    """Keeps ``concurrency`` inputs in flight, of as many runs as that takes."""

    def __init__(self, setup: Setup, channel: Channel) -> None:
        self._setup = setup
        self._channel = channel
        self._sender = SampleSender(setup, channel)
        self._reading = asyncio.Lock()  # a reader is used by one thread at a time

    def serve(self) -> None:
        """Work until the parent closes its end, or until an exception ends the job."""
        with suppress(_JobEndedError):
            portal().call(self._serve)

    async def _serve(self) -> None:
        places = asyncio.Semaphore(self._setup.concurrency)
        loop = asyncio.get_running_loop()
        with single_error():
            async with asyncio.TaskGroup() as group:
                # A thread waits for messages; it ends when the parent closes its end.
                while (
                    received := await loop.run_in_executor(None, receive_run, self._channel)
                ) is not None:
                    run = _OpenRun(*received, self._channel)
                    for offset in range(len(run.inputs)):
                        await places.acquire()
                        group.create_task(self._work(run, offset, places))
                    if not run.inputs:
                        run.close_if_complete()
                raise _JobEndedError

    async def _work(self, run: _OpenRun, offset: int, places: asyncio.Semaphore) -> None:
        try:
            await self._one(run, offset)
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            self._failed(run, offset, error)  # raised by the function itself
        except BaseException as error:  # noqa: BLE001  it is sent to the parent, whatever it is
            self._failed(run, offset, error)
        finally:
            places.release()
        run.input_done(offset)

    def _failed(self, run: _OpenRun, offset: int, error: BaseException) -> None:
        index = run.message.first + offset
        failure = describe(run.message.number, index, show(run.inputs[offset]), error)
        if self._setup.skip_errors and isinstance(error, Exception):
            self._channel.send((Kind.SKIPPED, failure))
            return
        self._channel.send((Kind.FAILED, failure))
        raise _JobEndedError from error

    async def _one(self, run: _OpenRun, offset: int) -> None:
        value = run.inputs[offset]
        if self._setup.read is not None:
            async with self._reading:
                value = await run_in_thread(self._setup.read, value)
        result = self._setup.call(value, is_last=offset == len(run.inputs) - 1)
        if inspect.isawaitable(result):
            result = await result
        if result is None or not self._sender.wants_samples:
            return
        skip = run.message.skip if offset == 0 else 0
        async for sample in _samples(result):
            if sample is None:
                continue
            if skip:
                skip -= 1
            else:
                await run.add(offset, self._sender.encode(sample))


async def _samples(result: Any) -> AsyncIterator[Any]:
    if isinstance(result, AsyncIterator):
        async for sample in result:
            yield sample
    else:
        for sample in result if isinstance(result, Iterator) else (result,):
            yield sample


class _OpenRun:
    """A run whose inputs end in any order and whose samples leave in the order of the inputs."""

    def __init__(self, message: RunMessage, inputs: Sequence[Any], channel: Channel) -> None:
        self.message = message
        self.inputs = inputs
        self._outbox = Outbox(message.number, channel)
        self._next = 0
        self._waiting: list[deque[EncodedItem]] = [deque() for _ in inputs]
        self._waiting_nbytes = [0] * len(inputs)
        self._done = [False] * len(inputs)
        self._turns: dict[int, asyncio.Event] = {}

    async def add(self, offset: int, item: EncodedItem) -> None:
        """Take a sample; one that is early waits here, and so does an input with many of them."""
        if offset == self._next:
            self._outbox.add(item.parts, item.nbytes, item.dim)
            return
        self._waiting[offset].append(item)
        self._waiting_nbytes[offset] += item.nbytes
        if self._waiting_nbytes[offset] > _WAITING_BYTES:
            turn = self._turns.setdefault(offset, asyncio.Event())
            await turn.wait()

    def input_done(self, offset: int) -> None:
        """Take note that an input has given all its samples."""
        self._done[offset] = True
        while self._next < len(self.inputs) and self._done[self._next]:
            self._release(self._next)
            self._outbox.input_done()
            self._next += 1
        if self._next < len(self.inputs):
            self._release(self._next)
        self.close_if_complete()

    def close_if_complete(self) -> None:
        """Send the end of the run once all inputs are done."""
        if self._next == len(self.inputs):
            self._outbox.flush(ended=True)

    def _release(self, offset: int) -> None:
        for item in self._waiting[offset]:
            self._outbox.add(item.parts, item.nbytes, item.dim)
        self._waiting[offset].clear()
        self._waiting_nbytes[offset] = 0
        if (turn := self._turns.pop(offset, None)) is not None:
            turn.set()
