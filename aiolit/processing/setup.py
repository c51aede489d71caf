"""What a worker is told once, and what every kind of worker does with a sample."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiolit.format.encryption import Encryption
from aiolit.format.loader import EncodedItem, ItemLoader
from aiolit.format.serializers import Serializer, SerializerRegistry
from aiolit.processing.failure import describe
from aiolit.processing.protocol import Kind, RunMessage, Schema, kind_and_value
from aiolit.runtime.channel import Channel

__all__ = ["SampleSender", "Setup", "is_async_function", "receive_run"]


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
        wants_last: Whether ``fn`` is told if an input is the last of its run.
        containers: Pickled calls that register the user's containers of samples.
    """

    fn: Callable[..., Any]
    loader: ItemLoader | None
    serializers: Mapping[str, Serializer] | None = None
    encryption: Encryption | None = None
    read: Callable[[Any], Any] | None = None
    skip_errors: bool = False
    concurrency: int = 64
    wants_last: bool = False
    containers: tuple[bytes, ...] = ()

    def call(self, value: Any, *, is_last: bool) -> Any:
        """Call the function with what was read for an input."""
        return self.fn(value, is_last) if self.wants_last else self.fn(value)


def is_async_function(fn: object) -> bool:
    """Whether calling ``fn`` gives a coroutine or an async generator."""
    while isinstance(fn, partial):
        fn = fn.func
    candidates = (fn, getattr(fn, "__call__", None))  # noqa: B004  the bound method is inspected
    return any(
        inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in candidates
    )


def receive_run(channel: Channel) -> tuple[RunMessage, Sequence[Any]] | None:
    """Wait for the next run and load its inputs; None, and the parent is told, where that fails."""
    header, _ = channel.recv()
    run: RunMessage = kind_and_value(header)[1]
    try:
        return run, pickle.loads(run.inputs)
    except BaseException as error:  # noqa: BLE001  the inputs' classes are the user's code
        channel.send((Kind.FAILED, describe(run.number, run.first, "", error)))
        return None


class SampleSender:
    """Encodes samples, and tells the parent their tree before the first of them leaves."""

    def __init__(self, setup: Setup, channel: Channel) -> None:
        self._channel = channel
        self._told = False
        self._encoder = None
        if setup.loader is not None:
            registry = SerializerRegistry(setup.serializers)
            self._encoder = setup.loader.encoder(registry, setup.encryption)

    @property
    def wants_samples(self) -> bool:
        """Whether what ``fn`` returns is written."""
        return self._encoder is not None

    def encode(self, sample: Any) -> EncodedItem:
        """Return the sample as bytes.

        Raises:
            SchemaError: It does not fit the first one; the message names the leaf.
        """
        encoder = self._encoder
        if encoder is None:
            raise RuntimeError("this job writes no samples")
        item = encoder.encode(sample)
        if not self._told:
            self._told = True
            schema = Schema(
                tuple(encoder.data_format), encoder.data_spec, tuple(encoder.pickled_leaves)
            )
            self._channel.send((Kind.SCHEMA, schema))
        return item
