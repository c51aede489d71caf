"""What an item loader is: the layout of samples inside a chunk, for writing and for reading."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ConfigError, DatasetError, SchemaError
from aiolit.format.chunk import RowsView, open_chunk, open_range
from aiolit.format.dataset_info import ChunkInfo, DatasetConfig, Index, loader_name
from aiolit.format.encryption_base import Encryption
from aiolit.format.serializers import BytesLike, SerializerRegistry
from aiolit.format.views import ChunkView, ClassicView

MOST_BYTES = 2**32 - 1  # file offsets have 32 bits

Decode = Callable[[memoryview], Any]


class EncodedItem(NamedTuple):
    """One encoded sample.

    Attributes:
        parts: Its bytes, in pieces.
        nbytes: Their length together.
        dim: Tokens in it, for token data sets.
    """

    parts: list[BytesLike]
    nbytes: int
    dim: int | None


class SampleEncoder(ABC):
    """Turns samples into items. The first sample fixes the tree and the kind of each leaf."""

    @abstractmethod
    def encode(self, sample: Any) -> EncodedItem:
        """Encode one sample.

        Raises:
            SchemaError: The sample does not fit the first one; the message names the leaf.
        """

    @property
    @abstractmethod
    def data_format(self) -> list[str]:
        """The format of each leaf, once there was a sample."""

    @property
    @abstractmethod
    def data_spec(self) -> str:
        """The tree of a sample as JSON text, once there was one."""

    @property
    @abstractmethod
    def pickled_leaves(self) -> tuple[str, ...]:
        """Where in a sample there are leaves that only pickle can store, once there was one."""


class SampleReader(ABC):
    """Reads samples out of an open chunk, or out of a range of one.

    May be used from several threads at once.
    """

    @abstractmethod
    def sample(self, index: int) -> Any:
        """Return one sample, by its number in the chunk.

        Raises:
            DatasetError: Its bytes are damaged. The message names chunk, item and leaf.
        """

    def samples(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples, in the order of ``indices``."""
        sample = self.sample
        return [sample(index) for index in indices]

    def table(self) -> SampleTable | None:
        """Return the stored bytes of all samples as rows of one length, not copied.

        None where samples differ in length, or are not stored as plain bytes.

        Raises:
            ChecksumError: Bytes differ from what was written; all of them are checked.
        """
        return None


class SampleTable(NamedTuple):
    """Samples of one length as they are stored.

    Attributes:
        rows: ``(samples, bytes)``; a view of the chunk.
        first: The number of the first row's sample in the chunk.
    """

    rows: NDArray[np.uint8]
    first: int


class BoundLoader(ABC):
    """An item loader that knows its data set."""

    @abstractmethod
    def num_samples(self, chunk: ChunkInfo) -> int:
        """Return how many samples a chunk gives."""

    def byte_range(self, chunk: ChunkInfo, start: int, stop: int) -> tuple[int, int] | None:
        """Return the byte range of samples ``start`` to ``stop - 1``, if the index alone tells it.

        None means that the chunk's offsets are needed.
        """
        return None

    @abstractmethod
    def open(
        self, data: memoryview, chunk: ChunkInfo, source: str, *, verify: bool = True
    ) -> SampleReader:
        """Open a whole chunk, whole-file compression already undone.

        Args:
            data: The file's bytes; they must not change while the reader is used.
            chunk: What the index says of it.
            source: What to call the chunk in messages.
            verify: Check bytes against the chunk's checksums when first touched.

        Raises:
            DatasetError: The file is truncated or damaged, or its key is missing.
        """

    @abstractmethod
    def open_range(
        self,
        data: memoryview,
        base: int,
        first: int,
        offsets: NDArray[np.int64] | None,
        chunk: ChunkInfo,
        source: str,
    ) -> SampleReader:
        """Open a byte range of a chunk that holds the samples from ``first`` on.

        Args:
            data: The bytes of the range.
            base: Where they begin in the file.
            first: The first sample's number in the chunk.
            offsets: Absolute file offsets of the samples, one more than there are samples; None
                where ``byte_range`` gave the range.
            chunk: What the index says of the chunk.
            source: What to call the chunk in messages.

        Raises:
            DatasetError: The offsets do not fit the range, or the key is missing.
        """


class ItemLoader(ABC):
    """The layout of samples in chunks. Objects are configuration: small, and they pickle."""

    @property
    def name(self) -> str:
        """The name in the index: that of the class."""
        return type(self).__name__

    @abstractmethod
    def bind(
        self,
        index: Index,
        *,
        registry: SerializerRegistry,
        source: str,
        encryption: Encryption | None = None,
    ) -> BoundLoader:
        """Make the loader ready for a data set.

        Args:
            index: The data set's index.
            registry: The serializers.
            source: What to call the data set in messages.
            encryption: The key, where the data is encrypted.

        Raises:
            ConfigError: The data set needs another loader or other options.
            IndexFormatError: The index does not describe data of this layout.
        """

    @abstractmethod
    def encoder(
        self, registry: SerializerRegistry, encryption: Encryption | None = None
    ) -> SampleEncoder:
        """Make an encoder for one writer."""


class ItemsBound(BoundLoader):
    """A loader whose samples are the chunk's items, each decoded for itself."""

    def __init__(
        self, config: DatasetConfig, decode: Decode, encryption: Encryption | None
    ) -> None:
        self._config = config
        self._decode = decode
        self._encryption = encryption

    def num_samples(self, chunk: ChunkInfo) -> int:
        """Return how many samples a chunk gives: its items."""
        return chunk.num_items

    def open(
        self, data: memoryview, chunk: ChunkInfo, source: str, *, verify: bool = True
    ) -> SampleReader:
        """Open a whole chunk."""
        view = open_chunk(
            data, chunk, self._config, source=source, encryption=self._encryption, verify=verify
        )
        if isinstance(view, RowsView):
            return RowReader(view)
        return ItemReader(view, self._decode)

    def open_range(
        self,
        data: memoryview,
        base: int,
        first: int,
        offsets: NDArray[np.int64] | None,
        chunk: ChunkInfo,
        source: str,
    ) -> SampleReader:
        """Open a byte range of a chunk."""
        if offsets is None:
            raise ConfigError(f"{source}: a range of items needs their offsets")
        view = open_range(
            data,
            base,
            first,
            offsets,
            chunk,
            self._config,
            source=source,
            encryption=self._encryption,
        )
        return ItemReader(view, self._decode)


class ItemReader(SampleReader):
    """Samples that are items."""

    def __init__(self, view: ChunkView, decode: Decode) -> None:
        self._view = view
        self._decode = decode

    def sample(self, index: int) -> Any:
        """Return one sample."""
        data = self._view.item(index)
        try:
            return self._decode(data)
        except Exception as error:
            locate(error, f"{self._view.source}: item {index}")
            raise

    def samples(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples, in the order of ``indices``."""
        decode = self._decode
        samples: list[Any] = []
        append = samples.append
        items = self._view.items(indices)
        try:
            for data in items:
                append(decode(data))
        except Exception as error:
            locate(error, f"{self._view.source}: item {indices[len(samples)]}")
            raise
        return samples

    def table(self) -> SampleTable | None:
        """Return the items as rows of one length; see ``SampleReader``."""
        view = self._view
        if type(view) is not ClassicView or not view.count:
            return None
        borders = np.asarray(view.borders)
        sizes = np.diff(borders)
        nbytes = int(sizes[0])
        if not nbytes or (sizes != nbytes).any():
            return None
        if view.checks is not None:
            view.checks.verify_all()
        data = np.frombuffer(
            view.data, np.uint8, count=view.count * nbytes, offset=int(borders[0]) - view.base
        )
        return SampleTable(data.reshape(view.count, nbytes), view.first)


class RowReader(SampleReader):
    """Samples that are rows of an Arrow table."""

    def __init__(self, view: RowsView) -> None:
        self._view = view

    def sample(self, index: int) -> Any:
        """Return one sample."""
        return self._view.row(index)

    def samples(self, indices: Sequence[int]) -> list[Any]:
        """Return several samples, in the order of ``indices``."""
        return self._view.rows(indices)


def locate(error: Exception, where: str) -> None:
    """Say in an error where it happened: in the sentence of ours, in a note on anybody else's."""
    if isinstance(error, DatasetError):
        error.args = (f"{where}: {error}",)
    else:
        error.add_note(where)


def check_name(loader: ItemLoader, index: Index, source: str) -> None:
    """Refuse a loader that is not the one the data set was written with.

    Raises:
        ConfigError: Its class has another name.
    """
    written = loader_name(index.config)
    if loader.name != written:
        raise ConfigError(
            f"{source}: the data set was written with {written}, so it cannot be read with "
            f"{loader.name}; pass item_loader={written}(...)"
        )


def check_item_size(nbytes: int) -> None:
    """Refuse an item that no chunk can hold.

    Raises:
        SchemaError: It is larger than 4 GiB.
    """
    if nbytes > MOST_BYTES - 12:
        raise SchemaError(f"a sample of {nbytes} bytes: no sample can be larger than 4 GiB")


def needs_first_sample() -> SchemaError:
    """Return the error for asking an encoder about samples that it has not seen."""
    return SchemaError("the format of samples is known once the first one was encoded")
