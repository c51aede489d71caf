"""What a loader and a data set agree on: how one epoch is read, and where it began."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import IterableDataset

from aiolit.errors import ConfigError
from aiolit.plan.order import Deal, OrderOptions
from aiolit.streaming.state import Position
from aiolit.streaming.topology import Topology


@dataclass(frozen=True, slots=True)
class Readers:
    """Who reads: this rank, how many workers it has, in batches of which size."""

    topology: Topology
    workers: int
    batch_size: int

    def deal(self, drop_last: bool | None, canonical: int | None) -> Deal:
        """Return the deal to these readers.

        Args:
            drop_last: None drops the last, short batch where there are several ranks.
            canonical: ``num_canonical_nodes``; None is the number of ranks.
        """
        ranks = self.topology.world_size
        drop = ranks > 1 if drop_last is None else drop_last
        nodes = ranks if canonical is None or canonical % ranks else canonical
        return Deal(ranks, self.workers, self.batch_size, nodes, drop)


@dataclass(frozen=True, slots=True)
class Run:
    """One epoch, or the rest of one, as it is about to be read.

    Attributes:
        position: Where it begins.
        deal: How it is dealt.
        rank: This rank.
        base: Batches of the same deal taken before.
        num_batches: Batches every rank yields from here on.
        order: What else fixes the order; a worker follows it and not its own copy's options.
    """

    position: Position
    deal: Deal
    rank: int
    base: int
    num_batches: int
    order: OrderOptions

    def after(self, batches: int) -> Position:
        """Return the position once ``batches`` of this run were taken."""
        return self.position.after(self.deal, self.base, batches)


class Streamable(IterableDataset[Any]):
    """A data set that a ``StreamingDataLoader`` can read: what all streaming data sets are."""

    @abstractmethod
    def begin(self, readers: Readers, position: Position | None = None) -> Run:
        """Plan the coming epoch, or the rest of the one at ``position``. Nothing is read yet."""

    @abstractmethod
    def batches(self, run: Run, worker: int) -> Iterator[list[Any]]:
        """Yield the batches of one worker of this rank, as lists of samples."""

    @abstractmethod
    def find_topology(self) -> Topology:
        """Return this process's place, found out now."""

    @abstractmethod
    def save(self, position: Position) -> dict[str, Any]:
        """Write a position of this data set as a JSON-able state."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Go on at a saved position when iteration begins.

        Raises:
            StateError: It is of another data set, or another way of reading it.
        """

    @property
    @abstractmethod
    def position(self) -> Position:
        """Where the next iteration begins."""

    @position.setter
    @abstractmethod
    def position(self, position: Position) -> None: ...

    @abstractmethod
    def set_drop_last(self, drop_last: bool) -> None:
        """Set whether the last, short batch is left out."""

    @abstractmethod
    def set_shuffle(self, shuffle: bool) -> None:
        """Set whether epochs are shuffled."""


def whole_number(value: object, name: str) -> int:
    """Check a positive whole number.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a positive whole number, not {value!r}")
    return value


def at_worker(position: Position, own: int) -> Position:
    """Return a position as one worker alone knows it."""
    return replace(position, own=own)
