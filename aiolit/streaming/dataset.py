"""``StreamingDataset``: an optimized data set, read from wherever it lies."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info

from aiolit.cache.chunks import CacheConfig
from aiolit.errors import ConfigError, StateError
from aiolit.format.encryption_base import Encryption
from aiolit.format.loader import ItemLoader
from aiolit.plan.order import OrderOptions, deal_epoch, default_window
from aiolit.plan.runs import Runs
from aiolit.plan.stream import WorkerStream
from aiolit.runtime.portal import portal
from aiolit.streaming.epoch import Readers, Run, Streamable, at_worker, whole_number
from aiolit.streaming.reading import Batch, BatchReader
from aiolit.streaming.resolver import Dir, Location, cache_limit, default_cache_dir, resolve
from aiolit.streaming.source import (
    ChunkSource,
    ReadOptions,
    check_serializers,
    fetch_index,
    read_local_index,
)
from aiolit.streaming.state import VERSION, Position, check_same, fingerprint
from aiolit.streaming.topology import Topology, find_topology
from aiolit.units import parse_size

_ALLOW_PICKLE = "AIOLIT_ALLOW_PICKLE"
_CHECKED = ("kind", "fingerprint", "shuffle", "seed", "window")

Transform = Callable[..., Any]


class Fetched(int):
    """The index of a sample whose bytes are already there: what an overridden
    ``__getitem__`` is called with while a data set is iterated."""

    sample: Any


class StreamingDataset(Streamable):
    """A data set made by ``optimize`` (or by LitData), streamed from a cloud or a disk.

    Iterating yields this rank's samples of one epoch, in an order that is a function of the data
    set, the seed, the epoch, the topology, the batch size and the options here: never of timing or
    of what a cache holds. ``ds[i]``, ``ds[a:b]`` and ``ds[[...]]`` read any samples of the whole
    data set, in the order asked for, by byte ranges where the chunks allow it.

    Args:
        input_dir: A path, a URL (``s3://bucket/prefix``, ...), ``local:/path`` (a folder whose
            chunks are worth caching) or a ``Dir``.
        cache_dir: Where chunks that are not local are cached; by default
            ``~/.cache/aiolit/chunks``.
        item_loader: How items become samples; token data needs ``TokensLoader(block_size=...)``.
        shuffle: Whether each epoch has its own random order.
        drop_last: Whether the samples that do not fill a batch of every rank are left out. None
            (the default) does so where there are several ranks. With False, the last batches may be
            short and up to ``world_size - 1`` samples are repeated, so that every rank has as many.
        seed: The seed of the order.
        serializers: Your own serializers, by the names they were written under.
        max_cache_size: Bytes that the cache folder may hold, over all processes that share it: a
            number, ``"10GB"``, ``"10GiB"``, a fraction of the disk such as ``0.5``, None for three
            quarters of what is free, 0 for no limit.
        subsample: The share of the samples to read; above 1, they are repeated.
        encryption: The key of encrypted data.
        storage_options: For the store's client, in the names of boto3 (or of the cloud's client).
        session_options: For the store's session, in the names of boto3.
        max_pre_download: Chunks each worker fetches ahead beyond those of the windows that it
            reads now and next.
        index_path: A folder, or the path, of an ``index.json`` that does not lie beside the data.
        force_override_state_dict: Take a saved state that does not fit, with a warning.
        transform: A function, or a list of functions, applied to every sample.
        num_canonical_nodes: With it, the global batches are the same on any number of ranks that
            divides it, if the global batch size and the workers per rank stay the same.
        item_shuffle_window: As ``shuffle_window`` in samples; LitData's name.
        shuffle_window: How many samples (an int) or bytes (``"512MB"``) are mixed with each other;
            by default about eight chunks, at most 256 MiB of them but never less than two.
        rank: This process's place, where neither torch.distributed nor the launcher tells.
        world_size: How many processes read different data; given together with ``rank``.
        allow_pickle: Whether pickled leaves, which can run code, are loaded. By default only from
            this host's own disks, or where ``AIOLIT_ALLOW_PICKLE=1`` is set.

    Raises:
        ConfigError: An argument cannot work; the message names it.
        DatasetNotFoundError: There is no data set.
        IndexFormatError: Its index is damaged.
    """

    def __init__(
        self,
        input_dir: str | Path | Dir,
        cache_dir: str | Path | Dir | None = None,
        item_loader: ItemLoader | None = None,
        shuffle: bool = False,
        drop_last: bool | None = None,
        seed: int = 42,
        serializers: Mapping[str, Any] | None = None,
        max_cache_size: int | float | str | None = "100GB",
        subsample: float = 1.0,
        encryption: Encryption | None = None,
        storage_options: Mapping[str, Any] | None = None,
        session_options: Mapping[str, Any] | None = None,
        max_pre_download: int = 2,
        index_path: str | Path | None = None,
        force_override_state_dict: bool = False,
        transform: Transform | Sequence[Transform] | None = None,
        num_canonical_nodes: int | None = None,
        *,
        item_shuffle_window: int | None = None,
        shuffle_window: int | str | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        allow_pickle: bool | None = None,
    ) -> None:
        super().__init__()
        _check_flags(shuffle=shuffle, drop_last=drop_last, seed=seed)
        check_serializers(serializers)
        self.ahead = whole_number(max_pre_download, "max_pre_download")
        if num_canonical_nodes is not None:
            whole_number(num_canonical_nodes, "num_canonical_nodes")
        if rank is not None or world_size is not None:
            find_topology(rank, world_size)
        self._transforms = _transforms(transform)
        location = resolve(input_dir, cache_dir)
        folder = location.cache_dir or default_cache_dir()
        options = ReadOptions(
            item_loader=item_loader,
            serializers=serializers,
            encryption=encryption,
            storage_options=storage_options,
            session_options=session_options,
            allow_pickle=_trusts(location, allow_pickle),
            cache=CacheConfig(folder, cache_limit(max_cache_size, folder)),
        )
        self.source = ChunkSource(location, options, _read_index(location, options, index_path))
        self.segments = Runs.whole(self.source.counts)
        self._shuffle, self._seed, self._drop_last = shuffle, seed, drop_last
        window = item_shuffle_window if shuffle_window is None else shuffle_window
        self._window = _window(window, self.source)
        self._canonical = num_canonical_nodes
        self._rank, self._world_size = rank, world_size
        self._force = force_override_state_dict
        self._readers = (1, 1)  # workers and batch size, as a loader or the user told them
        self._position = Position()
        self._reading: tuple[Run, int, int] | None = None  # run, worker, batches yielded

    # ---- what it is ------------------------------------------------------------------------

    @property
    def num_samples(self) -> int:
        """How many samples the whole data set has, over all ranks."""
        return len(self.segments)

    @property
    def input_dir(self) -> str:
        """Where the data set lies."""
        return self.source.location.url

    def __len__(self) -> int:
        """Count this rank's samples in the coming epoch."""
        run = self.begin(self._as_told())
        whole = run.deal.rank_samples(self.num_samples)
        return whole - sum(leg.batches * leg.deal.batch_size for leg in run.position.legs)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.input_dir!r}, num_samples={self.num_samples})"

    # ---- random access ---------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        """Return a sample, or a list of samples for a slice or a list of indices.

        Raises:
            IndexError: An index is outside ``[-num_samples, num_samples)``.
            TypeError: The index is no whole number, slice or list of whole numbers.
        """
        if isinstance(index, Fetched):
            return self._transformed(index.sample)
        if isinstance(index, slice):
            return self._get_many(range(*index.indices(self.num_samples)))
        if isinstance(index, list | tuple | np.ndarray):
            return self._get_many(index)
        return self._get_one(index)

    def transform(self, sample: Any, *args: Any, **kwargs: Any) -> Any:
        """Change a sample; overridden, or made of the functions given as ``transform``."""
        for function in self._transforms:
            sample = function(sample)
        return sample

    # ---- iteration -------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """Iterate this rank's samples, or in a torch ``DataLoader``'s worker this worker's share.

        Each iteration is the next epoch; one that a loaded state began is ended first.
        """
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        readers = Readers(self.find_topology(), workers, self._readers[1])
        run = self.begin(readers)
        self._reading = (run, worker, 0)
        for number, batch in enumerate(self.batches(run, worker), 1):
            self._reading = (run, worker, number)
            yield from batch
        self._reading = None
        self._position = run.position.next_epoch()

    def begin(self, readers: Readers, position: Position | None = None) -> Run:
        """Plan the coming epoch for these readers; see ``Streamable``."""
        position = self._position if position is None else position
        deal = readers.deal(self._drop_last, self._canonical)
        dealt, base = deal_epoch(self.segments, self._order(), position.epoch, position.legs, deal)
        left = dealt.num_batches - base
        return Run(position, deal, readers.topology.rank, base, left, self._order())

    def batches(self, run: Run, worker: int) -> Iterator[list[Any]]:
        """Yield one worker's batches, as lists of samples with the transforms applied."""
        position = run.position
        dealt, base = deal_epoch(self.segments, run.order, position.epoch, position.legs, run.deal)
        stream = WorkerStream(dealt, base, run.rank, worker, position.own)
        finish = self.finisher()
        with BatchReader(self.source, stream, self.ahead) as reader:
            for batch in reader.batches():
                yield finish(batch)

    def find_topology(self) -> Topology:
        """Return this process's place: as given, from torch.distributed, or from the launcher."""
        return find_topology(self._rank, self._world_size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reading": None}

    # ---- state -----------------------------------------------------------------------------

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
            run = self.begin(told)
            return self.save(run.after(-(-num_samples_yielded // told.batch_size)))
        if self._reading is None:
            return self.save(self._position)
        run, worker, taken = self._reading
        if get_worker_info() is None:
            return self.save(run.after(taken))
        return {
            **self.save(at_worker(run.position, run.position.own + taken)),
            "worker": worker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a saved state stands; rank 0's state is enough for all ranks.

        Raises:
            StateError: It is of another data set, seed, shuffle or loader; the message says which.
        """
        self.load(state_dict.get("dataset", state_dict))

    def save(self, position: Position) -> dict[str, Any]:
        """Write a position of this data set as a JSON-able state."""
        return {"version": VERSION, **self._identity(), **position.to_json()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on at a saved position when iteration begins."""
        if state.get("version") != VERSION:
            raise StateError(
                f"this is no state of aiolit's, or one of another version: {sorted(state)}"
            )
        check_same(state, self._identity(), _CHECKED, force=self._force)
        self._position, self._reading = Position.from_json(state), None

    # ---- hooks of loaders and frameworks ---------------------------------------------------

    def set_epoch(self, current_epoch: int) -> None:
        """Begin this epoch next, from its start; a loaded state that is pending goes first."""
        if not self._position.legs:
            self._position = Position(max(1, whole_number(current_epoch + 1, "epoch") - 1))

    def set_shuffle(self, shuffle: bool) -> None:
        """Set whether epochs are shuffled."""
        _check_flags(shuffle=shuffle)
        self._shuffle = shuffle

    def set_drop_last(self, drop_last: bool) -> None:
        """Set whether the last, short batch is left out."""
        _check_flags(drop_last=drop_last)
        self._drop_last = drop_last

    def set_batch_size(self, batch_size: int) -> None:
        """Tell the size of the batches in which this data set will be read; ``len`` uses it."""
        self._readers = (self._readers[0], whole_number(batch_size, "batch_size"))

    def set_num_workers(self, num_workers: int) -> None:
        """Tell how many workers will read this data set; 0 counts as 1."""
        self._readers = (max(1, num_workers), self._readers[1])

    # ---- inside ----------------------------------------------------------------------------

    def _as_told(self) -> Readers:
        return Readers(self.find_topology(), *self._readers)

    def _order(self) -> OrderOptions:
        return OrderOptions(self._shuffle, self._seed, self._window)

    def _identity(self) -> dict[str, Any]:
        source = self.source
        return {
            "kind": "StreamingDataset",
            "fingerprint": fingerprint(source.index, self.segments, source.loader_state),
            "shuffle": self._shuffle,
            "seed": self._seed,
            "window": self._window,
        }

    def _checked(self, index: Any) -> int:
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(
                f"a sample is asked for by a whole number, a slice or a list, not {index!r}"
            ) from None
        if not -self.num_samples <= number < self.num_samples:
            raise IndexError(f"index {number} is out of range: {self.num_samples} samples")
        return number % self.num_samples

    def places(self, indices: Iterable[Any]) -> tuple[list[int], list[int]]:
        """Return the chunk of each sample, and its index there.

        Raises:
            IndexError: There is no such sample.
        """
        checked = np.array([self._checked(one) for one in indices], np.int64)
        chunks, samples = self.segments.samples_at(checked)
        return chunks.tolist(), samples.tolist()

    def _get_one(self, index: Any) -> Any:
        (chunk,), (sample,) = self.places([index])
        reader = self.source.direct_reader(chunk)
        if reader is not None:
            return self._transformed(reader.sample(sample))
        return self._get_remote([chunk], [sample])[0]

    def _get_many(self, indices: Iterable[Any]) -> list[Any]:
        chunks, samples = self.places(indices)
        if not chunks:
            return []
        if all(self.source.is_direct(chunk) for chunk in set(chunks)):
            found = []
            for chunk, sample in zip(chunks, samples, strict=True):
                reader = self.source.direct_reader(chunk)
                assert reader is not None
                found.append(self._transformed(reader.sample(sample)))
            return found
        return self._get_remote(chunks, samples)

    def _get_remote(self, chunks: list[int], samples: list[int]) -> list[Any]:
        loop = portal()
        self.source.open_on(loop)
        readers, held = loop.call(self.source.open_samples, chunks, samples)
        found = [
            self._transformed(reader.sample(sample))
            for reader, sample in zip(readers, samples, strict=True)
        ]
        for one in held:
            one.close()
        return found

    def _transformed(self, sample: Any) -> Any:
        return self.transform(sample)

    def finisher(self) -> Callable[[Batch], list[Any]]:
        """Return what makes the user's samples of a batch: chosen once, not per sample."""
        if type(self).__getitem__ is not StreamingDataset.__getitem__:
            return self._through_getitem
        if type(self).transform is StreamingDataset.transform and not self._transforms:
            return lambda batch: batch.values
        return lambda batch: [self.transform(value) for value in batch.values]

    def _through_getitem(self, batch: Batch) -> list[Any]:
        firsts, found = self.source.firsts, []
        for value, chunk, sample in zip(batch.values, batch.chunks, batch.samples, strict=True):
            index = Fetched(int(firsts[chunk]) + sample)
            index.sample = value
            found.append(self[index])
        return found


def _read_index(location: Location, options: ReadOptions, index_path: str | Path | None) -> bytes:
    found = read_local_index(location, index_path)
    return portal().call(fetch_index, location, options) if found is None else found


def _trusts(location: Location, allow_pickle: bool | None) -> bool:
    if allow_pickle is not None:
        return allow_pickle
    return location.trusted or os.environ.get(_ALLOW_PICKLE) == "1"


def _transforms(transform: Transform | Sequence[Transform] | None) -> list[Transform]:
    if transform is None:
        return []
    found: list[Any] = list(transform) if isinstance(transform, Sequence) else [transform]
    for one in found:
        if not callable(one):
            raise ConfigError(f"transform must be a function or a list of functions, not {one!r}")
    return found


def _window(window: int | str | None, source: ChunkSource) -> int:
    if window is None:
        return default_window(source.counts, source.nbytes)
    if isinstance(window, str):
        mean = max(1, int(source.nbytes.sum()) // max(1, int(source.counts.sum())))
        try:
            return max(1, parse_size(window, name="shuffle_window") // mean)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return whole_number(window, "shuffle_window")


def _check_flags(*, shuffle: object = False, drop_last: object = None, seed: object = 0) -> None:
    if not isinstance(shuffle, bool):
        raise ConfigError(f"shuffle must be True or False, not {shuffle!r}")
    if drop_last is not None and not isinstance(drop_last, bool):
        raise ConfigError(f"drop_last must be True, False or None, not {drop_last!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ConfigError(f"seed must be a whole number, not {seed!r}")
