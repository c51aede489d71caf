"""Open samples of a chunk: what reads them, and what gives their memory or file back."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiolit.format.loader import SampleReader


@dataclass(slots=True)
class Held:
    """An open reader of some samples of a chunk, and what gives its memory or file back.

    Attributes:
        reader: Reads the samples.
        release: Called once with whether this epoch is done with the file.
        whole: Whether the file is the whole chunk, which other pieces may be part of.
    """

    reader: SampleReader
    release: Callable[[bool], None] | None = None
    whole: bool = False

    def close(self, *, spent: bool = False) -> None:
        """Let the bytes go; samples that were read own theirs."""
        release, self.release = self.release, None
        if release is not None:
            release(spent)


class SplitReader(SampleReader):
    """Reads consecutive parts of a chunk as one."""

    def __init__(self, starts: Sequence[int], readers: Sequence[SampleReader]) -> None:
        self._starts, self._readers = starts, readers

    def sample(self, index: int) -> Any:
        return self._readers[bisect_right(self._starts, index) - 1].sample(index)


class PickReader(SampleReader):
    """Reads samples that were fetched one by one."""

    def __init__(self, readers: Mapping[int, SampleReader]) -> None:
        self._readers = readers

    def sample(self, index: int) -> Any:
        return self._readers[index].sample(index)


def close_all(parts: Sequence[Held], spent: bool = False) -> None:
    """Let the bytes of all of them go; one that is named twice is closed once."""
    for part in parts:
        part.close(spent=spent)
