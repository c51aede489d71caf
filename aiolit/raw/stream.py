"""A raw data set as a ``StreamingDataLoader`` reads it: dealt to ranks, resumable, read ahead."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from aiolit.errors import ConfigError
from aiolit.plan.permute import permutation
from aiolit.plan.runs import Ints
from aiolit.raw.deck import Finish, ItemDeck, ItemPlan
from aiolit.raw.fetch import RawSource
from aiolit.runtime.stats import Counters
from aiolit.streaming.epoch import Streamable
from aiolit.streaming.run import Readers, whole_number
from aiolit.streaming.state import Position
from aiolit.streaming.topology import Place, Topology

_LEAST_AHEAD = 64
_BATCHES_AHEAD = 4
_ITEM_ORDER = 11  # sets this use of the seed apart from others


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochOptions:
    """How the epochs of a raw data set are dealt.

    Attributes:
        shuffle: Whether each epoch has its own random order, of all items.
        drop_last: Whether the samples that do not fill a batch of every rank are left out; None
            does so where there are several ranks.
        seed: The seed of the order.
        canonical: ``num_canonical_nodes``.
        place: Who reads the same data and who reads different data.
        prefetch_bytes: Bytes that each reader fetches ahead.
    """

    shuffle: bool = False
    drop_last: bool | None = None
    seed: int = 42
    canonical: int | None = None
    place: Place = field(default_factory=Place)
    prefetch_bytes: int = 256 << 20

    def __post_init__(self) -> None:
        if not isinstance(self.shuffle, bool):
            raise ConfigError(f"shuffle must be True or False, not {self.shuffle!r}")
        if self.drop_last is not None and not isinstance(self.drop_last, bool):
            raise ConfigError(f"drop_last must be True, False or None, not {self.drop_last!r}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ConfigError(f"seed must be a whole number, not {self.seed!r}")
        if self.canonical is not None:
            whole_number(self.canonical, "num_canonical_nodes")
        whole_number(self.prefetch_bytes, "prefetch_bytes")

    def for_child(self) -> EpochOptions:
        """Return what a process that is spawned now has to know."""
        return replace(self, place=self.place.for_child())


@dataclass(frozen=True, slots=True)
class ItemOrder:
    """What fixes the order of an epoch besides the data set and its readers."""

    shuffle: bool
    seed: int


class RawStream(Streamable):
    """The items of a raw data set in epochs; ``StreamingRawDataset.streaming`` makes it.

    The order of a shuffled epoch is a permutation of all items, a function of their number, the
    seed and the epoch.

    Args:
        source: The files.
        finish: Makes the user's samples of the bytes of items, and their numbers.
        epochs: How the epochs are dealt.
    """

    def __init__(self, source: RawSource, finish: Finish, epochs: EpochOptions) -> None:
        super().__init__(drop_last=epochs.drop_last, canonical=epochs.canonical, force=False)
        self.source, self._finish, self._epochs = source, finish, epochs
        self._order = ItemOrder(epochs.shuffle, epochs.seed)
        self._digest = ""

    def deck(self, position: Position, options: ItemOrder, readers: Readers) -> ItemDeck:
        """Return all items of an epoch; see ``Streamable``."""
        ahead = max(_LEAST_AHEAD, _BATCHES_AHEAD * readers.batch_size)
        plan = ItemPlan(self.source, self._finish, self._epochs.prefetch_bytes, ahead)
        count = len(self.source.items)
        return ItemDeck(plan, count, partial(_epoch_order, count, options, position.epoch))

    def options(self) -> ItemOrder:
        """Return what fixes the order; see ``Streamable``."""
        return self._order

    def identity(self) -> dict[str, Any]:
        """Return what a saved state must agree in; see ``Streamable``."""
        self._digest = self._digest or self.source.items.digest()
        return {
            "kind": "StreamingRawDataset",
            "fingerprint": self._digest,
            "shuffle": self._order.shuffle,
            "seed": self._order.seed,
        }

    def find_topology(self) -> Topology:
        """Return this process's place: as given, from torch.distributed, or from the launcher."""
        return self._epochs.place.find()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_epochs": self._epochs.for_child()}

    def counters(self) -> list[Counters]:
        """Return what this process has fetched; see ``Streamable``."""
        return [self.source.counters()]

    def set_shuffle(self, shuffle: bool) -> None:
        """Set whether epochs are shuffled."""
        if not isinstance(shuffle, bool):
            raise ConfigError(f"shuffle must be True or False, not {shuffle!r}")
        self._order = ItemOrder(shuffle, self._order.seed)


def _epoch_order(count: int, options: ItemOrder, epoch: int) -> Ints:
    if not options.shuffle:
        return np.arange(count, dtype=np.int64)
    return permutation(count, _ITEM_ORDER, options.seed, epoch)
