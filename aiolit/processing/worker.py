"""The worker of a plain function: one run after the other, encoded samples back."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from aiolit.errors import ConfigError
from aiolit.processing.failure import describe, show
from aiolit.processing.outbox import Outbox
from aiolit.processing.protocol import Kind, RunMessage
from aiolit.processing.setup import SampleSender, Setup, receive_run
from aiolit.runtime.channel import Channel

__all__ = ["Worker"]


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
                read = value if self._setup.read is None else self._setup.read(value)
                result = self._setup.call(read, is_last=offset == len(inputs) - 1)
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
