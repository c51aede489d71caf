"""The worker process: run the user's function on runs of inputs and send encoded samples back."""

from __future__ import annotations

import inspect
import os
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from aiolit.errors import ConfigError
from aiolit.processing.failure import describe, show
from aiolit.processing.outbox import Outbox
from aiolit.processing.protocol import Kind, RunMessage, kind_and_value
from aiolit.processing.setup import SampleSender, Setup, is_async_function
from aiolit.runtime.channel import Channel, ChannelClosedError

__all__ = ["Worker", "receive_run", "serve"]


class Worker:
    """Works on one run after the other."""

    def __init__(self, setup: Setup, channel: Channel) -> None:
        self._setup = setup
        self._channel = channel
        self._sender = SampleSender(setup, channel)

    def serve(self) -> None:
        """Work until the parent closes its end, or until an exception ends the job."""
        while (received := receive_run(self._channel)) is not None:
            if not self.work(*received):
                return

    def work(self, run: RunMessage, inputs: Sequence[Any]) -> bool:
        """Work on a run; returns False when the job is over because of an exception."""
        outbox = Outbox(run.number, self._channel)
        for offset, value in enumerate(inputs):
            index = run.first + offset
            try:
                result = self._setup.call(value, is_last=offset == len(inputs) - 1)
                self._take(result, outbox, run.skip if offset == 0 else 0)
            except BaseException as error:  # noqa: BLE001  it is sent to the parent, whatever it is
                failure = describe(run.number, index, show(value), error)
                outbox.flush()
                skipped = self._setup.skip_errors and isinstance(error, Exception)
                self._channel.send((Kind.SKIPPED if skipped else Kind.FAILED, failure))
                if not skipped:
                    return False
            outbox.input_done()
        outbox.flush(ended=True)
        return True

    def _take(self, result: Any, outbox: Outbox, skip: int) -> None:
        if result is None or not self._sender.wants_samples:
            return
        if inspect.isawaitable(result):
            raise ConfigError(
                "the function returned an awaitable; write it with `async def`, so that it can be "
                "recognised and kept in flight"
            )
        for sample in result if isinstance(result, Iterator) else (result,):
            if sample is None:
                continue
            if skip:
                skip -= 1
            else:
                item = self._sender.encode(sample)
                outbox.add(item.parts, item.nbytes, item.dim)


def receive_run(channel: Channel) -> tuple[RunMessage, Sequence[Any]] | None:
    """Wait for the next run and load its inputs; None, and the parent is told, where that fails."""
    header, _ = channel.recv()
    run: RunMessage = kind_and_value(header)[1]
    try:
        return run, pickle.loads(run.inputs)
    except BaseException as error:  # noqa: BLE001  the inputs' classes are the user's code
        channel.send((Kind.FAILED, describe(run.number, run.first, "", error)))
        return None


def serve(channel: Channel, setup_data: bytes, number: int) -> None:
    """Work for the parent at the other end of ``channel`` until it closes its end."""
    try:
        _serve(channel, setup_data, number)
    except ChannelClosedError:
        # The parent has all it wants, or is gone.
        return


def _serve(channel: Channel, setup_data: bytes, number: int) -> None:
    try:
        setup: Setup = pickle.loads(setup_data)
        if (start := getattr(setup.fn, "_aiolit_start", None)) is not None:
            start(number)
        if is_async_function(setup.fn):
            # Plain functions need no event loop, and start without importing one.
            from aiolit.processing.async_worker import AsyncWorker

            serve_runs = AsyncWorker(setup, channel).serve
        else:
            serve_runs = Worker(setup, channel).serve
    except BaseException as error:  # noqa: BLE001  it is sent to the parent, whatever it is
        channel.send((Kind.FAILED, describe(-1, -1, "", error)))
        return
    channel.send((Kind.READY, os.getpid()))
    serve_runs()
