"""Data sets as the viewer browses them: any samples, read by range, and what there is to know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aiolit.errors import ConfigError
from aiolit.format.dataset_info import Index, loader_name
from aiolit.format.description import describe_index
from aiolit.format.encryption_base import Encryption
from aiolit.format.index import dump_index
from aiolit.format.loader import (
    BoundLoader,
    ItemLoader,
    SampleEncoder,
    SampleReader,
    TokensLoader,
    default_loader,
)
from aiolit.format.serializers import SerializerRegistry
from aiolit.raw.dataset import StreamingRawDataset
from aiolit.runtime.blocking import in_thread
from aiolit.streaming.dataset import StreamingDataset
from aiolit.streaming.held import Held
from aiolit.streaming.source import ChunkSource
from aiolit.viewer.leaves import Unread, reading_serializers

_BLOCK = 256  # tokens that are shown as a sample
_MOST_RAW_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowseOptions:
    """How a data set is opened for browsing.

    Attributes:
        raw: Whether the files themselves are the samples.
        block_size: Tokens in a sample of a token data set; None chooses.
        allow_pickle: Whether pickled leaves are loaded.
        cache_dir: The chunk cache to use and to fill; None writes nothing.
        storage_options: For the store's client.
        session_options: For the store's session.
    """

    raw: bool = False
    block_size: int | None = None
    allow_pickle: bool = False
    cache_dir: str | Path | None = None
    storage_options: Mapping[str, Any] | None = None
    session_options: Mapping[str, Any] | None = None


class Browser(ABC):
    """A data set that can be browsed.

    Attributes:
        url: Where it lies.
        count: How many samples it has.
    """

    url: str
    count: int

    @abstractmethod
    async def read(self, numbers: Sequence[int]) -> list[Any]:
        """Return samples in the order asked for, fetched together.

        Raises:
            AiolitError: One of them cannot be read.
        """

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Say what it is, as JSON-able values; see ``describe_index``."""

    def chunks(self) -> dict[str, Any]:
        """Return the names, samples and bytes of its chunks, each as a list."""
        return {"names": [], "samples": [], "bytes": []}

    @abstractmethod
    async def aclose(self) -> None:
        """Close what is open on the running loop."""


def open_browser(url: str, options: BrowseOptions) -> Browser:
    """Open a data set; the calling thread waits for its index.

    Raises:
        ConfigError: An option cannot work.
        DatasetNotFoundError: There is no data set.
        StoreError: The store cannot be reached.
    """
    if options.raw:
        return RawBrowser(url, options)
    dataset = StreamingDataset(
        url,
        cache_dir=options.cache_dir,
        item_loader=AnyLoader(options.block_size),
        serializers=reading_serializers(allow_pickle=options.allow_pickle),
        storage_options=options.storage_options,
        session_options=options.session_options,
        allow_pickle=options.allow_pickle,
        cache="memory" if options.cache_dir is None else "disk",
    )
    return ChunkBrowser(dataset.source)


def browser_of(source: ChunkSource) -> ChunkBrowser:
    """Return what browses the data set of a loader, with its options; nothing is read."""
    options = source.options
    reading = reading_serializers(allow_pickle=options.allow_pickle)
    options = replace(
        options, serializers={**reading, **(options.serializers or {})}, in_memory=True
    )
    return ChunkBrowser(ChunkSource(source.location, options, dump_index(source.index)))


class AnyLoader(ItemLoader):
    """The loader that a data set was written with, whichever that is.

    Args:
        block_size: Tokens in a sample of a token data set; by default 256, or as many as the
            smallest chunk has.
    """

    def __init__(self, block_size: int | None) -> None:
        self.block_size = block_size

    def bind(
        self,
        index: Index,
        *,
        registry: SerializerRegistry,
        source: str,
        encryption: Encryption | None = None,
    ) -> BoundLoader:
        """Make the loader ready for a data set."""
        loader: ItemLoader
        if loader_name(index.config) == "TokensLoader":
            least = min((chunk.dim or _BLOCK for chunk in index.chunks), default=_BLOCK)
            loader = TokensLoader(self.block_size or min(_BLOCK, least))
        else:
            loader = default_loader(index.config, source=source)
        return loader.bind(index, registry=registry, source=source, encryption=encryption)

    def encoder(
        self, registry: SerializerRegistry, encryption: Encryption | None = None
    ) -> SampleEncoder:
        """Refuse: this one only reads."""
        raise ConfigError("AnyLoader only reads")


class ChunkBrowser(Browser):
    """Samples in chunks: those of aiolit, LitData and MosaicML, and Parquet files."""

    def __init__(self, source: ChunkSource) -> None:
        self._source = source
        self.url = source.location.url
        self.count = int(source.counts.sum())

    async def read(self, numbers: Sequence[int]) -> list[Any]:
        """Return samples; see ``Browser``."""
        source = self._source
        wanted = np.asarray(numbers, np.int64)
        chunks = np.searchsorted(source.firsts, wanted, side="right") - 1
        places = (wanted - source.firsts[chunks]).tolist()
        readers, held = await self._open(chunks.tolist(), places)

        def decode() -> list[Any]:
            return [reader.sample(place) for reader, place in zip(readers, places, strict=True)]

        try:
            return await in_thread(decode)
        finally:
            for one in held:
                one.close()

    async def _open(
        self, chunks: list[int], places: list[int]
    ) -> tuple[list[SampleReader], list[Held]]:
        def open_direct() -> list[SampleReader | None]:
            return [self._source.direct_reader(chunk) for chunk in chunks]

        direct = [reader for reader in await in_thread(open_direct) if reader is not None]
        if len(direct) == len(chunks):
            return direct, []
        return await self._source.open_samples(chunks, places)

    def facts(self) -> dict[str, Any]:
        """Say what the index says."""
        return {**describe_index(self.url, self._source.index), "samples": self.count}

    def chunks(self) -> dict[str, Any]:
        """Return the names, samples and bytes of the chunks."""
        return {
            "names": [chunk.filename for chunk in self._source.index.chunks],
            "samples": self._source.counts.tolist(),
            "bytes": self._source.nbytes.tolist(),
        }

    async def aclose(self) -> None:
        """Close the connections."""
        await self._source.aclose()


class RawBrowser(Browser):
    """Files as they lie, each a sample: its path and its content."""

    def __init__(self, url: str, options: BrowseOptions) -> None:
        dataset = StreamingRawDataset(
            url,
            cache_dir=options.cache_dir,
            storage_options=options.storage_options,
            session_options=options.session_options,
            save_index=False,
        )
        self._source = dataset.source
        self.url, self.count = dataset.source.options.url, len(dataset)

    async def read(self, numbers: Sequence[int]) -> list[Any]:
        """Return files, by their paths; a very large one is not fetched."""
        items = self._source.items
        sizes = items.nbytes[list(numbers)].tolist()
        small = [
            number for number, size in zip(numbers, sizes, strict=True) if size <= _MOST_RAW_BYTES
        ]
        there = dict(zip(small, await self._source.get_many(small), strict=True))
        return [
            {items.files(number)[0][0]: there.get(number, _too_large(size))}
            for number, size in zip(numbers, sizes, strict=True)
        ]

    def facts(self) -> dict[str, Any]:
        """Say how many files there are."""
        nbytes = int(self._source.items.nbytes.sum())
        return {"url": self.url, "samples": self.count, "bytes": nbytes, "loader": "raw files"}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._source.aclose()


def _too_large(nbytes: int) -> Unread:
    return Unread(f"a file of {nbytes:,} bytes, more than the {_MOST_RAW_BYTES:,} that are shown")
