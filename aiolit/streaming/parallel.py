"""``ParallelStreamingDataset``: a sample of each of several streaming data sets at a time."""

from __future__ import annotations

import inspect
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from aiolit.errors import ConfigError
from aiolit.plan.order import Deal
from aiolit.plan.permute import mix
from aiolit.plan.runs import Ints
from aiolit.runtime.ahead import spread
from aiolit.runtime.stats import Counters
from aiolit.streaming.combined import apply_to, check_members, of_members, settings_of
from aiolit.streaming.deck import ChainDeck, LaneReader, ReadableDeck, ReadableShares, SliceDeck
from aiolit.streaming.epoch import BatchOf, Streamable, Streamed, T
from aiolit.streaming.run import Readers, Run
from aiolit.streaming.state import Position
from aiolit.streaming.topology import Topology, agreed

Transform = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class ZipOptions:
    """What fixes the order of a parallel data set."""

    members: tuple[Any, ...]
    length: float | None
    resume: bool


class ParallelStreamingDataset(Streamable):
    """Tuples of one sample from each of several streaming data sets.

    Members that are shorter than ``length`` begin again, with the order of their next epoch; each
    epoch of this data set goes on where the one before stopped.

    Args:
        datasets: The members: any streaming data sets.
        length: Samples that each rank yields per epoch: a number, ``float("inf")`` for an epoch
            that does not end, or None for the length of the shortest member.
        force_override_state_dict: Take a saved state that does not fit, with a warning.
        transform: A function of the tuple; or of the tuple and ``rngs``, a mapping with the
            generators ``"random"``, ``"numpy"`` and ``"torch"``, seeded anew for every sample by
            the seed, the epoch and the sample's place, so that it can be resumed anywhere.
        seed: The seed of those generators.
        resume: Go on with the members where the epoch before stopped; False begins each epoch with
            their first samples.
        reset_rngs: Give the generators the same seeds in every epoch.

    Raises:
        ConfigError: An argument cannot work; the message names it.
    """

    def __init__(
        self,
        datasets: Sequence[Streamable | Streamed],
        length: float | None = None,
        force_override_state_dict: bool = False,
        transform: Transform | None = None,
        seed: int = 42,
        resume: bool = True,
        reset_rngs: bool = False,
    ) -> None:
        self.datasets = check_members(datasets)
        drop_last, canonical = of_members(self.datasets)
        super().__init__(drop_last=drop_last, canonical=canonical, force=force_override_state_dict)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError(f"seed must be a whole number, not {seed!r}")
        self._length = _checked_length(length)
        self._transform, self._takes_rngs = transform, _takes_rngs(transform)
        self._seed, self._resume, self._reset = seed, resume, reset_rngs
        self._own = Counters()

    @property
    def is_endless(self) -> bool:
        """Whether an epoch does not end."""
        return self._length == math.inf

    def __len__(self) -> int:
        """Count this rank's samples in the coming epoch.

        Raises:
            TypeError: The epoch does not end.
        """
        if self.is_endless:
            raise TypeError("an endless data set has no length")
        return super().__len__()

    def counters(self) -> list[Counters]:
        """Return its own counters and the members'; see ``Streamable``."""
        return [self._own, *(one for dataset in self.datasets for one in dataset.counters())]

    def set_shuffle(self, shuffle: bool) -> None:
        """Set whether the members' epochs are shuffled."""
        for dataset in self.datasets:
            dataset.set_shuffle(shuffle)

    # ---- what the reading of it needs ------------------------------------------------------

    def options(self) -> ZipOptions:
        """Return what fixes the order; see ``Streamable``."""
        members = tuple(dataset.options() for dataset in self.datasets)
        return ZipOptions(members, self._length, self._resume)

    def identity(self) -> dict[str, Any]:
        """Return what a saved state must agree in; see ``Streamable``."""
        return {
            "kind": "ParallelStreamingDataset",
            "members": [dataset.identity() for dataset in self.datasets],
            "length": "inf" if self.is_endless else self._length,
            "seed": self._seed,
            "resume": self._resume,
        }

    def find_topology(self) -> Topology:
        """Return this process's place, which all members must agree in."""
        return agreed(dataset.find_topology() for dataset in self.datasets)

    def settings(self) -> Any:
        """Return the members' settings; see ``Streamable``."""
        return settings_of(self.datasets, None)

    def apply_settings(self, settings: Any) -> None:
        """Hand saved settings to the members; see ``Streamable``."""
        apply_to(self.datasets, settings)

    def epoch_position(self, epoch: int, options: ZipOptions, readers: Readers) -> Position:
        """Return where an epoch begins when this data set is a member of another."""
        total = _epoch_size(self._sizes(options, readers), options.length, readers)
        return Position(epoch, begun=max(0, epoch - 1) * total)

    def deck(self, position: Position, options: ZipOptions, readers: Readers) -> ReadableDeck:
        """Return all samples of an epoch; see ``Streamable``."""
        sizes = self._sizes(options, readers)
        total = _epoch_size(sizes, options.length, readers)
        begun = position.begun if options.resume else 0
        decks = []
        for dataset, of_member, size in zip(self.datasets, options.members, sizes, strict=True):
            if not size and total:
                raise ConfigError(f"a member of the parallel data set has no samples: {dataset!r}")
            decks.append(_cycled(dataset, of_member, readers, size, begun, total))
        return ZipDeck(decks, self._make)

    def read(
        self, run: Run, worker: int, batch_of: BatchOf[T], *, together: int = 1
    ) -> Iterator[T]:
        """Yield the batches of one worker; of one epoch after the other if they do not end."""
        if not self.is_endless:
            yield from super().read(run, worker, batch_of, together=together)
            return
        while True:
            yield from super().read(run, worker, batch_of, together=together)
            # Torch goes on taking its workers in turn, so the roles turn by what was just read.
            worker = (worker - run.num_batches) % run.deal.workers
            run = self.begin(run.readers, self.next_position(run))

    def position_after(self, run: Run, batches: int) -> Position:
        """Return the position once ``batches`` of a run were taken."""
        if self.is_endless and batches > run.num_batches:
            batches -= run.num_batches
            run = self.begin(run.readers, self.next_position(run))
            rounds, batches = divmod(batches, run.num_batches)  # all that follow are alike
            if rounds:
                whole = len(self._deck_at(run.position, run.options, run.deal))
                at = run.position
                at = Position(at.epoch + rounds, begun=at.begun + rounds * whole)
                run = self.begin(run.readers, at)
        return super().position_after(run, batches)

    def own_position(self, run: Run, worker: int, batches: int) -> Position:
        """Return the position once one worker alone has yielded some batches of a run."""
        while self.is_endless:
            turns = range(run.base + worker, run.base + run.num_batches, run.deal.workers)
            mine = len(turns) - run.position.own
            if batches <= mine:
                break
            batches -= mine
            run = self.begin(run.readers, self.next_position(run))
        return super().own_position(run, worker, batches)

    def next_position(self, run: Run) -> Position:
        """Return where the epoch after a run begins."""
        position = run.position
        whole = len(self._deck_at(position, run.options, run.deal))
        return Position(position.epoch + 1, begun=position.begun + whole)

    def _deal(self, readers: Readers) -> Deal:
        # A length is each rank's own, so the ranks end together and nothing has to be dropped.
        drop = False if self._drop_last is None and self._length else self._drop_last
        return readers.deal(drop, self._canonical)

    def _sizes(self, options: ZipOptions, readers: Readers) -> list[int]:
        return [
            len(dataset.deck(Position(), of_member, readers))
            for dataset, of_member in zip(self.datasets, options.members, strict=True)
        ]

    def _make(self, tuples: list[tuple[Any, ...]], words: tuple[int, ...], begin: int) -> list[Any]:
        """Return the user's samples of tuples that were dealt at places from ``begin`` on."""
        transform = self._transform
        if transform is None:
            return list(tuples)
        began = time.perf_counter()

        def made(first: int, stop: int) -> list[Any]:
            if not self._takes_rngs:
                return [transform(samples) for samples in tuples[first:stop]]
            epoch, *place = words
            words_from = (self._seed, 0 if self._reset else epoch, *place)
            return [
                transform(tuples[n], Generators(mix(*words_from, begin + n)))
                for n in range(first, stop)
            ]

        found = spread(len(tuples), made)
        self._own.decode_seconds += time.perf_counter() - began
        return found


class Generators(Mapping[str, Any]):
    """The random generators of one sample, made when they are asked for."""

    def __init__(self, key: int) -> None:
        self._key = key
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _GENERATORS[name](self._key)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_GENERATORS)

    def __len__(self) -> int:
        return len(_GENERATORS)


def _torch_generator(key: int) -> torch.Generator:
    return torch.Generator().manual_seed(key >> 1)


_GENERATORS: dict[str, Callable[[int], Any]] = {
    "random": random.Random,
    "numpy": np.random.default_rng,
    "torch": _torch_generator,
}

Make = Callable[[list[tuple[Any, ...]], tuple[int, ...], int], list[Any]]


class ZipDeck(ReadableDeck):
    """Tuples of a sample from each of several decks."""

    def __init__(self, decks: Sequence[ReadableDeck], make: Make) -> None:
        self._decks, self._make = decks, make

    def __len__(self) -> int:
        return min(len(deck) for deck in self._decks)

    def deal(self, lengths: Ints, words: tuple[int, ...]) -> ReadableShares:
        shares = [deck.deal(lengths, (*words, n)) for n, deck in enumerate(self._decks)]
        return _ZipShares(shares, self._make, words)


class _ZipShares(ReadableShares):
    def __init__(
        self, shares: Sequence[ReadableShares], make: Make, words: tuple[int, ...]
    ) -> None:
        self._shares, self._make, self._words = shares, make, words

    def open(self, lanes: Sequence[int], skips: Sequence[int]) -> LaneReader:
        readers = [shares.open(lanes, skips) for shares in self._shares]
        return _ZipReader(readers, self._make, self._words, lanes, list(skips))

    def rest(self, consumed: Ints) -> ReadableDeck:
        return ZipDeck([shares.rest(consumed) for shares in self._shares], self._make)


class _ZipReader(LaneReader):
    def __init__(
        self,
        readers: Sequence[LaneReader],
        make: Make,
        words: tuple[int, ...],
        lanes: Sequence[int],
        at: list[int],
    ) -> None:
        self._readers, self._make, self._words = readers, make, words
        self._lanes, self._at = lanes, at
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for reader in self._readers:
                stack.enter_context(reader)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(exc_type, exc, traceback)

    def take(self, lane: int, count: int) -> list[Any]:
        begin = self._at[lane]
        self._at[lane] += count
        columns = [reader.take(lane, count) for reader in self._readers]
        words = (*self._words, self._lanes[lane])
        return self._make(list(zip(*columns, strict=True)), words, begin)


def _cycled(
    dataset: Streamable, options: Any, readers: Readers, size: int, begun: int, total: int
) -> ReadableDeck:
    """Return ``total`` samples of a member that is read over and over, from ``begun`` on."""
    parts: list[ReadableDeck] = []
    at, end = begun, begun + total
    while at < end:
        cycle, inside = divmod(at, size)
        here = min(size - inside, end - at)
        deck = dataset.deck(dataset.epoch_position(cycle + 1, options, readers), options, readers)
        parts.append(deck if here == size else SliceDeck(deck, inside, inside + here))
        at += here
    return ChainDeck(parts) if len(parts) != 1 else parts[0]


def _epoch_size(sizes: Sequence[int], length: float | None, readers: Readers) -> int:
    """Return the samples of an epoch over all ranks."""
    if length is None:
        return min(sizes)
    if length == math.inf:
        step = readers.topology.world_size * readers.batch_size * readers.workers
        return -(-max(sizes) // step) * step
    return int(length) * readers.topology.world_size


def _checked_length(length: object) -> float | None:
    if length is None or length == math.inf:
        return length
    if isinstance(length, bool) or not isinstance(length, int) or length < 1:
        raise ConfigError(
            f"length must be a positive whole number, None or float('inf'), not {length!r}"
        )
    return length


def _takes_rngs(transform: Transform | None) -> bool:
    if transform is None:
        return False
    if not callable(transform):
        raise ConfigError(f"transform must be a function, not {transform!r}")
    kinds = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )
    taken = [one for one in inspect.signature(transform).parameters.values() if one.kind in kinds]
    required = [one for one in taken if one.default is inspect.Parameter.empty]
    count = len(required or taken[:2])  # where all have defaults, it takes what it can
    if count not in (1, 2):
        raise ConfigError(
            f"transform must take the samples, or the samples and rngs, not {count} arguments"
        )
    return count == 2
