"""Batches copied to a device while the step before them runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from copy import copy
from typing import Any, Protocol

import torch

from aiolit.errors import ConfigError

_NONE = object()


class Copies(Protocol):
    """Copies batches to a device."""

    def begin(self, batch: Any) -> Any:
        """Begin to copy a batch, and return what ``finish`` takes."""

    def finish(self, begun: Any) -> Any:
        """Return the batch on the device, complete for whatever the device is told from now on."""


def copied_ahead(batches: Iterator[Any], copies: Copies) -> Iterator[Any]:
    """Yield batches on a device; from the second on, the copy of the next one is begun before.

    The first comes as soon as it is there. What ``batches`` raises is raised behind the batches
    before it.
    """
    first = next(batches, _NONE)
    if first is _NONE:
        return
    yield copies.finish(copies.begin(first))
    del first  # the taker's alone from here on
    failed: Exception | None = None
    held = _begun(batches, copies)
    while held is not _NONE:
        try:
            coming = _begun(batches, copies)
        except Exception as error:  # noqa: BLE001 - raised below, in its turn
            coming, failed = _NONE, error
        yield copies.finish(held)
        held = coming
    if failed is not None:
        raise failed


def _begun(batches: Iterator[Any], copies: Copies) -> Any:
    batch = next(batches, _NONE)
    return _NONE if batch is _NONE else copies.begin(batch)


class CudaCopies:
    """Copies from pinned memory on a stream of its own, beside what the device computes.

    Tensors are found in mappings, lists and tuples, however nested; another object that has a
    method ``to`` is moved by it, when it is handed out.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def begin(self, batch: Any) -> tuple[Any, torch.cuda.Event]:
        """Pin the batch's tensors and have the device copy them."""
        with torch.cuda.stream(self._stream):
            begun = map_leaves(batch, self._begin)
            return begun, self._stream.record_event()

    def finish(self, begun: tuple[Any, torch.cuda.Event]) -> Any:
        """Have what the device computes from now on wait for the copy; the caller does not."""
        batch, copied = begun
        current = torch.cuda.current_stream(self._device)
        current.wait_event(copied)

        def used_here(leaf: Any) -> Any:
            if isinstance(leaf, torch.Tensor):
                if leaf.is_cuda:  # its memory is the other stream's
                    leaf.record_stream(current)
                return leaf
            move = getattr(leaf, "to", None)
            return leaf if move is None else move(self._device, non_blocking=True)

        return map_leaves(batch, used_here)

    def _begin(self, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.device.type != "cpu":
            return leaf
        pinned = leaf if leaf.layout != torch.strided or leaf.is_pinned() else leaf.pin_memory()
        return pinned.to(self._device, non_blocking=True)


def map_leaves(batch: Any, function: Callable[[Any], Any]) -> Any:
    """Return a batch of the same build with ``function`` of each leaf.

    As torch does: mappings keep their type where they can be copied or made of a dict.
    """
    if isinstance(batch, Mapping):
        values = {key: map_leaves(value, function) for key, value in batch.items()}
        if type(batch) is dict:
            return values
        if isinstance(batch, MutableMapping):
            clone = copy(batch)
            clone.update(values)
            return clone
        kind: Any = type(batch)
        return kind(values)
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        if callable(getattr(batch, "to", None)):  # such as torch's PackedSequence
            return function(batch)
        return type(batch)(*(map_leaves(value, function) for value in batch))
    if type(batch) in (tuple, list):
        return type(batch)(map_leaves(value, function) for value in batch)
    return function(batch)


def checked_device(device: str | int | torch.device | None) -> torch.device | None:
    """Return the device that batches are to be copied to.

    Raises:
        ConfigError: It is no CUDA device, or there is none here.
    """
    if device is None:
        return None
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"prefetch_to_device={device!r} is no device: {error}") from error
    if found.type != "cuda":
        raise ConfigError(
            f"prefetch_to_device copies to a CUDA device, not to {str(found)!r}: leave it out"
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (found.index or 0) >= count:
        raise ConfigError(f"prefetch_to_device={str(found)!r}: torch sees {count} CUDA devices")
    return found
