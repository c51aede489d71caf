"""Which results may be written now: in input order, or as they come. Decisions only, no I/O."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Reassembly"]

Piece = TypeVar("Piece")


@dataclass(slots=True)
class _Waiting(Generic[Piece]):
    pieces: deque[Piece] = field(default_factory=deque)
    ended: bool = False


class Reassembly(Generic[Piece]):
    """Pieces of many runs go in as they arrive and come out run by run.

    The run whose turn it is (the head) streams through; the others are kept until their turn.
    With ``ordered=False`` every piece comes out at once.
    """

    def __init__(self, *, ordered: bool = True) -> None:
        self._ordered = ordered
        self._head = 0
        self._waiting: dict[int, _Waiting[Piece]] = {}
        self._ended: set[int] = set()

    @property
    def head(self) -> int:
        """The number of the run whose turn it is: every run before it is complete."""
        return self._head

    @property
    def num_waiting(self) -> int:
        """How many pieces wait for their turn."""
        return sum(len(entry.pieces) for entry in self._waiting.values())

    def streams(self, run: int) -> bool:
        """Whether pieces of this run come out as they go in."""
        return not self._ordered or run == self._head

    def add(self, run: int, piece: Piece) -> list[Piece]:
        """Put a piece in; return the pieces whose turn has come, in order."""
        if self.streams(run):
            return [piece]
        self._waiting.setdefault(run, _Waiting()).pieces.append(piece)
        return []

    def end(self, run: int) -> list[Piece]:
        """Take note that a run is complete; return the pieces whose turn has come, in order."""
        if not self._ordered:
            self._ended.add(run)
            while self._head in self._ended:
                self._ended.remove(self._head)
                self._head += 1
            return []
        if run != self._head:
            self._waiting.setdefault(run, _Waiting()).ended = True
            return []
        ready: list[Piece] = []
        ended = True
        while ended:
            self._head += 1
            entry = self._waiting.pop(self._head, None)
            if entry is None:
                break
            ready.extend(entry.pieces)
            ended = entry.ended
        return ready
