"""Token data sets: the tokens of a chunk are one stream, read in blocks of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ChunkFormatError, ConfigError, IndexFormatError, SchemaError
from aiolit.format.checksum_stream import StreamChecks, open_stream_footer, stream_nbytes
from aiolit.format.chunk import check_length, parse_header
from aiolit.format.dataset_info import ChunkInfo, DatasetConfig, Index
from aiolit.format.dtypes import TORCH_ITEMSIZES, numpy_dtype
from aiolit.format.encryption_base import Encryption, check_encryption, check_level, decrypt
from aiolit.format.loader_base import (
    BoundLoader,
    Decode,
    EncodedItem,
    ItemLoader,
    SampleEncoder,
    SampleReader,
    SampleTable,
    check_item_size,
    check_name,
    needs_first_sample,
)
from aiolit.format.serializers import LeafEncoder, SerializerRegistry
from aiolit.format.tree import flatten, flatten_like

_FORMATS = ("no_header_tensor", "no_header_numpy")


class TokensLoader(ItemLoader):
    """Samples are 1-D tensors or arrays of tokens; reading cuts each chunk into equal blocks.

    The borders of the samples that were written are forgotten: the tokens of a chunk are one
    stream, and a rest shorter than a block is left out.

    Args:
        block_size: Tokens per block when reading; writing does not need it.

    Raises:
        ConfigError: ``block_size`` is not a positive number.
    """

    def __init__(self, block_size: int | None = None) -> None:
        self.block_size = None if block_size is None else _check_block_size(block_size)

    def __repr__(self) -> str:
        return f"{self.name}(block_size={self.block_size})"

    def bind(
        self,
        index: Index,
        *,
        registry: SerializerRegistry,
        source: str,
        encryption: Encryption | None = None,
    ) -> BoundLoader:
        """Make the loader ready for a data set.

        Raises:
            ConfigError: There is no ``block_size``, or it is larger than every chunk.
            IndexFormatError: The index does not describe tokens.
        """
        check_name(self, index, source)
        if self.block_size is None:
            raise ConfigError(
                f"{source}: reading tokens needs a block size: TokensLoader(block_size=...)"
            )
        if not index.config.data_format:
            raise IndexFormatError(f"{source}: field 'config.data_format' names no tokens")
        if index.config.compression_level is not None:
            raise IndexFormatError(
                f"{source}: field 'config.compression_level' must be null for tokens"
            )
        name = index.config.data_format[0]
        bound = TokensBound(
            index.config, self.block_size, token_nbytes(name), registry.decoder(name), encryption
        )
        largest = max((bound.num_tokens(chunk, source) for chunk in index.chunks), default=None)
        if largest is not None and largest < self.block_size:
            raise ConfigError(
                f"{source}: block_size={self.block_size} is larger than every chunk (the largest "
                f"holds {largest} tokens), so there would be no sample; use a smaller block_size, "
                "or write the data set with larger chunks"
            )
        return bound

    def encoder(
        self, registry: SerializerRegistry, encryption: Encryption | None = None
    ) -> SampleEncoder:
        """Make an encoder for one writer.

        Raises:
            ConfigError: The encryption is of level ``"sample"``, which a stream cannot have.
        """
        if encryption is not None and check_level(encryption.level) == "sample":
            raise ConfigError("tokens cannot be encrypted sample by sample; use level='chunk'")
        return TokensEncoder(registry)


def token_nbytes(format_name: str) -> int:
    """Return how many bytes a token takes.

    Raises:
        IndexFormatError: The format is not one of 1-D tensors or arrays.
    """
    base, _, suffix = format_name.partition(":")
    number = int(suffix) if suffix.isascii() and suffix.isdigit() and len(suffix) < 4 else -1
    if base == "no_header_tensor" and 0 <= number < len(TORCH_ITEMSIZES):
        return TORCH_ITEMSIZES[number]
    dtype = numpy_dtype(number) if base == "no_header_numpy" else None
    if dtype is None:
        raise IndexFormatError(
            f"leaves of format {format_name!r} are no tokens: those are 1-D tensors or arrays"
        )
    return dtype.itemsize


def _check_block_size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ConfigError(f"block_size must be a positive number of tokens, not {value!r}")
    return int(value)


class TokensBound(BoundLoader):
    """Token blocks of one data set."""

    def __init__(
        self,
        config: DatasetConfig,
        block_size: int,
        itemsize: int,
        decode: Decode,
        encryption: Encryption | None,
    ) -> None:
        self._config = config
        self._block = block_size
        self._itemsize = itemsize
        self._decode = decode
        self._encryption = encryption

    def num_tokens(self, chunk: ChunkInfo, source: str = "") -> int:
        """Return how many tokens a chunk holds.

        Raises:
            IndexFormatError: ``dim`` is more than the chunk's bytes can hold, or is missing and
                cannot be told from them.
        """
        name = f"{source}: {chunk.filename}" if source else chunk.filename
        if self._config.encryption is not None:
            room = chunk.nbytes // self._itemsize
            if chunk.dim is None:
                raise IndexFormatError(f"{name}: field 'dim' is missing")
        elif chunk.checksum_bytes is not None:
            room = stream_nbytes(chunk) // self._itemsize
        else:
            room = (chunk.nbytes - 4 * (chunk.num_items + 2)) // self._itemsize
        if chunk.dim is None:
            return max(room, 0)  # LitData leaves it out where the first item is empty
        if chunk.dim > room:
            raise IndexFormatError(
                f"{name}: field 'dim' says {chunk.dim} tokens, and there is room for {room}"
            )
        return chunk.dim

    def num_samples(self, chunk: ChunkInfo) -> int:
        """Return how many whole blocks a chunk gives."""
        return self.num_tokens(chunk) // self._block

    def byte_range(self, chunk: ChunkInfo, start: int, stop: int) -> tuple[int, int] | None:
        """Return the byte range of blocks; it follows from the index alone."""
        if self._config.encryption is not None:
            return None
        base, step = 4 * (chunk.num_items + 2), self._block * self._itemsize
        return base + start * step, base + stop * step

    def open(
        self, data: memoryview, chunk: ChunkInfo, source: str, *, verify: bool = True
    ) -> SampleReader:
        """Open a whole chunk."""
        key = check_encryption(self._config, self._encryption, source=source)
        check_length(data, chunk, source)
        if key is not None and key.level == "chunk":
            data = memoryview(decrypt(key, bytes(data), source))
        borders = parse_header(data, chunk, source)
        base, end = borders[0], borders[len(borders) - 1]
        checks = None
        if verify and chunk.checksum_bytes is not None:
            checks = open_stream_footer(data, borders, chunk, source)
        stream = data[base:end]
        if key is not None and key.level == "sample":
            pieces = [
                decrypt(key, bytes(data[borders[n] : borders[n + 1]]), f"{source}: item {n}")
                for n in range(chunk.num_items)
            ]
            stream = memoryview(b"".join(pieces))
        count = self.num_samples(chunk)
        if len(stream) < self.num_tokens(chunk) * self._itemsize:
            raise ChunkFormatError(
                f"{source}: {len(stream)} bytes of tokens are less than the index's dim={chunk.dim}"
            )
        return self._reader(stream, base, 0, count, source, checks)

    def open_range(
        self,
        data: memoryview,
        base: int,
        first: int,
        offsets: NDArray[np.int64] | None,
        chunk: ChunkInfo,
        source: str,
    ) -> SampleReader:
        """Open a byte range of a chunk; it may begin before the first block and end anywhere."""
        if self._config.encryption is not None:
            raise ConfigError(f"{source}: an encrypted token chunk can only be read whole")
        step, origin = self._block * self._itemsize, 4 * (chunk.num_items + 2)
        skipped = origin + first * step - base
        if not 0 <= skipped <= len(data):
            raise ChunkFormatError(f"{source}: block {first} does not begin in the range")
        count = min((len(data) - skipped) // step, self.num_samples(chunk) - first)
        return self._reader(data[skipped:], base + skipped, first, count, source, None)

    def _reader(
        self,
        stream: memoryview,
        base: int,
        first: int,
        count: int,
        source: str,
        checks: StreamChecks | None,
    ) -> SampleReader:
        step = self._block * self._itemsize
        return TokensReader(stream, base, first, count, step, self._decode, checks, source)


class TokensReader(SampleReader):
    """Blocks of an open token chunk.

    Args:
        stream: The tokens from block ``first`` on.
        base: Where they begin in the file.
        first: The first block.
        count: How many blocks there are.
        step: Bytes per block.
        decode: Turns a block's bytes into a tensor or array of its own memory.
        checks: Checksums, or None.
        source: What to call the chunk in messages.
    """

    def __init__(
        self,
        stream: memoryview,
        base: int,
        first: int,
        count: int,
        step: int,
        decode: Decode,
        checks: StreamChecks | None,
        source: str,
    ) -> None:
        self._stream = stream
        self._base = base
        self._first = first
        self._count = count
        self._step = step
        self._decode = decode
        self._checks = checks
        self._source = source

    def sample(self, index: int) -> Any:
        """Return one block."""
        place = index - self._first
        if not 0 <= place < self._count:
            raise IndexError(f"{self._source}: block {index} is not in this range")
        start = place * self._step
        if self._checks is not None:
            self._checks.verify(self._base + start, self._base + start + self._step)
        return self._decode(self._stream[start : start + self._step])

    def samples(self, indices: Sequence[int]) -> list[Any]:
        """Return several blocks, in the order of ``indices``."""
        if self._checks is not None or len(indices) == 0:
            return super().samples(indices)
        if not (self._first <= min(indices) and max(indices) < self._first + self._count):
            return super().samples(indices)  # raises for the one that is outside
        stream, decode, step, first = self._stream, self._decode, self._step, self._first
        return [decode(stream[(at - first) * step : (at - first + 1) * step]) for at in indices]

    def table(self) -> SampleTable | None:
        """Return the blocks as rows; see ``SampleReader``."""
        nbytes = self._count * self._step
        if self._checks is not None:
            self._checks.verify(self._base, self._base + nbytes)
        data = np.frombuffer(self._stream, np.uint8, count=nbytes)
        return SampleTable(data.reshape(self._count, self._step), self._first)


class TokensEncoder(SampleEncoder):
    """Encodes samples that are one 1-D tensor or array."""

    def __init__(self, registry: SerializerRegistry) -> None:
        self._registry = registry
        self._leaf: LeafEncoder | None = None
        self._itemsize = 1

    def encode(self, sample: Any) -> EncodedItem:
        """Encode one sample."""
        if self._leaf is None:
            self._leaf = self._choose(sample)
            self._itemsize = token_nbytes(self._leaf.format_name)
        (tokens,) = flatten_like(sample, self._spec)
        part = self._leaf.encode(tokens)
        nbytes = memoryview(part).nbytes
        check_item_size(nbytes)
        return EncodedItem([part], nbytes, nbytes // self._itemsize)

    def _choose(self, sample: Any) -> LeafEncoder:
        leaves, spec = flatten(sample)
        if len(leaves) != 1:
            raise SchemaError(
                f"a sample of tokens is one 1-D tensor or array, not {len(leaves)} leaves"
            )
        self._spec = spec
        leaf = self._registry.choose(leaves[0], spec.leaf_paths()[0])
        if leaf.format_name.partition(":")[0] not in _FORMATS:
            shape = getattr(leaves[0], "shape", None)
            kind = type(leaves[0]).__name__ if shape is None else f"shape {tuple(shape)}"
            raise SchemaError(f"a sample of tokens is one 1-D tensor or array, not {kind}")
        return leaf

    @property
    def data_format(self) -> list[str]:
        """The format of the tokens."""
        if self._leaf is None:
            raise needs_first_sample()
        return [self._leaf.format_name]

    @property
    def data_spec(self) -> str:
        """The tree of a sample as JSON text."""
        if self._leaf is None:
            raise needs_first_sample()
        return self._spec.to_json()

    @property
    def pickled_leaves(self) -> tuple[str, ...]:
        """Tokens are never pickled."""
        return ()
