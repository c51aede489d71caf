"""What the user calls inputs, turned into a source."""

from __future__ import annotations

import asyncio
import queue as thread_queue
from collections.abc import AsyncIterable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from aiolit.errors import ConfigError, ProducerError
from aiolit.processing.process_queue import ProcessQueueSource, is_process_queue
from aiolit.processing.sentinel import ALL_DONE
from aiolit.processing.sources import (
    AsyncQueueSource,
    AsyncSource,
    FeedSource,
    InputSource,
    SequenceSource,
    ThreadSource,
    pull_blocks,
)

__all__ = ["Pulled", "as_source", "prepare_items"]

# Blocks of inputs that the caller's thread brings to the job.
Pulled = Iterator[Sequence[Any]]


def prepare_items(items: Any, reader: Any, num_workers: int) -> Any:
    """Let a reader remap the inputs.

    Raises:
        ConfigError: The reader lacks a method, or the inputs have no length.
    """
    if reader is None:
        return items
    for method in ("remap_items", "read"):
        if not callable(getattr(reader, method, None)):
            raise ConfigError(f"reader must have the methods remap_items and read, not {reader!r}")
    if not isinstance(items, list | tuple | range):
        raise ConfigError("reader needs inputs that are a list")
    return reader.remap_items(list(items), num_workers)


def as_source(
    items: Any, *, on_loop: bool, timeout_s: float | None
) -> tuple[InputSource, Pulled | None]:
    """Return the source for what the user passed, and what the caller's thread must bring to it.

    Args:
        items: What the user passed as ``inputs`` or ``queue``.
        on_loop: Whether the caller is a coroutine on the job's loop.
        timeout_s: Longest silence of a queue in seconds, or None.

    Raises:
        ConfigError: It is nothing that gives inputs, or it is empty.
    """
    if isinstance(items, str | bytes | bytearray | memoryview):
        raise ConfigError(
            f"inputs must be a list or another collection of inputs, not {items!r}; for a single "
            "input write a list with one item"
        )
    if isinstance(items, list | tuple | range):
        return _not_empty(SequenceSource(items)), None
    if isinstance(items, asyncio.Queue):
        if not on_loop:
            raise ConfigError(
                "an asyncio.Queue belongs to your event loop; pass it to aiolit.aio.optimize there"
            )
        return AsyncQueueSource(items), None
    if isinstance(items, AsyncIterable):
        return AsyncSource(items), None
    if is_process_queue(items):
        return ProcessQueueSource(items), None
    blocks, total = _blocks(items, timeout_s)
    if on_loop:
        return _not_empty(ThreadSource(blocks, total=total)), None
    return _not_empty(FeedSource(total=total)), blocks


def _blocks(items: Any, timeout_s: float | None) -> tuple[Pulled, int | None]:
    """Return the inputs in blocks, to be pulled in a thread, and how many there are."""
    if callable(getattr(items, "get", None)) and callable(getattr(items, "put", None)):
        return _queue_blocks(items, timeout_s), None
    if isinstance(items, Iterable) or hasattr(items, "__getitem__"):
        return pull_blocks(items), _length(items)
    raise ConfigError(f"inputs must be something to iterate over, not {items!r}")


def _not_empty(source: InputSource) -> InputSource:
    if source.total == 0:
        raise ConfigError("inputs is empty: there is nothing to work on")
    return source


def _length(items: object) -> int | None:
    if isinstance(items, np.ndarray) and items.ndim == 0:
        raise ConfigError("inputs is an array without dimensions; pass a list")
    try:
        return len(items)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):
        return None


def _queue_blocks(queue: Any, timeout_s: float | None) -> Pulled:
    """Yield what comes out of a queue of threads, or of a manager, up to `ALL_DONE`."""
    while True:
        try:
            block = [queue.get() if timeout_s is None else queue.get(timeout=timeout_s)]
        except thread_queue.Empty as error:
            raise ProducerError(
                f"no input came for {timeout_s:g} seconds and no ALL_DONE either"
            ) from error
        while block[-1] is not ALL_DONE:
            try:
                block.append(queue.get_nowait())
            except thread_queue.Empty:
                break
        if block[-1] is ALL_DONE:
            block.pop()
            if block:
                yield block
            return
        yield block
