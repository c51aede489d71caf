"""Whether the inputs of a resumed job are those of the interrupted one."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np

from aiolit.errors import ConfigError
from aiolit.processing.failure import show
from aiolit.processing.journal import InputMark
from aiolit.processing.sources import InputSource

__all__ = ["CheckedSource", "InputDigest"]

# Deeper than inputs are nested; what refers to itself ends here.
_DEPTH = 16


class InputDigest:
    """A running digest of all inputs so far.

    Text, bytes, numbers, paths, arrays, and containers and objects of such count by their value; of
    anything else only the type does. Pickles would not do: equal values can have unequal ones.
    """

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self.count = 0

    def add(self, value: Any) -> None:
        """Take the next input in."""
        self._add(value, _DEPTH)
        self.count += 1

    def mark(self) -> InputMark:
        """Return how many inputs there were, and what they were."""
        return InputMark(self.count, self._hash.hexdigest())

    def _put(self, kind: bytes, data: bytes) -> None:
        self._hash.update(struct.pack("<cQ", kind, len(data)))
        self._hash.update(data)

    def _add(self, value: Any, depth: int) -> None:
        if isinstance(value, str | PurePath):
            self._put(b"s", str(value).encode(errors="surrogatepass"))
        elif value is None or isinstance(value, bool | int | float | complex | Enum | np.generic):
            self._put(b"n", repr(value).encode())
        elif isinstance(value, bytes | bytearray | memoryview):
            self._put(b"b", bytes(value))
        elif depth == 0:
            self._put(b"o", b"")
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            self._put(b"a", f"{value.dtype.str}{value.shape}".encode())
            self._hash.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
        else:
            self._add_parts(value, depth - 1)

    def _add_parts(self, value: Any, depth: int) -> None:
        self._put(b"t", type(value).__qualname__.encode())
        if isinstance(value, dict):
            self._add_all([part for pair in value.items() for part in pair], depth)
        elif isinstance(value, list | tuple | deque):
            self._add_all(value, depth)
        elif isinstance(value, np.ndarray):
            self._add_all(value.tolist() if value.ndim else [value.item()], depth)
        elif isinstance(value, set | frozenset):
            self._put(b"u", b"".join(sorted(map(_digest, value))))
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            self._add_all([getattr(value, each.name) for each in dataclasses.fields(value)], depth)
        elif (array := _as_array(value)) is not None:
            self._add(array, depth)
        elif not isinstance(value, type) and hasattr(value, "__dict__"):
            self._add_all([part for pair in vars(value).items() for part in pair], depth)

    def _add_all(self, values: Iterable[Any], depth: int) -> None:
        parts = list(values)
        self._put(b"l", struct.pack("<Q", len(parts)))
        for part in parts:
            self._add(part, depth)


def _digest(value: Any) -> bytes:
    digest = InputDigest()
    digest.add(value)
    return digest.mark().digest.encode()


def _as_array(value: Any) -> Any:
    """Return what a tensor holds, where it lies in memory."""
    if not hasattr(value, "__array__"):
        return None
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return None if array.dtype.hasobject else array


class CheckedSource(InputSource):
    """A source that compares its inputs with those an interrupted job was given.

    Inputs are held back until the next mark of that job is reached, so that none of a changed list
    is worked on.
    """

    def __init__(self, source: InputSource) -> None:
        self.total = source.total
        self._source = source
        self._digest = InputDigest()
        self._marks: deque[InputMark] = deque()
        self._last = InputMark(0, "")
        self._checked: deque[Any] = deque()
        self._ends = False

    def expect(self, marks: Iterable[InputMark], *, ends: bool = False) -> None:
        """Compare with these, before anything was taken; ``ends`` refuses further inputs."""
        self._ends = ends
        self._marks.extend(sorted(set(marks), key=lambda mark: mark.count))

    def mark(self) -> InputMark:
        """Return what the source has given so far."""
        return self._digest.mark()

    async def take(self, most: int) -> Sequence[Any]:
        """Return the next inputs.

        Raises:
            ConfigError: They are not those of the interrupted job; it names where they differ.
        """
        while self._marks and not self._checked:
            await self._check(self._marks.popleft())
        if self._checked:
            return [self._checked.popleft() for _ in range(min(most, len(self._checked)))]
        block = await self._source.take(most)
        if block and self._ends:
            raise ConfigError(
                f"the interrupted job was complete with {self._digest.count:,} inputs, and the "
                f"source gives more; {_ADVICE}"
            )
        for value in block:
            self._digest.add(value)
        return block

    async def _check(self, expected: InputMark) -> None:
        while (missing := expected.count - self._digest.count) > 0:
            block = await self._source.take(missing)
            if not block:
                raise ConfigError(
                    f"the source gave {self._digest.count:,} inputs, but the interrupted job had "
                    f"been given {expected.count:,}; {_ADVICE}"
                )
            for value in block:
                self._digest.add(value)
            self._checked.extend(block)
        if self.mark() != expected:
            where = f"{self._last.count} to {expected.count - 1}"
            raise ConfigError(
                f"the inputs are not those of the interrupted job: among inputs {where} (the first "
                f"is now {show(self._checked[0] if self._checked else None)}) something has "
                f"changed; {_ADVICE}"
            )
        self._last = expected

    def completed(self, inputs: Sequence[Any]) -> None:
        """Pass on that these inputs need no more work."""
        self._source.completed(inputs)

    async def close(self) -> None:
        """Close the source."""
        await self._source.close()


_ADVICE = "give it the same inputs, or delete the .checkpoints folder of the output to start anew"
