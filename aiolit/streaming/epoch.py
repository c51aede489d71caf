"""What a loader and a data set agree on: how an epoch is read, and where it began."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch.utils.data import IterableDataset, default_collate, get_worker_info

from aiolit.errors import ConfigError, StateError
from aiolit.plan.order import Deal, Dealt, deal_epoch
from aiolit.streaming.deck import LaneReader, ReadableDeck, ReadableShares
from aiolit.streaming.state import VERSION, Position, check_same
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
        size: Samples that this deal deals, over all ranks.
        options: What else fixes the order; a worker follows these, not its own copy's options.
    """

    position: Position
    deal: Deal
    rank: int
    base: int
    num_batches: int
    size: int
    options: Any

    def after(self, batches: int) -> Position:
        """Return the position once ``batches`` of this run were taken."""
        return self.position.after(self.deal, self.base, batches)


_TOGETHER = 32  # single samples that are read at a time

T = TypeVar("T")
Wants = Sequence[tuple[int, int]]  # lanes, and how many samples of each
BatchOf = Callable[[LaneReader, Wants, list[Any]], T]


@runtime_checkable
class Streamed(Protocol):
    """A data set whose epochs another one reads, such as a map-style one."""

    def streaming(self) -> Streamable:
        """Return what reads its epochs."""


class Streamable(IterableDataset[Any]):
    """A data set that a ``StreamingDataLoader`` can read: what all streaming data sets are.

    A subclass says what an epoch holds (``deck``) and what fixes its order (``options``); how it is
    dealt to ranks and workers, read in batches, saved and resumed, is the same for all.
    """

    _position: Position
    _drop_last: bool | None
    _canonical: int | None
    _force: bool
    _readers: tuple[int, int]  # workers and batch size, as a loader or the user told them
    _reading: tuple[Run, int, int] | None  # run, worker, batches yielded

    def __init__(self, *, drop_last: bool | None, canonical: int | None, force: bool) -> None:
        super().__init__()
        self._drop_last, self._canonical, self._force = drop_last, canonical, force
        self._position, self._readers, self._reading = Position(), (1, 1), None

    # ---- what a subclass says ----------------------------------------------------------------

    @abstractmethod
    def deck(self, position: Position, options: Any, readers: Readers) -> ReadableDeck:
        """Return all samples of the epoch at a position; nothing is read yet."""

    @abstractmethod
    def options(self) -> Any:
        """Return what fixes the order besides the position and the readers; compared by value."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return what a saved state must agree in, as JSON-able values; ``kind`` among them."""

    @abstractmethod
    def find_topology(self) -> Topology:
        """Return this process's place, found out now."""

    @abstractmethod
    def set_shuffle(self, shuffle: bool) -> None:
        """Set whether epochs are shuffled."""

    # ---- reading -----------------------------------------------------------------------------

    def begin(self, readers: Readers, position: Position | None = None) -> Run:
        """Plan the coming epoch, or the rest of the one at ``position``. Nothing is read yet."""
        position = self._position if position is None else position
        options = self.options()
        deal = self._deal(readers)
        dealt, base = self._dealt(position, options, deal, readers.topology.rank)
        left = dealt.num_batches - base
        return Run(position, deal, readers.topology.rank, base, left, dealt.size, options)

    def batches(self, run: Run, worker: int) -> Iterator[list[Any]]:
        """Yield the batches of one worker of this rank, in order, as lists of samples."""
        return self.read(run, worker, self._listed)

    def collated(
        self, run: Run, worker: int, collate: Callable[[list[Any]], Any] | None
    ) -> Iterator[Any]:
        """Yield the batches of one worker of this rank, in order, collated.

        Args:
            run: The epoch.
            worker: The worker.
            collate: Makes a batch of a list of samples; None is torch's ``default_collate``, which
                a subclass may do in another way with the same result.
        """
        make = default_collate if collate is None else collate
        for samples in self.batches(run, worker):
            yield make(samples)

    def read(
        self, run: Run, worker: int, batch_of: BatchOf[T], *, together: int = 1
    ) -> Iterator[T]:
        """Yield what ``batch_of`` makes of each batch's wants, with an open reader of the lanes.

        Args:
            run: The epoch.
            worker: The worker.
            batch_of: Makes a batch.
            together: So many batches may be made as one where they come from one lane.
        """
        dealt, base = self._dealt(run.position, run.options, run.deal, run.rank)
        share = dealt.share_of(base, run.rank, worker, run.position.own)
        lengths = [int(dealt.lengths[lane]) for lane in share.lanes]
        left = [have - skip for have, skip in zip(lengths, share.skips, strict=True)]
        with dealt.shares.open(share.lanes, share.skips) as reader:
            step = together if len(left) == 1 else 1
            for first in range(0, len(share.turns), step):
                turns = share.turns[first : first + step]
                most = run.deal.share * len(turns)
                wants = [(lane, min(most, have)) for lane, have in enumerate(left)]
                left = [have - count for have, (_, count) in zip(left, wants, strict=True)]
                again: list[Any] = []
                if share.repeat is not None and turns[-1] == share.turns[-1]:
                    lane, position = share.repeat
                    with dealt.shares.open([lane], [position]) as once:
                        again = once.take(0, 1)
                yield batch_of(reader, wants, again)

    def _listed(self, reader: LaneReader, wants: Wants, again: list[Any]) -> list[Any]:
        samples = [sample for lane, count in wants for sample in reader.take(lane, count)]
        return self.as_batch(samples + again)

    @property
    def deals_samples(self) -> bool:
        """Whether single samples are dealt, and not whole batches."""
        return True

    def as_batch(self, samples: list[Any]) -> list[Any]:
        """Return the samples of a batch from what was dealt for it."""
        return samples

    def __iter__(self) -> Iterator[Any]:
        """Iterate this rank's samples, or in a torch ``DataLoader``'s worker this worker's share.

        Each iteration is the next epoch; one that a loaded state began is ended first.
        """
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        readers = Readers(self.find_topology(), workers, self._readers[1])
        run = self.begin(readers)
        self._reading = (run, worker, 0)
        self._position = self.next_position(run)
        if run.deal.batch_size == 1 and self.deals_samples:
            yield from self._iterate_singly(run, worker)
        else:
            for number, batch in enumerate(self.batches(run, worker), 1):
                self._reading = (run, worker, number)
                yield from batch
        self._reading = None

    def _iterate_singly(self, run: Run, worker: int) -> Iterator[Any]:
        """Yield single samples, counted one by one but read many at a time."""
        number = 0
        for samples in self.read(run, worker, self._listed, together=_TOGETHER):
            for sample in samples:
                number += 1
                self._reading = (run, worker, number)
                yield sample

    def position_after(self, run: Run, batches: int) -> Position:
        """Return the position once ``batches`` of a run were taken."""
        return run.after(batches)

    def next_position(self, run: Run) -> Position:
        """Return where the epoch after a run begins."""
        return run.position.next_epoch()

    def __len__(self) -> int:
        """Count this rank's samples in the coming epoch, or in what a loaded state left of it."""
        run = self.begin(self._as_told())
        whole = run.deal.rank_samples(run.size)
        return max(0, whole - run.base * run.deal.batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reading": None}

    # ---- state -------------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """Where the next iteration begins."""
        return self._position

    @position.setter
    def position(self, position: Position) -> None:
        self._position = position

    def state_dict(
        self,
        num_samples_yielded: int | None = None,
        num_workers: int | None = None,
        batch_size: int | None = None,
    ) -> dict[str, Any]:
        """Return where the reading of this data set stands, as a small JSON-able value.

        Args:
            num_samples_yielded: How many samples this rank has been given of the running epoch,
                where the caller counts them (as LitData asks); by default the data set's own count
                of the samples it has yielded.
            num_workers: The loader's workers, with ``num_samples_yielded``.
            batch_size: The loader's batch size, with ``num_samples_yielded``.
        """
        if num_samples_yielded is not None:
            told = Readers(self.find_topology(), max(1, num_workers or 0), batch_size or 1)
            begun = self._position if self._reading is None else self._reading[0].position
            return self.save(
                self.begin(told, begun).after(-(-num_samples_yielded // told.batch_size))
            )
        if self._reading is None:
            return self.save(self._position)
        run, worker, taken = self._reading
        if get_worker_info() is None:
            return self.save(self.position_after(run, taken))
        own = replace(run.position, own=run.position.own + taken)
        return {**self.save(own), "worker": worker}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a saved state stands; rank 0's state is enough for all ranks.

        Raises:
            StateError: It is of another data set, seed, shuffle or loader; the message says which.
        """
        self.load(state_dict.get("dataset", state_dict))

    def save(self, position: Position) -> dict[str, Any]:
        """Write a position of this data set as a JSON-able state."""
        return {"version": VERSION, **self.identity(), **position.to_json()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on at a saved position when iteration begins.

        Raises:
            StateError: It is of another data set, or another way of reading it.
        """
        if state.get("version") != VERSION:
            raise StateError(
                f"this is no state of aiolit's, or one of another version: {sorted(state)}"
            )
        check_same(state, self.identity(), force=self._force)
        self._position, self._reading = Position.from_json(state), None

    # ---- hooks of loaders and frameworks -----------------------------------------------------

    def set_epoch(self, current_epoch: int) -> None:
        """Begin this epoch next, from its start; a loaded state that is pending goes first."""
        if isinstance(current_epoch, bool) or not isinstance(current_epoch, int):
            raise ConfigError(f"an epoch is a whole number, not {current_epoch!r}")
        if not self._position.legs:
            self._position = replace(self._position, epoch=max(1, current_epoch))

    def set_drop_last(self, drop_last: bool | None) -> None:
        """Set whether the last, short batch is left out."""
        if drop_last is not None and not isinstance(drop_last, bool):
            raise ConfigError(f"drop_last must be True, False or None, not {drop_last!r}")
        self._drop_last = drop_last

    def set_batch_size(self, batch_size: int | Sequence[int]) -> None:
        """Tell the size of the batches in which this data set will be read; ``len`` uses it."""
        self._readers = (self._readers[0], whole_number(batch_size, "batch_size"))

    def set_num_workers(self, num_workers: int) -> None:
        """Tell how many workers will read this data set; 0 counts as 1."""
        self._readers = (max(1, num_workers), self._readers[1])

    # ---- inside ------------------------------------------------------------------------------

    def _as_told(self) -> Readers:
        return Readers(self.find_topology(), *self._readers)

    def _deal(self, readers: Readers) -> Deal:
        return readers.deal(self._drop_last, self._canonical)

    def _dealt(
        self, position: Position, options: Any, deal: Deal, rank: int
    ) -> tuple[Dealt[ReadableShares], int]:
        readers = Readers(Topology(rank, deal.ranks), deal.workers, deal.batch_size)
        deck = self.deck(position, options, readers)
        return deal_epoch(deck, position.epoch, position.legs, deal)


def whole_number(value: object, name: str) -> int:
    """Check a positive whole number.

    Raises:
        ConfigError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a positive whole number, not {value!r}")
    return value
