"""``StreamingDataset``: an optimized data set, read from wherever it lies."""

from __future__ import annotations

import copy
import math
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from torch.utils.data import default_collate

from aiolit.cache.chunks import CacheConfig
from aiolit.errors import ConfigError, DatasetNotFoundError, StoreError
from aiolit.format.encryption_base import Encryption
from aiolit.format.loader import ItemLoader
from aiolit.plan.lanes import OrderOptions, default_window, epoch_pool
from aiolit.plan.runs import Runs
from aiolit.plan.subset import pick, subsample
from aiolit.runtime.portal import portal
from aiolit.runtime.stats import Counters
from aiolit.streaming.columns import ColumnCollate, column_collate
from aiolit.streaming.deck import LaneReader
from aiolit.streaming.epoch import Streamable, Wants
from aiolit.streaming.reading import (
    Batch,
    Finish,
    ReadPlan,
    RunsDeck,
    RunsReader,
    read_samples,
)
from aiolit.streaming.resolver import Dir, Location, cache_limit, default_cache_dir, resolve
from aiolit.streaming.run import Readers, Run, whole_number
from aiolit.streaming.source import (
    ChunkSource,
    ReadOptions,
    check_serializers,
    filter_index,
    find_parquet_index,
    open_remote,
    read_local_index,
)
from aiolit.streaming.state import Position, fingerprint
from aiolit.streaming.topology import Place, Topology
from aiolit.streaming.transforms import Transform, Transforming, checked_transforms
from aiolit.units import parse_size

_ALLOW_PICKLE = "AIOLIT_ALLOW_PICKLE"
_LEAST_BYTES = 64  # of a sample in a window: so much its plan takes
_RAMP = 2  # the first windows are a quarter and a half of the default size


class Fetched(int):
    """The index of a sample whose bytes are already there: what an overridden
    ``__getitem__`` is called with while a data set is iterated."""

    sample: Any


class StreamingDataset(Transforming, Streamable):
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
        subsample: The share of the samples to read: the first ones, or with ``shuffle`` a random
            choice that ``seed`` fixes. Above 1, whole copies and a part. Never none at all.
        encryption: The key of encrypted data.
        storage_options: For the store's client, in the names of boto3 (or of the cloud's client);
            and for every store ``hedge_after_s``, to ask a second time where no byte has come for
            so many seconds (the first answer is taken), and ``give_up_after_s``, how long reading
            may go on without a byte, over all attempts (120).
        session_options: For the store's session, in the names of boto3.
        max_pre_download: Chunks each worker fetches ahead beyond those of the windows that it
            reads now and next.
        index_path: A folder, or the path, of an ``index.json`` that does not lie beside the data.
        force_override_state_dict: Take a saved state that does not fit, with a warning.
        transform: A function, or a list of functions, applied to every sample.
        num_canonical_nodes: With it, the global batches are the same on any number of ranks that
            divides it, if the global batch size and the workers per rank stay the same.
        batch_decode: Taken for LitData's sake, and not needed: samples are always decoded by the
            batch.
        item_shuffle_window: As ``shuffle_window`` in samples; LitData's name.
        shuffle_window: How many samples (an int) or bytes (``"512MB"``) are mixed with each other;
            by default about eight chunks, at most 256 MiB of them but never less than two, and at
            most two million samples. The first two windows of an epoch are then smaller, so that
            its first batch comes soon.
        granularity: ``"chunk"`` lets ``subsample`` choose whole chunks instead of samples.
        cache: ``"memory"`` keeps fetched chunks in the memory of each process, at most 1 GiB or
            ``max_cache_size`` of them, and writes nothing.
        on_error: ``"skip"`` puts another sample of the batch in the place of one that cannot be
            fetched or is damaged, with a warning for each chunk; ``stats()`` counts them.
        rank: This process's place, where neither torch.distributed nor the launcher tells.
        world_size: How many processes read different data; given together with ``rank``.
        replicate: So many consecutive ranks read the same data, as the ranks of one tensor-parallel
            group must.
        device_mesh: A ``torch.distributed.DeviceMesh`` that says who reads the same data.
        data_dims: The names of the mesh's dimensions of data parallelism, where it has several.
        decode: Whether images, videos and the like that are stored as encoded files are decoded.
            False hands out the files' bytes as they are, to be decoded elsewhere.
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
        batch_decode: int | str | bool = "auto",
        item_shuffle_window: int | None = None,
        shuffle_window: int | str | None = None,
        granularity: Literal["sample", "chunk"] = "sample",
        cache: Literal["disk", "memory"] = "disk",
        on_error: Literal["raise", "skip"] = "raise",
        rank: int | None = None,
        world_size: int | None = None,
        replicate: int = 1,
        device_mesh: Any = None,
        data_dims: str | Sequence[str] | None = None,
        decode: bool = True,
        allow_pickle: bool | None = None,
    ) -> None:
        super().__init__(
            drop_last=drop_last, canonical=num_canonical_nodes, force=force_override_state_dict
        )
        _check_flags(shuffle=shuffle, drop_last=drop_last, seed=seed, decode=decode)
        check_serializers(serializers)
        self.ahead = whole_number(max_pre_download, "max_pre_download")
        if num_canonical_nodes is not None:
            whole_number(num_canonical_nodes, "num_canonical_nodes")
        self._place = Place(
            rank=rank,
            world_size=world_size,
            replicate=replicate,
            device_mesh=device_mesh,
            data_dims=data_dims,
        )
        if cache not in ("disk", "memory"):
            raise ConfigError(f"cache must be 'disk' or 'memory', not {cache!r}")
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
        self._skips = on_error == "skip"
        self._transforms = checked_transforms(transform)
        if item_loader is not None and not _is_loader(item_loader):
            raise ConfigError(f"item_loader must be an item loader, not {item_loader!r}")
        location = resolve(input_dir, cache_dir)
        folder = location.cache_dir or default_cache_dir()
        options = ReadOptions(
            item_loader=item_loader,
            serializers=serializers,
            encryption=encryption,
            storage_options=storage_options,
            session_options=session_options,
            allow_pickle=_trusts(location, allow_pickle),
            decode_files=decode,
            cache=CacheConfig(folder, cache_limit(max_cache_size, folder)),
            in_memory=cache == "memory",
        )
        self.source = _open_source(location, options, index_path)
        self.segments = _subsample(
            self.source.runs(), subsample, seed if shuffle else None, granularity
        )
        self._shuffle, self._seed = shuffle, seed
        window = item_shuffle_window if shuffle_window is None else shuffle_window
        self._window = _window(window, self.source)
        self._ramp = _RAMP if window is None else 0
        self._digest: tuple[Runs, str] | None = None

    # ---- what it is ------------------------------------------------------------------------

    @property
    def num_samples(self) -> int:
        """How many samples the whole data set has, over all ranks."""
        return len(self.segments)

    @property
    def input_dir(self) -> str:
        """Where the data set lies."""
        return self.source.location.url

    @property
    def shuffle(self) -> bool:
        """Whether epochs are shuffled; ``set_shuffle`` changes it."""
        return self._shuffle

    @property
    def seed(self) -> int:
        """What the order is drawn from, with the epoch."""
        return self._seed

    @property
    def item_loader(self) -> ItemLoader:
        """What knows the layout of a chunk's samples."""
        return self.source.loader

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.input_dir!r}, num_samples={self.num_samples})"

    def subset(self, indices: slice | Iterable[int]) -> Self:
        """Return a data set of some of these samples, in the order given; repeats are allowed.

        Raises:
            IndexError: There is no such sample.
        """
        if isinstance(indices, slice):
            wanted = range(*indices.indices(self.num_samples))
            if wanted.step == 1:
                return self.with_samples(self.segments.slice(wanted.start, wanted.stop))
            return self.with_samples(pick(self.segments, np.array(wanted, np.int64)))
        positions = np.array([self._checked(one) for one in indices], np.int64)
        return self.with_samples(pick(self.segments, positions))

    def with_samples(self, segments: Runs) -> Self:
        """Return this data set with other samples of its chunks, at the start of epoch 1."""
        other = copy.copy(self)
        other.segments, other._reading = segments, None
        other.position = Position()
        return other

    # ---- random access ---------------------------------------------------------------------

    def __getitem__(self, index: Any) -> Any:
        """Return a sample, or a list of samples for a slice or a list of indices.

        Raises:
            IndexError: An index is outside ``[-num_samples, num_samples)``.
            TypeError: The index is no whole number, slice or list of whole numbers.
        """
        if isinstance(index, Fetched):
            return self.transform(index.sample)
        if isinstance(index, slice):
            return self.get_many(range(*index.indices(self.num_samples)))
        if isinstance(index, list | tuple | np.ndarray):
            return self.get_many(index)
        chunk, sample = self.segments.sample_at(self._checked(index))
        values = read_samples(self.source, [chunk], [sample])
        return self.transformed(values, lambda _: self._name(chunk, sample))[0]

    def get_many(self, indices: Iterable[Any]) -> list[Any]:
        """Return samples in the order asked for, fetched together with few requests.

        Raises:
            IndexError: There is no such sample; nothing was fetched.
        """
        chunks, samples = self.places(indices)
        values = read_samples(self.source, chunks, samples)
        return self.transformed(values, lambda place: self._name(chunks[place], samples[place]))

    # ---- what the reading of it needs ------------------------------------------------------

    def deck(self, position: Position, options: OrderOptions, readers: Readers) -> RunsDeck:
        """Return all samples of an epoch; see ``Streamable``."""
        plan = ReadPlan(self.source, self.ahead, self.finisher(), self._skips)
        return RunsDeck(plan, epoch_pool(self.segments, options, position.epoch), options)

    def collated(
        self, run: Run, worker: int, collate: Callable[[list[Any]], Any] | None
    ) -> Iterator[Any]:
        """Yield one worker's batches, collated; fixed-size samples column by column."""
        columns = None if collate is not None else self._columns()
        if columns is None:
            return super().collated(run, worker, collate)

        def batch_of(reader: LaneReader, wants: Wants, again: list[Any]) -> Any:
            if again or not isinstance(reader, RunsReader):
                return default_collate(self._listed(reader, wants, again))
            return reader.collated(wants, columns)

        return self.read(run, worker, batch_of)

    def options(self) -> OrderOptions:
        """Return what fixes the order; see ``Streamable``."""
        return OrderOptions(
            self._shuffle, self._seed, self._window, self._ramp if self._shuffle else 0
        )

    def identity(self) -> dict[str, Any]:
        """Return what a saved state must agree in; see ``Streamable``."""
        source, digest = self.source, self._digest
        if digest is None or digest[0] is not self.segments:
            found = fingerprint(source.index, self.segments, source.loader_state)
            self._digest = digest = self.segments, found
        return {
            "kind": "StreamingDataset",
            "fingerprint": digest[1],
            "shuffle": self._shuffle,
            "seed": self._seed,
            "window": self._window,
        }

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_place": self._place.for_child()}

    def find_topology(self) -> Topology:
        """Return this process's place: as given, from torch.distributed, or from the launcher."""
        return self._place.find()

    def counters(self) -> list[Counters]:
        """Return this process's counters; see ``Streamable``."""
        return [self.source.counters()]

    def set_shuffle(self, shuffle: bool) -> None:
        """Set whether epochs are shuffled."""
        _check_flags(shuffle=shuffle)
        self._shuffle = shuffle

    # ---- inside ----------------------------------------------------------------------------

    def _checked(self, index: Any) -> int:
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(
                f"a sample is asked for by a whole number, a slice or a list, not {index!r}"
            ) from None
        count = self.num_samples
        if not -count <= number < count:
            raise IndexError(f"index {number} is out of range: {count} samples")
        return number % count

    def places(self, indices: Iterable[Any]) -> tuple[list[int], list[int]]:
        """Return the chunk of each sample, and its index there.

        Raises:
            IndexError: There is no such sample.
        """
        checked = np.array([self._checked(one) for one in indices], np.int64)
        chunks, samples = self.segments.samples_at(checked)
        return chunks.tolist(), samples.tolist()

    def _columns(self) -> ColumnCollate | None:
        cls = type(self)
        own_samples = (
            cls.__getitem__ is not StreamingDataset.__getitem__
            or self.changes_samples()
            or cls.as_batch is not Streamable.as_batch
            or self._skips
            or bool(self.source.options.serializers)
        )
        return None if own_samples else column_collate(self.source.index)

    def finisher(self) -> Finish:
        """Return what makes the user's samples of a batch: chosen once, not per sample."""
        if type(self).__getitem__ is not StreamingDataset.__getitem__:
            return self._through_getitem
        if not self.changes_samples():
            return lambda batch: batch.values
        return lambda batch: self.transformed(
            batch.values, lambda place: self._name(batch.chunks[place], batch.samples[place])
        )

    def _name(self, chunk: int, sample: int) -> str:
        return f"sample {sample} of {self.source.index.chunks[chunk].filename}"

    def _through_getitem(self, batch: Batch) -> list[Any]:
        found, places = [], self.segments.positions_of(batch.chunks, batch.samples)
        for value, place in zip(batch.values, places, strict=True):
            index = Fetched(place)
            index.sample = value
            found.append(self[index])
        return found


def _open_source(
    location: Location, options: ReadOptions, index_path: str | Path | None
) -> ChunkSource:
    pattern = location.pattern
    if pattern is not None and index_path is None:
        found = portal().call(find_parquet_index, location, options)
        return ChunkSource(location, options, found)
    try:
        local = read_local_index(location, index_path)
        if local is None:
            return portal().call(open_remote, location, options)
    except DatasetNotFoundError as missing:
        if index_path is not None:
            raise
        try:
            local = portal().call(find_parquet_index, location, options)
        except DatasetNotFoundError:
            raise missing from None
        except StoreError as error:  # a web server, say, cannot be listed
            raise missing from error
    if pattern is not None:
        local = filter_index(local, pattern, str(index_path))
    return ChunkSource(location, options, local)


def _trusts(location: Location, allow_pickle: bool | None) -> bool:
    if allow_pickle is not None:
        return allow_pickle
    return location.trusted or os.environ.get(_ALLOW_PICKLE) == "1"


def _subsample(segments: Runs, share: object, seed: int | None, granularity: object) -> Runs:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < math.inf:
        raise ConfigError(f"subsample must be a number above 0, not {share!r}")
    if granularity not in ("sample", "chunk"):
        raise ConfigError(f"granularity must be 'sample' or 'chunk', not {granularity!r}")
    if share == 1:
        return segments
    found = subsample(segments, share, seed=seed, by_chunk=granularity == "chunk")
    if len(segments) and not len(found):
        raise ConfigError(f"subsample={share} of {len(segments)} samples leaves none")
    return found


def _window(window: int | str | None, source: ChunkSource) -> int:
    if window is None:
        parts = source.runs()
        sizes = parts.stop - parts.start
        nbytes = source.nbytes[parts.chunk] * sizes // np.maximum(source.counts[parts.chunk], 1)
        return default_window(sizes, nbytes)
    if isinstance(window, str):
        mean = int(source.nbytes.sum()) // max(1, int(source.counts.sum()))
        mean = max(mean, _LEAST_BYTES)
        try:
            return max(1, parse_size(window, name="shuffle_window") // mean)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    return whole_number(window, "shuffle_window")


def _check_flags(
    *,
    shuffle: object = False,
    drop_last: object = None,
    seed: object = 0,
    decode: object = True,
) -> None:
    for name, value in (("shuffle", shuffle), ("decode", decode)):
        if not isinstance(value, bool):
            raise ConfigError(f"{name} must be True or False, not {value!r}")
    if drop_last is not None and not isinstance(drop_last, bool):
        raise ConfigError(f"drop_last must be True, False or None, not {drop_last!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ConfigError(f"seed must be a whole number, not {seed!r}")


def _is_loader(value: object) -> bool:
    return isinstance(value, ItemLoader)
