"""What an interrupted job has finished: one small record for each chunk that is in place.

A record lies in the output folder under ``.checkpoints/`` and is written after its chunk. It says
which inputs the chunk completes, how many samples an input that is cut at the chunk's end has given
so far, and what all inputs up to then were. Decisions only, no I/O.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiolit.errors import ConfigError

__all__ = [
    "FOLDER",
    "Covered",
    "InputMark",
    "Ledger",
    "Progress",
    "Record",
    "merge_ranges",
    "record_name",
    "within",
]

FOLDER = ".checkpoints"
_VERSION = 2


@dataclass(frozen=True, slots=True)
class InputMark:
    """What the first ``count`` inputs were, as a digest."""

    count: int
    digest: str


@dataclass(frozen=True, slots=True)
class Covered:
    """What a chunk adds to the finished work.

    Attributes:
        done: Half-open ranges of input indices that are complete with this chunk.
        partial: Input index to the number of its samples in this and earlier chunks.
    """

    done: tuple[tuple[int, int], ...] = ()
    partial: Mapping[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Event:
    index: int
    left: int
    complete: bool


class Ledger:
    """Follows samples from their inputs into chunks."""

    def __init__(self, partial: Mapping[int, int] | None = None) -> None:
        self._events: deque[_Event] = deque()
        self._written: dict[int, int] = dict(partial or {})

    def add(self, first: int, counts: Sequence[int], *, complete: bool) -> None:
        """Take note of the samples handed to the chunk builder, in that order."""
        last = len(counts) - 1
        for offset, count in enumerate(counts):
            self._events.append(_Event(first + offset, count, complete or offset < last))

    def seal(self, num_samples: int) -> Covered:
        """Say what a chunk with the next ``num_samples`` samples covers."""
        done: list[tuple[int, int]] = []
        touched: set[int] = set()
        left = num_samples
        while self._events:
            event = self._events[0]
            taken = min(event.left, left)
            event.left -= taken
            left -= taken
            if taken:
                self._written[event.index] = self._written.get(event.index, 0) + taken
                touched.add(event.index)
            if event.left:
                break
            self._events.popleft()
            if event.complete:
                self._written.pop(event.index, None)
                touched.discard(event.index)
                _extend(done, event.index)
        return Covered(tuple(done), {index: self._written[index] for index in sorted(touched)})


def _extend(ranges: list[tuple[int, int]], index: int) -> None:
    if ranges and ranges[-1][1] == index:
        ranges[-1] = (ranges[-1][0], index + 1)
    else:
        ranges.append((index, index + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One chunk of an unfinished job.

    Attributes:
        number: Position among the chunks of the job, from 0.
        chunk: Its object of the index, as JSON values.
        data_format: The format of every leaf.
        data_spec: The tree of the samples.
        covered: What it adds to the finished work.
        stored_nbytes: The length of its file.
        inputs: What had come in when it was stored; None where nobody keeps count.
        skipped: Index, repr and error of the inputs among the finished ones on which ``fn`` failed.
    """

    number: int
    chunk: Mapping[str, Any]
    data_format: tuple[str, ...]
    data_spec: str | None
    covered: Covered
    stored_nbytes: int = 0
    inputs: InputMark | None = None
    skipped: tuple[tuple[int, str, str], ...] = ()

    def dump(self) -> bytes:
        """Return the record as bytes."""
        value = {
            "version": _VERSION,
            "number": self.number,
            "chunk": dict(self.chunk),
            "data_format": list(self.data_format),
            "data_spec": self.data_spec,
            "done": [list(pair) for pair in self.covered.done],
            "partial": {str(index): count for index, count in self.covered.partial.items()},
            "stored_nbytes": self.stored_nbytes,
            "inputs": self.inputs and [self.inputs.count, self.inputs.digest],
            "skipped": [list(each) for each in self.skipped],
        }
        return json.dumps(value, sort_keys=True).encode()

    @staticmethod
    def parse(data: bytes, *, source: str) -> Record:
        """Read a record.

        Raises:
            ConfigError: It is garbled or of another version.
        """
        try:
            value = json.loads(data)
            if value["version"] != _VERSION:
                raise ConfigError(f"{source} was written by another version of aiolit")
            return Record(
                number=value["number"],
                chunk=value["chunk"],
                data_format=tuple(value["data_format"]),
                data_spec=value["data_spec"],
                covered=Covered(
                    tuple((start, stop) for start, stop in value["done"]),
                    {int(index): count for index, count in value["partial"].items()},
                ),
                stored_nbytes=value["stored_nbytes"],
                inputs=value["inputs"] and InputMark(*value["inputs"]),
                skipped=tuple((index, shown, why) for index, shown, why in value["skipped"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"{source} is no checkpoint record: {error!r}") from error


def record_name(number: int) -> str:
    """Return the name of the record of a chunk."""
    return f"chunk-{number:08d}.json"


@dataclass(frozen=True, slots=True)
class Progress:
    """What earlier attempts at a job have finished.

    Attributes:
        records: The records of the chunks, without a gap, from chunk 0.
        done: Half-open ranges of finished inputs, sorted, not touching.
        partial: Unfinished input index to the number of its samples that are in chunks.
        is_complete: Whether that is everything, so that there are no further inputs.
    """

    records: tuple[Record, ...] = ()
    done: tuple[tuple[int, int], ...] = ()
    partial: Mapping[int, int] = field(default_factory=dict)
    is_complete: bool = False

    @staticmethod
    def of(records: Iterable[Record]) -> Progress:
        """Add up the records that follow each other without a gap from chunk 0."""
        by_number = {record.number: record for record in records}
        kept: list[Record] = []
        while (record := by_number.get(len(kept))) is not None:
            kept.append(record)
        partial: dict[int, int] = {}
        ranges: list[tuple[int, int]] = []
        for record in kept:
            ranges.extend(record.covered.done)
            partial.update(record.covered.partial)
        done = merge_ranges(ranges)
        unfinished = {index: count for index, count in partial.items() if not within(done, index)}
        return Progress(tuple(kept), done, unfinished)

    def is_done(self, index: int) -> bool:
        """Whether an input needs no more work."""
        return within(self.done, index)

    @property
    def begun(self) -> bool:
        """Whether anything is finished."""
        return bool(self.done or self.partial)

    @property
    def num_done(self) -> int:
        """How many inputs need no more work."""
        return sum(stop - start for start, stop in self.done)

    @property
    def marks(self) -> list[InputMark]:
        """What the inputs were, as often as it was written down."""
        return [record.inputs for record in self.records if record.inputs is not None]


def merge_ranges(ranges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sort half-open ranges and join those that touch."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)


def within(ranges: Sequence[tuple[int, int]], index: int) -> bool:
    """Whether an index lies in one of the sorted half-open ranges."""
    low, high = 0, len(ranges)
    while low < high:
        middle = (low + high) // 2
        start, stop = ranges[middle]
        if index < start:
            high = middle
        elif index >= stop:
            low = middle + 1
        else:
            return True
    return False
