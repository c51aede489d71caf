"""``StreamingRawDataset``: the files of a folder or bucket as they lie, many at a time."""

from __future__ import annotations

import operator
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch.utils.data import Dataset

from aiolit.cache.chunks import CacheConfig
from aiolit.errors import ConfigError
from aiolit.raw.deck import ItemPlan, ItemReader
from aiolit.raw.fetch import RawItem, RawSource, SourceOptions
from aiolit.raw.indexer import BaseIndexer, FileIndexer
from aiolit.raw.items import FileMetadata, ItemTable
from aiolit.raw.listing import ListingOptions, find_files
from aiolit.raw.stream import EpochOptions, RawStream
from aiolit.runtime.portal import portal
from aiolit.streaming.resolver import Dir, Location, cache_limit, default_cache_dir, resolve
from aiolit.streaming.topology import Place
from aiolit.streaming.transforms import Transform, Transforming, checked_transforms
from aiolit.units import parse_size

FetchMany = Callable[[Sequence[int]], Coroutine[Any, Any, list[RawItem]]]

_AT_ONCE = 64  # items that plain iteration takes from the loop at once


class FetchedItem(int):
    """The index of an item whose bytes are already there: what an overridden ``__getitem__`` is
    called with while a batch or an epoch is read."""

    value: Any


class StreamingRawDataset(Transforming, Dataset[Any]):
    """The files below a path or URL, each an item: its bytes, or what ``transform`` makes of them.

    It is a map-style data set. In torch's ``DataLoader`` each batch is fetched concurrently, and
    torch's samplers fix the order. In ``StreamingDataLoader``, which knows the order, items are
    fetched ahead across batches, and ranks, ``shuffle``, ``drop_last`` and the state work as for a
    ``StreamingDataset``. Override ``setup`` to group files, ``transform`` or ``__getitem__`` to
    change items.

    The list of files is kept on this host, and beside remote data as ``index.json.zstd`` (where
    that is allowed), in LitData's format; so the next start, here or elsewhere, lists nothing. It
    is compared with the data set in a few requests at each start, and made anew where they
    differ: local files that came or went are noticed always, in a bucket of more than some thousand
    files a change of a few of them perhaps not; ``recompute_index=True`` lists in any case.

    Args:
        input_dir: A path, a URL (``s3://bucket/prefix``, ...), ``local:/path`` or a ``Dir``.
        cache_dir: Where the list of files is kept, and with ``cache_files`` the files; by default
            below ``~/.cache/aiolit``.
        indexer: Finds the files; by default ``FileIndexer()``, which lists all of them.
        storage_options: As for ``StreamingDataset``.
        cache_files: Keep files that were fetched in ``cache_dir``. A file that is replaced by one
            of the same size is not noticed.
        recompute_index: List the files, whatever was kept.
        transform: A function, or a list of functions, applied to every item: to its bytes, or to
            the list of bytes of a group.
        max_concurrent_downloads: The most requests under way at once, in each process.
        max_prefetch: Taken for LitData's sake and not needed: what is fetched ahead is bounded by
            ``prefetch_bytes``.
        prefetch_cache_size: As ``max_prefetch``.
        item_type: An item is its bytes; LitData's ``"path"`` is refused, for a path into a cache
            may be gone when it is opened.
        hedge_delay: LitData's name of the storage option ``hedge_after_s``; 0 is never.
        download_timeout: LitData's name of the storage option ``give_up_after_s``, in seconds.
        range_parallel_threshold: Taken and not needed: large files come in parallel parts.
        range_chunk_size: As ``range_parallel_threshold``.
        session_options: For the store's session, in the names of boto3.
        save_index: Whether the list is saved beside remote data. It never is in a local folder.
        max_cache_size: What the cache folder may hold; see ``StreamingDataset``.
        prefetch_bytes: Bytes that a reader fetches ahead in ``StreamingDataLoader``.
        shuffle: Whether each epoch has its own random order of all items. This and what follows
            is for ``StreamingDataLoader`` only, and means what it does for ``StreamingDataset``.
        drop_last: Whether the items that do not fill a batch of every rank are left out.
        seed: The seed of the order.
        num_canonical_nodes: The same global batches on any number of ranks that divides it.
        rank: This process's place, where neither torch.distributed nor the launcher tells.
        world_size: How many processes read different data; given together with ``rank``.
        replicate: So many consecutive ranks read the same data.
        device_mesh: A ``torch.distributed.DeviceMesh`` that says who reads the same data.
        data_dims: The names of the mesh's dimensions of data parallelism, where it has several.
        on_error: ``"skip"`` puts another item in the place of one that cannot be fetched, in
            epochs and in torch's ``DataLoader``, with a warning for each; ``stats()`` counts them.

    Raises:
        ConfigError: An argument, or what ``setup`` returned, cannot work.
        DatasetNotFoundError: There are no files.
        StoreError: The store cannot be reached.
    """

    def __init__(
        self,
        input_dir: str | Path | Dir,
        cache_dir: str | Path | Dir | None = None,
        indexer: BaseIndexer | None = None,
        storage_options: Mapping[str, Any] | None = None,
        cache_files: bool = False,
        recompute_index: bool = False,
        transform: Transform | Sequence[Transform] | None = None,
        max_concurrent_downloads: int | None = None,
        max_prefetch: int | None = None,
        prefetch_cache_size: int | None = None,
        item_type: Literal["bytes"] = "bytes",
        hedge_delay: float = 0.0,
        download_timeout: float | None = None,
        range_parallel_threshold: int | None = None,
        range_chunk_size: int | None = None,
        *,
        session_options: Mapping[str, Any] | None = None,
        save_index: bool = True,
        max_cache_size: int | float | str | None = "100GB",
        prefetch_bytes: int | str = "256MB",
        shuffle: bool = False,
        drop_last: bool | None = None,
        seed: int = 42,
        num_canonical_nodes: int | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        replicate: int = 1,
        device_mesh: Any = None,
        data_dims: str | Sequence[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ) -> None:
        super().__init__()
        self._transforms = checked_transforms(transform)
        self._epochs = EpochOptions(
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
            canonical=num_canonical_nodes,
            place=Place(
                rank=rank,
                world_size=world_size,
                replicate=replicate,
                device_mesh=device_mesh,
                data_dims=data_dims,
            ),
            prefetch_bytes=_bytes(prefetch_bytes),
        )
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
        if item_type != "bytes":
            raise ConfigError(f"item_type must be 'bytes', not {item_type!r}")
        storage_options = {
            **{
                name: value
                for name, value in (
                    ("max_connections", max_concurrent_downloads),
                    ("hedge_after_s", hedge_delay or None),
                    ("give_up_after_s", download_timeout),
                )
                if value is not None
            },
            **(storage_options or {}),
        }
        location = resolve(input_dir, cache_dir)
        if indexer is not None and not isinstance(indexer, BaseIndexer):
            raise ConfigError(f"indexer must be a BaseIndexer, not {indexer!r}")
        options = SourceOptions(
            url=location.url,
            storage_options=storage_options,
            session_options=session_options,
            cache=_cache(location, max_cache_size) if cache_files else None,
            skips=on_error == "skip",
        )
        listing = ListingOptions(
            root=location.url,
            folder=location.cache_dir or default_cache_dir().parent / "indexes",
            indexer=indexer or FileIndexer(),
            storage_options=storage_options,
            recompute=recompute_index,
            save=save_index,
        )
        self.source = RawSource(options, ItemTable(location.url, []))
        loop = portal()
        self.source.open_on(loop)
        files = loop.call(_find, self.source, listing)
        table = ItemTable(location.url, files)
        self.files: Sequence[FileMetadata] = table  # type: ignore[assignment]
        if type(self).setup is not StreamingRawDataset.setup:
            table = ItemTable(location.url, _listed(self.setup(files)))
        self.source.items = table

    def setup(self, files: list[FileMetadata]) -> list[FileMetadata] | list[list[FileMetadata]]:
        """Turn the files, sorted by path, into the items; override it to group or leave out.

        A list of files is an item whose value is the list of their bytes.
        """
        return files

    @property
    def items(self) -> ItemTable:
        """What ``setup`` returned."""
        return self.source.items

    @property
    def input_dir(self) -> str:
        """Where the files lie."""
        return self.source.options.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.input_dir!r}, items={len(self)})"

    def __len__(self) -> int:
        """Count the items."""
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        """Return an item, or a list of items for a slice or a list of indices.

        Raises:
            IndexError: An index is outside ``[-len, len)``.
            TypeError: The index is no whole number, slice or list of whole numbers.
            StoreError: A file cannot be fetched; the message names it.
        """
        if isinstance(index, FetchedItem):
            return self._finish_one(index.value, index)
        if isinstance(index, slice):
            return self.get_many(range(*index.indices(len(self))))
        if isinstance(index, list | tuple | np.ndarray):
            return self.get_many(index)
        loop, number = portal(), self.checked(index)
        self.source.open_on(loop)
        return self._finish_one(loop.call(self.source.get, number), number)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the items of a batch, fetched concurrently; torch's ``DataLoader`` calls it."""
        return self._fetched(indices, self.source.get_or_skip)

    def get_many(self, indices: Iterable[Any]) -> list[Any]:
        """Return items in the order asked for, fetched concurrently.

        Raises:
            IndexError: There is no such item; nothing was fetched.
            StoreError: A file cannot be fetched; the message names it.
        """
        return self._fetched(indices, self.source.get_many)

    def _fetched(self, indices: Iterable[Any], fetch: FetchMany) -> list[Any]:
        wanted = [self.checked(index) for index in indices]
        loop = portal()
        self.source.open_on(loop)
        return self.finish(loop.call(fetch, wanted), wanted)

    def __iter__(self) -> Iterator[Any]:
        """Iterate all items in their order, fetching ahead."""
        plan = ItemPlan(self.source, self.finish, self._epochs.prefetch_bytes, 2 * _AT_ONCE)
        with ItemReader(plan, [np.arange(len(self), dtype=np.int64)]) as reader:
            for first in range(0, len(self), _AT_ONCE):
                yield from reader.take(0, min(_AT_ONCE, len(self) - first))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_epochs": self._epochs.for_child()}

    def streaming(self) -> RawStream:
        """Return what reads the items in epochs: what a ``StreamingDataLoader`` uses.

        It can also be a member of a ``CombinedStreamingDataset`` or ``ParallelStreamingDataset``.
        Each call returns a new one, at the start of epoch 1.
        """
        return RawStream(self.source, self.finish, self._epochs)

    def stats(self) -> dict[str, int | float]:
        """Return what this process has fetched and cached of this data set so far."""
        return self.source.stats.as_dict()

    def finish(self, values: list[Any], numbers: list[int]) -> list[Any]:
        """Make the user's items of bytes."""
        if type(self).__getitem__ is StreamingRawDataset.__getitem__:
            if not self.changes_samples():
                return values
            return self.transformed(values, lambda place: self._name(numbers[place]))
        found = []
        for value, number in zip(values, numbers, strict=True):
            index = FetchedItem(number)
            index.value = value
            found.append(self[index])
        return found

    def _finish_one(self, value: Any, number: int) -> Any:
        """Make the user's item of its bytes."""
        return self.transformed([value], lambda _: self._name(number))[0]

    def _name(self, number: int) -> str:
        item = self.items[number]
        return ", ".join(file.path for file in (item if isinstance(item, list) else [item]))

    def checked(self, index: Any) -> int:
        """Return the number of an item.

        Raises:
            IndexError: There is no such item.
            TypeError: The index is no whole number.
        """
        try:
            number = operator.index(index)
        except TypeError:
            raise TypeError(
                f"an item is asked for by a whole number, a slice or a list, not {index!r}"
            ) from None
        if not -len(self) <= number < len(self):
            raise IndexError(f"index {number} is out of range: {len(self)} items")
        return number % len(self)


async def _find(source: RawSource, listing: ListingOptions) -> list[FileMetadata]:
    return await find_files(source.store(), listing)


def _listed(items: object) -> list[Any]:
    if not isinstance(items, list):
        raise ConfigError(
            "setup() must return a list of FileMetadata, or of lists of FileMetadata, not "
            f"{type(items).__name__}"
        )
    return items


def _cache(location: Location, max_cache_size: int | float | str | None) -> CacheConfig | None:
    if location.direct:
        return None
    folder = location.cache_dir or default_cache_dir()
    return CacheConfig(folder, cache_limit(max_cache_size, folder))


def _bytes(value: int | str) -> int:
    try:
        return parse_size(value, name="prefetch_bytes")
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
