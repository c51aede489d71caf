"""The worker process: run the user's function on runs of inputs and send encoded samples back."""

from __future__ import annotations

import inspect
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiolit.errors import ConfigError
from aiolit.format.encryption import Encryption
from aiolit.format.loader import ItemLoader, SampleEncoder
from aiolit.format.serializers import Serializer, SerializerRegistry
from aiolit.processing.failure import describe, show
from aiolit.processing.outbox import Outbox
from aiolit.processing.protocol import Kind, RunMessage, Schema, kind_and_value
from aiolit.runtime.channel import Channel, ChannelClosedError

__all__ = ["Setup", "is_async_function", "make_encoder", "serve"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What a worker is told once.

    Attributes:
        fn: The user's function.
        loader: The layout of the data set, or None where nothing is encoded.
        serializers: Serializers of the user, by name.
        encryption: How samples are encrypted, or None.
        read: Turns an input into what ``fn`` gets, or None.
        skip_errors: Whether an exception in ``fn`` skips the input.
        concurrency: Items in flight where ``fn`` is async.
    """

    fn: Callable[..., Any]
    loader: ItemLoader | None
    serializers: Mapping[str, Serializer] | None = None
    encryption: Encryption | None = None
    read: Callable[[Any], Any] | None = None
    skip_errors: bool = False
    concurrency: int = 64


def is_async_function(fn: object) -> bool:
    """Whether calling ``fn`` gives a coroutine or an async generator."""
    while isinstance(fn, partial):
        fn = fn.func
    candidates = (fn, getattr(fn, "__call__", None))  # noqa: B004  the bound method is inspected
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in candidates
    )


def make_encoder(setup: Setup) -> SampleEncoder | None:
    """Return the encoder of the samples, or None where nothing is encoded."""
    if setup.loader is None:
        return None
    registry = SerializerRegistry(setup.serializers)
    return setup.loader.encoder(registry, setup.encryption)


class Worker:
    """Works on one run after the other."""

    def __init__(self, setup: Setup, channel: Channel) -> None:
        self._setup = setup
        self._channel = channel
        self._encoder = make_encoder(setup)
        self._schema_sent = False

    def work(self, run: RunMessage, inputs: Sequence[Any]) -> bool:
        """Work on a run; returns False when the job is over because of an exception."""
        outbox = Outbox(run.number, self._channel)
        for offset, value in enumerate(inputs):
            index = run.first + offset
            try:
                self._one(value, outbox, run.skip if offset == 0 else 0)
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

    def _one(self, value: Any, outbox: Outbox, skip: int) -> None:
        if self._setup.read is not None:
            value = self._setup.read(value)
        result = self._setup.fn(value)
        if self._encoder is None or result is None:
            return
        if isinstance(result, Iterator):
            for sample in result:
                if sample is None:
                    continue
                if skip:
                    skip -= 1
                else:
                    self._encode(sample, outbox)
        elif inspect.isawaitable(result):
            raise ConfigError(
                "the function returned an awaitable; write it with `async def`, so that it can be "
                "recognised and kept in flight"
            )
        elif skip == 0:
            self._encode(result, outbox)

    def _encode(self, sample: Any, outbox: Outbox) -> None:
        encoder = self._encoder
        if encoder is None:
            return
        item = encoder.encode(sample)
        if not self._schema_sent:
            # Before the first piece, so that the parent can tell where workers disagree.
            self._schema_sent = True
            schema = Schema(
                tuple(encoder.data_format), encoder.data_spec, tuple(encoder.pickled_leaves)
            )
            self._channel.send((Kind.SCHEMA, schema))
        outbox.add(item.parts, item.nbytes, item.dim)


def serve(channel: Channel, setup_data: bytes) -> None:
    """Work for the parent at the other end of ``channel`` until it closes its end."""
    try:
        _serve(channel, setup_data)
    except ChannelClosedError:
        # The parent has all it wants, or is gone.
        return


def _serve(channel: Channel, setup_data: bytes) -> None:
    try:
        setup: Setup = pickle.loads(setup_data)
        engine = Worker(setup, channel)
    except BaseException as error:  # noqa: BLE001  it is sent to the parent, whatever it is
        channel.send((Kind.FAILED, describe(-1, -1, "", error)))
        return
    channel.send((Kind.READY, os.getpid()))
    while True:
        header, _ = channel.recv()
        run: RunMessage = kind_and_value(header)[1]
        try:
            inputs = pickle.loads(run.inputs)
        except BaseException as error:  # noqa: BLE001  the inputs' classes are the user's code
            channel.send((Kind.FAILED, describe(run.number, run.first, "", error)))
            return
        if not engine.work(run, inputs):
            return
