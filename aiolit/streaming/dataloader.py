"""``StreamingDataLoader``: torch's ``DataLoader`` for streaming data sets, with a state."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from aiolit.errors import ConfigError, StateError
from aiolit.runtime.board import judge
from aiolit.runtime.stats import Counters
from aiolit.runtime.transit import Transit
from aiolit.streaming.batch_feed import BatchFeed, Board, Collate, following
from aiolit.streaming.devices import CudaCopies, checked_device, copied_ahead
from aiolit.streaming.epoch import Streamable, Streamed
from aiolit.streaming.profiling import BatchProfile, checked_profile
from aiolit.streaming.run import Readers, Run, whole_number
from aiolit.streaming.state import VERSION

_AHEAD = 2  # batches that decode threads make ahead

StatsCallback = Callable[[dict[str, Any]], object]


@dataclass(slots=True)
class _Pace:
    """Where an iteration stands; beside the loader, whose attributes torch checks when they are
    set."""

    reading: tuple[Run, int] | None = None  # and how many of its batches were handed out
    waited_s: float = 0.0
    spent_s: float = 0.0
    began: float | None = None  # when the iteration that runs began


class StreamingDataLoader(DataLoader[Any]):
    """Loads batches of a streaming data set, in this process or in worker processes.

    It is a torch ``DataLoader``: ``num_workers``, ``pin_memory``, ``prefetch_factor``,
    ``persistent_workers``, ``multiprocessing_context``, ``timeout``, ``worker_init_fn`` and
    ``generator`` mean what they mean there. Batches are made by the data set's plan, so that every
    rank has the same number of them; samplers are refused.

    Each iteration is the next epoch. After an early ``break`` the next iteration begins a new
    epoch, unless a state is loaded in between.

    A data set keeps one place, of its next epoch or of a loaded state: give each loader its own.

    Args:
        dataset: A ``StreamingDataset`` or another of aiolit's streaming data sets.
        batch_size: Samples in a batch of this rank; for a mixture with
            ``batching_method="per_stream"`` also one for each member.
        profile_batches: Trace so many batches of the first iteration and write them to
            ``result.json``, for chrome://tracing or ui.perfetto.dev.
        profile_skip_batches: Batches to leave out before.
        profile_dir: Where ``result.json`` goes; by default the working folder.
        num_workers: Worker processes; 0 reads in this process, fetching ahead all the same.
        decode_threads: Threads that decode, transform and collate the coming batches while the
            training step runs, of this process or of each worker process. With 0 (the default)
            that is done in the process's own thread, when a batch is asked for. Order, errors and
            state are the same; but transforms then run in other threads than the training loop,
            several at the same time where there are several threads, so that random numbers from
            a generator they share come in another order every time.
        prefetch_factor: Batches that each worker process makes ahead, by default 2; without
            worker processes, those that ``decode_threads`` make ahead.
        prefetch_to_device: A CUDA device. Each batch is pinned and copied there on a stream of its
            own while the step before it runs, and handed out there: tensors in mappings, lists and
            tuples, however nested.
        shuffle: Set the data set's ``shuffle``; None leaves it.
        drop_last: Set the data set's ``drop_last``; None leaves it.
        collate_fn: Makes a batch of a list of samples; torch's ``default_collate`` by default.

    Raises:
        ConfigError: An argument cannot work with streaming data; the message names it.
    """

    def __init__(
        self,
        dataset: Streamable | Streamed,
        *args: Any,
        batch_size: int | Sequence[int] = 1,
        num_workers: int = 0,
        profile_batches: int | bool = False,
        profile_skip_batches: int = 0,
        profile_dir: str | Path | None = None,
        decode_threads: int = 0,
        prefetch_factor: int | None = None,
        prefetch_to_device: str | int | torch.device | None = None,
        shuffle: bool | None = None,
        drop_last: bool | None = None,
        collate_fn: Collate | None = None,
        **kwargs: Any,
    ) -> None:
        if args:
            raise ConfigError("give StreamingDataLoader's arguments after dataset by name")
        if isinstance(dataset, Streamed):
            dataset = dataset.streaming()
        _check(dataset, num_workers, decode_threads, kwargs)
        self._device = checked_device(prefetch_to_device)
        if shuffle is not None:
            dataset.set_shuffle(shuffle)
        if drop_last is not None:
            dataset.set_drop_last(drop_last)
        dataset.set_batch_size(batch_size)
        dataset.set_num_workers(num_workers)
        if not isinstance(batch_size, int):
            batch_size = max(batch_size)
        self._collate = None if collate_fn is default_collate else collate_fn
        self._threads, self._ahead = decode_threads, 1 if num_workers else _AHEAD
        if decode_threads and not num_workers and prefetch_factor is not None:
            self._ahead, prefetch_factor = whole_number(prefetch_factor, "prefetch_factor"), None
        options = {**kwargs, "num_workers": num_workers, "prefetch_factor": prefetch_factor}
        super().__init__(
            dataset,
            batch_size=batch_size,
            drop_last=bool(drop_last),
            collate_fn=default_collate if collate_fn is None else collate_fn,
            **options,
        )
        self._options = options
        profile = checked_profile(profile_batches, profile_skip_batches, profile_dir)
        self._profile = None if profile is None else BatchProfile(*profile)
        self._source = dataset
        self._workers: tuple[Run, DataLoader[Any]] | None = None
        self._live: weakref.ref[Iterator[Any]] | None = None
        # Lightning and Fabric tell the epoch to the sampler, which is otherwise not used.
        self.sampler.set_epoch = partial(_reach_epoch, dataset)  # type: ignore[attr-defined]
        self._past = Counters()  # of workers that are gone; those there are write on their board
        self._feed: BatchFeed | None = None
        self._pace = _Pace()
        self._callback: tuple[StatsCallback, float] | None = None

    def __len__(self) -> int:
        """Count the batches of the coming epoch, or of what a loaded state left of it; while an
        iterator is in use, those of its whole epoch.

        Trainers ask twice: before, to know what comes, and once they have an iterator, to count
        what is done up to the epoch's end.

        Raises:
            TypeError: The epoch does not end.
        """
        if self._source.is_endless:
            raise TypeError("a loader of an endless data set has no length")
        if self._live is None or self._live() is None:
            return self._plan().num_batches
        return (self._plan() if self._pace.reading is None else self._pace.reading[0]).whole

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Iterate the coming epoch, or the rest of one; it begins with the first batch asked
        for."""
        self._pace.reading, found = None, self._epoch()
        self._live = weakref.ref(found)
        return found

    def _epoch(self) -> Iterator[Any]:
        run = self._plan()
        self._pace.reading = (run, 0)
        self._source.position = self._source.next_position(run)
        self._source.begins(run)
        profile, self._profile = self._profile, None  # the first iteration only
        if profile is not None:
            profile.start()
        try:
            yield from self._iterate(run, profile)
        finally:
            if self._feed is not None:
                self._feed.end()
            if profile is not None:
                profile.finish()
        self._pace.reading = self._live = None
        if self._callback is not None:
            self._callback[0](self.stats())

    def _iterate(self, run: Run, profile: BatchProfile | None) -> Iterator[Any]:
        pace, timed, clock = self._pace, not self._is_direct, time.perf_counter
        pace.began = began = asked = told = clock()
        batches = iter(self._open(run))
        if self._device is not None:
            batches = copied_ahead(batches, CudaCopies(self._device))
        try:
            for number, batch in enumerate(batches, 1):
                if timed:
                    pace.waited_s += clock() - asked
                pace.reading = (run, number)
                if profile is not None:
                    profile.batch(number)
                yield batch
                if timed:
                    asked = clock()
                if self._callback is not None and clock() - told >= self._callback[1]:
                    self._callback[0](self.stats())
                    asked = told = clock()
        finally:
            pace.spent_s, pace.began = pace.spent_s + clock() - began, None

    @property
    def _is_direct(self) -> bool:
        """Whether batches are made in the thread that asks for them: what is waited for is then
        what is done. Timing each batch would cost more than two percent of the smallest ones."""
        aside = self.num_workers or self._threads or self.pin_memory or self._device is not None
        return not aside

    @property
    def current_epoch(self) -> int:
        """The epoch that is read, or was read last; before any is, the one that comes."""
        return self._source.current_epoch

    def stats(self) -> dict[str, Any]:
        """Return what was fetched, cached, decoded and waited for so far, over all workers.

        While an iteration runs, the workers' figures are up to a twentieth of a second old.

        Returns:
            The fields of ``Counters`` added up over the workers; ``batches_ready``, how many
            batches are made and not taken; ``loop_wait_seconds``, how long the training loop
            waited for batches; ``loop_seconds``, how long it has run; and ``verdict``, a sentence
            that says what holds it up and which knob to turn.
        """
        counters, ready = Counters(), 0
        counters.merge(self._past)
        if self._feed is not None:
            self._feed.note()
            self._feed.board.add_to(counters)
            ready = self._feed.ready
            if self.num_workers and self._pace.reading is not None:
                ready = self._feed.board.made - self._pace.reading[1]
        waited_s = self._pace.waited_s
        if self._is_direct:
            waited_s = counters.wait_seconds + counters.decode_seconds + counters.collate_seconds
        spent_s = self._pace.spent_s
        if self._pace.began is not None:
            spent_s += time.perf_counter() - self._pace.began
        verdict = judge(counters, waited_s, spent_s)
        whole = {name: type(value) for name, value in Counters().as_dict().items()}
        return {
            **{name: whole[name](value) for name, value in counters.as_dict().items()},
            "batches_ready": max(0, ready),
            "loop_wait_seconds": waited_s,
            "loop_seconds": spent_s,
            "verdict": str(verdict),
        }

    def on_stats(self, callback: StatsCallback | None, *, every_s: float = 10.0) -> None:
        """Have a function called with ``stats()``, such as one that logs them.

        It is called in the thread that iterates, between two batches and behind the last one of an
        iteration; what it raises is raised there.

        Args:
            callback: The function; None ends it.
            every_s: It is called as soon as so many seconds have passed since the last time.
        """
        self._callback = None if callback is None else (callback, every_s)

    def state_dict(self) -> dict[str, Any]:
        """Return where the reading stands: behind the last batch that was handed out.

        The value is small and JSON-able, the same on every rank, and loads on any number of ranks
        and workers and with another batch size.
        """
        source = self._source
        reading = self._pace.reading
        found = source.save() if reading is None else source.save_run(*reading)
        return {"version": VERSION, "dataset": found}

    def load_state_dict(self, obj: dict[str, Any]) -> None:
        """Go on where a saved state stands with the next iteration.

        Raises:
            StateError: It is of another data set, seed, shuffle or loader; the message says which.
        """
        if "dataset" not in obj:
            raise StateError(f"this is no state of a StreamingDataLoader: {obj!r:.200}")
        self._source.load(obj["dataset"])
        self._pace.reading = self._live = None

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch next, from its start; a loaded state that is pending goes first."""
        self._source.set_epoch(epoch)

    def _plan(self) -> Run:
        assert self.batch_size is not None
        readers = Readers(self._source.find_topology(), max(1, self.num_workers), self.batch_size)
        return self._source.begin(readers)

    def _open(self, run: Run) -> Iterable[Any]:
        """Return what yields the batches of a run: torch's loader, the one whose workers live on if
        they expect it. Where it would do nothing but pass batches on, it is left out."""
        if self._feed is not None:
            self._feed.board.move_to(self._past)
        if self._workers is not None:
            expected, kept = self._workers
            if expected == run:
                self._workers = (following(self._source, run), kept)
                return kept
        self._workers = None
        board = Board(max(1, self.num_workers), shared=self.num_workers > 0)
        transit = None
        if self.num_workers:
            transit = Transit.open(self.num_workers, self.prefetch_factor or _AHEAD)
        feed = BatchFeed(
            self._source,
            run,
            self._collate,
            board,
            threads=self._threads,
            ahead=self._ahead,
            transit=transit,
        )
        self._feed = feed
        if not self.num_workers and not self.pin_memory:
            return feed
        loader: DataLoader[Any] = DataLoader(
            feed, batch_size=None, collate_fn=_as_it_is, **self._options
        )
        if self._options.get("persistent_workers"):
            self._workers = (following(self._source, run), loader)
        return loader


def _reach_epoch(source: Streamable, done: int) -> None:
    """Begin the epoch after so many next. Never an earlier one than is due: who goes on with a
    saved state may count from 0 again."""
    if done + 1 > source.position.epoch:
        source.set_epoch(done + 1)


def _as_it_is(batch: Any) -> Any:
    return batch


def _check(
    dataset: object, num_workers: object, decode_threads: object, kwargs: dict[str, Any]
) -> None:
    if not isinstance(dataset, Streamable):
        raise ConfigError(
            "StreamingDataLoader reads aiolit's streaming data sets, not "
            f"{type(dataset).__name__}; torch's DataLoader reads others"
        )
    for name, value in (("num_workers", num_workers), ("decode_threads", decode_threads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ConfigError(f"{name} must be a whole number from 0 on, not {value!r}")
    for name in ("sampler", "batch_sampler"):
        if kwargs.pop(name, None) is not None:
            raise ConfigError(f"{name} does not fit streaming data: the data set fixes the order")
    if kwargs.get("in_order", True) is not True:
        raise ConfigError("in_order=False does not fit a loader whose order can be resumed")
