"""What a worker process runs."""

from __future__ import annotations

import gc
import os
import pickle
import warnings

from aiolit.processing.async_worker import AsyncWorker
from aiolit.processing.failure import describe
from aiolit.processing.protocol import Kind
from aiolit.processing.setup import Setup, is_async_function
from aiolit.processing.worker import Worker
from aiolit.runtime.channel import Channel, ChannelClosedError
from aiolit.runtime.memory import keep_freed_memory

__all__ = ["serve"]

_KEPT_BYTES = 16 << 20


def serve(channel: Channel, setup_data: bytes, number: int) -> None:
    """Work for the parent at the other end of ``channel`` until it closes its end."""
    try:
        _serve(channel, setup_data, number)
    except ChannelClosedError:
        # The parent has all it wants, or is gone.
        return


def _serve(channel: Channel, setup_data: bytes, number: int) -> None:
    # What the worker was born with is not looked through again and again for garbage, nor at its
    # end, which takes 6 ms so and else 25. What the function brings along is.
    gc.freeze()
    keep_freed_memory(_KEPT_BYTES)
    # The caller is warned once of leaves that are pickled, by the parent and not by each worker.
    warnings.filterwarnings("ignore", r"leaf '.*' is an? .* and is pickled", UserWarning)
    try:
        setup: Setup = pickle.loads(setup_data)
        for register in setup.containers:
            pickle.loads(register)()
        if (start := getattr(setup.fn, "_aiolit_start", None)) is not None:
            start(number)
        kind = AsyncWorker if is_async_function(setup.fn) else Worker
        worker = kind(setup, channel)
    except BaseException as error:  # noqa: BLE001  it is sent to the parent, whatever it is
        channel.send((Kind.FAILED, describe(-1, -1, "", error)))
        return
    channel.send((Kind.READY, os.getpid()))
    worker.serve()
