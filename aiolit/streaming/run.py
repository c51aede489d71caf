"""One epoch as it is about to be read: who reads it, from where on, in how many batches."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from aiolit.errors import ConfigError
from aiolit.plan.order import Deal
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
        fits = canonical is not None and not canonical % ranks
        if fits and self.batch_size == 1 and canonical != ranks:
            fits = False  # no batch size was told yet: single samples have no shares
        nodes = canonical if canonical is not None and fits else ranks
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
        size: Samples that this deal deals, over all ranks.
        options: What else fixes the order; a worker follows these, not its own copy's options.
        about: What is saved with its positions: what the data set was when it began.
    """

    position: Position
    deal: Deal
    rank: int
    base: int
    num_batches: int
    size: int
    options: Any
    about: dict[str, Any]

    @property
    def readers(self) -> Readers:
        """Who reads it."""
        deal = self.deal
        return Readers(Topology(self.rank, deal.ranks), deal.workers, deal.batch_size)

    @property
    def whole(self) -> int:
        """How many batches a rank yields in this epoch, with those taken before."""
        return sum(leg.batches for leg in self.position.legs) + self.num_batches

    def after(self, batches: int) -> Position:
        """Return the position once ``batches`` of this run were taken."""
        return self.position.after(self.deal, self.base, batches)


def whole_number(value: object, name: str) -> int:
    """Check a positive whole number.

    Raises:
        ConfigError: It is none.
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1:
        raise ConfigError(f"{name} must be a positive whole number, not {value!r}")
    return number
