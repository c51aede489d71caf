"""What a loader and a data set agree on: how an epoch is read, and where it began."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch.utils.data import IterableDataset, get_worker_info

from aiolit.errors import ConfigError, StateError
from aiolit.plan.order import Deal, Dealt, deal_epoch
from aiolit.runtime.stats import Counters
from aiolit.runtime.tracing import span
from aiolit.streaming.collation import default_batch
from aiolit.streaming.deck import LaneReader, ReadableDeck, ReadableShares
from aiolit.streaming.run import Readers, Run, whole_number
from aiolit.streaming.state import VERSION, Position, check_same
from aiolit.streaming.topology import Topology
from aiolit.streaming.workers import check_worker, warn_of_no_batch, warn_of_repeats

_TOGETHER = 32  # single samples that are read at a time

S = TypeVar("S")
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
    # Run, worker, batches yielded, and samples yielded of the batch after those.
    _reading: tuple[Run, int, int, int] | None
    # Options, and what is saved beside a position, of an epoch of which a part was read.
    _pending: tuple[Any, dict[str, Any]] | None
    _of_worker: tuple[int, int] | None  # worker and workers that a loaded worker's state is of

    def __init__(self, *, drop_last: bool | None, canonical: int | None, force: bool) -> None:
        super().__init__()
        self._drop_last, self._canonical, self._force = drop_last, canonical, force
        self._position, self._readers, self._reading = Position(), (1, 1), None
        self._pending = self._of_worker = None
        self._epoch: int | None = None  # the one that is read, or was read last

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

    def counters(self) -> list[Counters]:
        """Return the running counters of what is read here, in this process."""
        return []

    def stats(self) -> dict[str, int | float]:
        """Return what this process has fetched, cached and decoded so far, as the fields of
        ``Counters``; a loader's ``stats`` are those of all its workers."""
        total = Counters()
        for counters in self.counters():
            total.merge(counters)
        return total.as_dict()

    @abstractmethod
    def set_shuffle(self, shuffle: bool) -> None:
        """Set whether epochs are shuffled."""

    # ---- what a subclass may say ---------------------------------------------------------------

    @property
    def drop_last(self) -> bool | None:
        """Whether the last, short batch is left out; None is where there are several ranks."""
        return self._drop_last

    @property
    def num_canonical_nodes(self) -> int | None:
        """How many nodes' lanes an epoch is cut into; None is one for each rank."""
        return self._canonical

    @property
    def is_endless(self) -> bool:
        """Whether an epoch does not end."""
        return False

    def settings(self) -> Any:
        """Return what may change from epoch to epoch and is saved with a state, as JSON-able
        values; None if there is nothing."""
        return None

    def apply_settings(self, settings: Any) -> None:
        """Take over what ``settings`` returned when a state was saved."""

    def epoch_position(self, epoch: int, options: Any, readers: Readers) -> Position:
        """Return where an epoch begins when this data set is a member of another."""
        return Position(epoch)

    # ---- reading -----------------------------------------------------------------------------

    def begin(self, readers: Readers, position: Position | None = None) -> Run:
        """Plan the coming epoch, or the rest of the one at ``position``. Nothing is read yet.

        Where the rest holds no batch for these readers, the epoch is over: the next one is planned.
        """
        coming = position is None
        if coming and self._of_worker is not None:
            check_worker(self._of_worker)
        position = self._position if position is None else position
        options, about = self.options(), self._about()
        if coming and self._pending is not None:
            options, about = self._pending
        run = self._plan(readers, position, options, about)
        if position.own and position.counted != run.deal:
            raise StateError(
                "the state of one worker goes on only with the same ranks, workers and batch "
                f"sizes: it was saved at {position.counted} and this is {run.deal}"
            )
        if position.legs and not run.num_batches:
            position = self.next_position(run)
            run = self._plan(readers, position, self.options(), self._about())
        if coming and run.size and not run.num_batches:
            warn_of_no_batch(run.deal, run.size)
        return run

    def _plan(
        self, readers: Readers, position: Position, options: Any, about: dict[str, Any]
    ) -> Run:
        deal = self._deal(readers)
        dealt, base = self._dealt(position, options, deal)
        left = dealt.num_batches - base
        return Run(position, deal, readers.topology.rank, base, left, dealt.size, options, about)

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
        make = default_batch if collate is None else collate

        def collated(samples: list[Any]) -> Any:
            began = time.perf_counter()
            with span("collate", "collate", samples=len(samples)):
                batch = make(samples)
            for counters in self.counters()[:1]:
                counters.batches += 1
                counters.collate_seconds += time.perf_counter() - began
            return batch

        return applied(collated, self.batches(run, worker))

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
        self.begins(run)
        dealt, base = self._dealt(run.position, run.options, run.deal)
        share = dealt.share_of(base, run.rank, worker, run.position.own)
        lengths = [int(dealt.lengths[lane]) for lane in share.lanes]
        left = [have - skip for have, skip in zip(lengths, share.skips, strict=True)]
        with dealt.shares.open(share.lanes, share.skips) as reader:
            turns, step = len(share.turns), together if len(left) == 1 else 1
            of_turn = run.deal.share
            for first in range(0, turns, step):
                most = of_turn * min(step, turns - first)
                wants = []
                for lane, have in enumerate(left):
                    count = min(most, have)
                    left[lane] = have - count
                    wants.append((lane, count))
                again: list[Any] = []
                if share.repeat is not None and first + step >= turns:
                    lane, position = share.repeat
                    with dealt.shares.open([lane], [position]) as once:
                        again = once.take(0, 1)
                yield batch_of(reader, wants, again)

    def begins(self, run: Run) -> None:
        """Take note that a run is read from here on, by this process or by workers."""
        self._epoch = run.position.epoch

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
        warn_of_repeats(run.options, begun=run.position != Position())
        self._reading = (run, worker, 0, 0)
        self.position = self.next_position(run)
        if run.deal.batch_size == 1 and self.deals_samples and not self.is_endless:
            yield from self._iterate_singly(run, worker)
        else:
            yield from self._iterate_batches(run, worker)
        self._reading = None

    def _iterate_batches(self, run: Run, worker: int) -> Iterator[Any]:
        done = run.position.inside if run.position.counted == run.deal else 0
        for number, batch in enumerate(self.batches(run, worker)):
            for place, sample in enumerate(batch[done:], done + 1):
                here = (number + 1, 0) if place == len(batch) else (number, place)
                self._reading = (run, worker, *here)
                yield sample
            done = 0

    def _iterate_singly(self, run: Run, worker: int) -> Iterator[Any]:
        """Yield single samples, counted one by one but read many at a time."""
        number = 0
        for samples in self.read(run, worker, self._listed, together=_TOGETHER):
            for sample in samples:
                number += 1
                self._reading = (run, worker, number, 0)
                yield sample

    def position_after(self, run: Run, batches: int) -> Position:
        """Return the position once ``batches`` of a run were taken; behind the last one, that is
        where the next epoch begins."""
        return self.next_position(run) if batches >= run.num_batches else run.after(batches)

    def own_position(self, run: Run, worker: int, batches: int) -> Position:
        """Return the position once one worker alone has yielded some batches of a run."""
        own = run.position.own + batches
        return replace(run.position, own=own, inside=0, counted=run.deal)

    def next_position(self, run: Run) -> Position:
        """Return where the epoch after a run begins."""
        return run.position.next_epoch()

    def __len__(self) -> int:
        """Count this rank's samples in the coming epoch, or in what a loaded state left of it."""
        run = self.begin(self._as_told())
        if not run.num_batches:
            return 0
        whole = run.deal.rank_samples(run.size)
        return max(0, whole - run.base * run.deal.batch_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reading": None}

    # ---- state -------------------------------------------------------------------------------

    @property
    def current_epoch(self) -> int:
        """The epoch that is read, or was read last; before any is, the one that comes. Epochs are
        counted from 1. To set it is ``set_epoch``."""
        return self._position.epoch if self._epoch is None else self._epoch

    @current_epoch.setter
    def current_epoch(self, epoch: int) -> None:
        self.set_epoch(epoch)

    @property
    def batch_size(self) -> int:
        """The size of the batches in which this data set is read, as a loader told it."""
        return self._readers[1]

    @property
    def num_workers(self) -> int:
        """How many workers read this data set, as a loader told it; at least 1."""
        return self._readers[0]

    @property
    def position(self) -> Position:
        """Where the next iteration begins."""
        return self._position

    @position.setter
    def position(self, position: Position) -> None:
        self._position, self._pending, self._of_worker = position, None, None

    def state_dict(
        self,
        num_samples_yielded: int | None = None,
        num_workers: int | None = None,
        batch_size: int | None = None,
    ) -> dict[str, Any]:
        """Return where the reading of this data set stands, as a small JSON-able value.

        Within a batch, iterating this data set goes on exactly there with as many ranks and
        workers; a loader, or another topology, begins with that batch.

        Args:
            num_samples_yielded: How many samples this rank has been given of the running epoch,
                where the caller counts them (as LitData asks); by default the data set's own count
                of the samples it has yielded.
            num_workers: The loader's workers, with ``num_samples_yielded``.
            batch_size: The loader's batch size, with ``num_samples_yielded``.
        """
        if num_samples_yielded is not None:
            told = Readers(self.find_topology(), max(1, num_workers or 0), batch_size or 1)
            if self._reading is None:
                run = self.begin(told)
            else:
                now = self._reading[0]
                run = self._plan(told, now.position, now.options, now.about)
            return self.save_run(run, -(-num_samples_yielded // told.batch_size))
        if self._reading is None:
            return self.save()
        run, worker, taken, inside = self._reading
        if (info := get_worker_info()) is None:
            return self.save_run(run, taken, inside)
        own = replace(self.own_position(run, worker, taken), inside=inside)
        return {**run.about, **own.to_json(), "worker": [worker, info.num_workers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a saved state stands; rank 0's state is enough for all ranks.

        Raises:
            StateError: It is of another data set, seed, shuffle or loader; the message says which.
        """
        self.load(state_dict.get("dataset", state_dict))

    def save(self) -> dict[str, Any]:
        """Write where the next iteration begins as a JSON-able state."""
        about = self._about() if self._pending is None else self._pending[1]
        return {**about, **self._position.to_json()}

    def save_run(self, run: Run, batches: int, inside: int = 0) -> dict[str, Any]:
        """Write the position once ``batches`` of a run, and so many samples of the next batch, were
        taken as a JSON-able state."""
        position = self.position_after(run, batches)
        if inside:
            position = replace(position, inside=inside, counted=run.deal)
        about = run.about if position.is_begun else self._about()
        return {**about, **position.to_json()}

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
        position = Position.from_json(state)
        self.apply_settings(state.get("settings"))
        self.position, self._reading, self._epoch = position, None, None
        if position.is_begun:
            self._pending = self.options(), self._about()
        if "worker" in state:
            worker, workers = state["worker"]
            self._of_worker = int(worker), int(workers)

    # ---- hooks of loaders and frameworks -----------------------------------------------------

    def set_epoch(self, current_epoch: int) -> None:
        """Begin this epoch next, from its start; a loaded state that is pending goes first.

        Without it, epochs are counted from 1; any number from 0 on has an order of its own.
        """
        if isinstance(current_epoch, bool) or not isinstance(current_epoch, int):
            raise ConfigError(f"an epoch is a whole number, not {current_epoch!r}")
        if current_epoch < 0:
            raise ConfigError(f"an epoch is a whole number from 0 on, not {current_epoch}")
        if not self._position.is_begun:
            self._position, self._epoch = replace(self._position, epoch=current_epoch), None

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

    def _about(self) -> dict[str, Any]:
        found, settings = {"version": VERSION, **self.identity()}, self.settings()
        return found if settings is None else {**found, "settings": settings}

    def _deck_at(self, position: Position, options: Any, deal: Deal) -> ReadableDeck:
        """Return the samples of an epoch: those of the topology that it was begun on."""
        first = position.legs[0].deal if position.legs else deal
        readers = Readers(Topology(0, first.ranks), first.workers, first.batch_size)
        return self.deck(position, options, readers)

    def _dealt(
        self, position: Position, options: Any, deal: Deal
    ) -> tuple[Dealt[ReadableShares], int]:
        deck = self._deck_at(position, options, deal)
        return deal_epoch(deck, position.epoch, position.legs, deal)


def applied(function: Callable[[S], T], values: Iterable[S]) -> Iterator[T]:
    """Yield what a function makes of each value, and keep neither while the next one is made.

    ``map`` would take a ``StopIteration`` that the function lets out for the end.
    """
    for value in values:
        held = [value]
        del value
        yield function(held.pop())
