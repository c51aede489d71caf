"""What parent and worker say to each other. A message is a kind, a value, and buffers.

The buffers of a piece are: int64 sizes of its samples, int64 dims of its samples (token data sets,
else empty), and the samples' bytes, one after the other.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiolit.runtime.remote_error import RemoteError

__all__ = [
    "Bytes",
    "Failure",
    "Kind",
    "Piece",
    "PieceMeta",
    "Remainder",
    "RunMessage",
    "Schema",
    "split_piece",
]

Bytes = bytes | bytearray | memoryview


class Kind(enum.IntEnum):
    """The kinds of message."""

    # parent to worker
    SETUP = 1
    RUN = 2
    # worker to parent
    READY = 16
    SCHEMA = 17
    PIECE = 18
    FAILED = 19
    SKIPPED = 20


@dataclass(frozen=True, slots=True)
class RunMessage:
    """A run on its way to a worker.

    Attributes:
        number: The run.
        first: Index of the first input.
        skip: How many samples of the first input are not wanted.
        inputs: The inputs, pickled apart, so that a failure to load them can be told.
    """

    number: int
    first: int
    skip: int
    inputs: bytes


@dataclass(frozen=True, slots=True)
class PieceMeta:
    """What a piece says about its samples.

    Attributes:
        run: The run they belong to.
        counts: Samples of each input, from the first input of the run that was not complete.
        complete: Whether the last input of ``counts`` has given all its samples.
        ended: Whether the run is complete.
        num_samples: Samples in the payload.
        has_dims: Whether the payload has a dim for every sample.
        seconds: Working time of the run so far.
    """

    run: int
    counts: Sequence[int]
    complete: bool
    ended: bool
    num_samples: int
    has_dims: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Piece:
    """Some consecutive samples of a run, encoded."""

    meta: PieceMeta
    sizes: NDArray[np.int64]
    dims: NDArray[np.int64] | None
    data: memoryview

    @property
    def nbytes(self) -> int:
        """Bytes it takes in memory."""
        return self.data.nbytes + self.sizes.nbytes * (1 if self.dims is None else 2)

    def parts(self) -> list[memoryview]:
        """Return its buffers, in the order in which `split_piece` takes them apart."""
        heads = [self.sizes] if self.dims is None else [self.sizes, self.dims]
        return [*(head.data.cast("B") for head in heads if head.size), self.data]

    @staticmethod
    def received(meta: PieceMeta, buffers: Sequence[memoryview]) -> Piece:
        """Return the piece in a message."""
        sizes, dims, data = buffers
        return Piece(
            meta,
            np.frombuffer(sizes, dtype=np.int64),
            np.frombuffer(dims, dtype=np.int64) if meta.has_dims else None,
            data,
        )


def split_piece(meta: PieceMeta, joined: memoryview) -> Piece:
    """Take a piece apart whose buffers follow each other; nothing is copied."""
    head = 8 * meta.num_samples
    sizes = np.frombuffer(joined[:head], dtype=np.int64)
    if not meta.has_dims:
        return Piece(meta, sizes, None, joined[head:])
    dims = np.frombuffer(joined[head : 2 * head], dtype=np.int64)
    return Piece(meta, sizes, dims, joined[2 * head :])


@dataclass(frozen=True, slots=True)
class Schema:
    """The tree of the samples.

    Attributes:
        data_format: The format of every leaf.
        data_spec: The tree as JSON text.
        pickled: Where there are leaves that only pickle can store; no part of what is compared.
    """

    data_format: tuple[str, ...]
    data_spec: str
    pickled: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """An exception on its way from the worker to the caller.

    Attributes:
        run: The run.
        index: The index of the input, or -1.
        shown: The input's repr, shortened.
        error: The exception.
    """

    run: int
    index: int
    shown: str
    error: RemoteError


@dataclass(frozen=True, slots=True)
class Remainder:
    """How far a run has come.

    Attributes:
        inputs: Inputs that are complete.
        samples: Samples the next input has given.
    """

    inputs: int = 0
    samples: int = 0

    def after(self, counts: Sequence[int], *, complete: bool) -> Remainder:
        """Return where the run stands after a piece with these counts."""
        if not counts:
            return self
        if complete:
            return Remainder(self.inputs + len(counts), 0)
        before = self.samples if len(counts) == 1 else 0
        return Remainder(self.inputs + len(counts) - 1, before + counts[-1])


def kind_and_value(header: Any) -> tuple[Kind, Any]:
    """Take the header of a message apart."""
    kind, value = header
    return Kind(kind), value
