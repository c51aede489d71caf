"""Compression of whole files and of frames. What is inflated never outgrows what was declared."""

from __future__ import annotations

import bz2
import importlib
import re
import zlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import zstandard

from aiolit.errors import ChunkFormatError, ConfigError, MissingDependencyError

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
DEFAULT_LEVEL = 4  # what LitData's "zstd" means

# The most that a zstd frame can grow: a block of 128 KiB takes at least 4 bytes.
_ZSTD_GROWTH = 32768
_STEP = 1 << 20
_NAME = re.compile(r"zstd(?::([1-9]|1[0-9]|2[0-2]))?")

Buffer = bytes | bytearray | memoryview


def parse_compression(compression: str) -> int:
    """Return the level of ``"zstd"`` or ``"zstd:N"``, N from 1 to 22.

    Raises:
        ConfigError: It is neither.
    """
    match = _NAME.fullmatch(compression)
    if match is None:
        raise ConfigError(
            f"compression={compression!r} is unknown; use 'zstd' or 'zstd:N' with N from 1 to 22"
        )
    return int(match[1]) if match[1] else DEFAULT_LEVEL


def compress_whole(parts: Sequence[Buffer], level: int) -> list[bytes]:
    """Compress the joined parts into one zstd frame that says how long its content is."""
    total = sum(memoryview(part).nbytes for part in parts)
    # LitData's zstd library refuses frames without a content size; `size` puts it there.
    compressor = zstandard.ZstdCompressor(level=level).compressobj(size=total)
    pieces = [compressor.compress(part) for part in parts]
    pieces.append(compressor.flush())
    return [piece for piece in pieces if piece]


def decompress_whole(
    data: Buffer, *, expected_nbytes: int, source: str, codec: str | None = None
) -> bytes:
    """Inflate a whole file to exactly the length that the index declares.

    Args:
        data: The compressed file.
        expected_nbytes: The declared length in bytes.
        source: What to call the file in messages.
        codec: ``"zstd"``, ``"gz"``, ``"bz2"``, ``"br"`` or ``"snappy"``; by default told from the
            first bytes (the last two cannot be).

    Raises:
        ChunkFormatError: The data is damaged or truncated, or holds more or less than declared.
        MissingDependencyError: The codec needs a package that is not installed.
    """
    view = memoryview(data).cast("B")
    name = codec or _sniff(view)
    if name == "zstd":
        return inflate_zstd(view, expected_nbytes, source)
    if name in ("gz", "bz2"):
        return _gather(_inflate_steps(view, name, source), expected_nbytes, source)
    if name in ("br", "snappy"):
        return _foreign(view, name, expected_nbytes, source)
    raise ChunkFormatError(f"{source}: compressed with {name!r}, which is not known")


def inflate_zstd(data: memoryview, nbytes: int, source: str) -> bytes:
    """Inflate zstd frames to exactly ``nbytes`` bytes.

    Raises:
        ChunkFormatError: The data is damaged or truncated, or holds more or less than declared.
    """
    if nbytes > _ZSTD_GROWTH * len(data):
        raise ChunkFormatError(
            f"{source}: {len(data)} bytes of zstd cannot hold the {nbytes} bytes declared"
        )
    try:
        if zstandard.frame_content_size(data) == nbytes:
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
        return _gather(iter(lambda: reader.read(_STEP), b""), nbytes, source)
    except zstandard.ZstdError as error:
        raise ChunkFormatError(f"{source}: damaged zstd data: {error}") from error


def zstd_content_size(data: memoryview, source: str) -> int:
    """Return how long the content of a zstd frame says to be.

    Raises:
        ChunkFormatError: The frame does not say, or its header is damaged.
    """
    try:
        nbytes = zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise ChunkFormatError(f"{source}: damaged zstd data: {error}") from error
    if nbytes < 0:
        raise ChunkFormatError(f"{source}: a zstd frame without its content size")
    return nbytes


def _sniff(data: memoryview) -> str:
    head = bytes(data[:4])
    if head[:2] == b"\x1f\x8b":
        return "gz"
    if head[:3] == b"BZh":
        return "bz2"
    return "zstd"  # also skippable frames, which begin otherwise


def _gather(pieces: Iterator[bytes], nbytes: int, source: str) -> bytes:
    gathered: list[bytes] = []
    have = 0
    for piece in pieces:
        gathered.append(piece)
        have += len(piece)
        if have > nbytes:
            raise ChunkFormatError(f"{source}: inflates to more than the {nbytes} bytes declared")
    if have < nbytes:
        raise ChunkFormatError(
            f"{source}: truncated: inflates to {have} of the {nbytes} bytes declared"
        )
    return b"".join(gathered)


def _inflate_steps(data: memoryview, codec: str, source: str) -> Iterator[bytes]:
    """Inflate gzip members or bz2 streams, at most 1 MiB at a time."""
    rest: Buffer = data
    while len(rest):
        engine: Any = zlib.decompressobj(wbits=31) if codec == "gz" else bz2.BZ2Decompressor()
        pending = rest
        while not engine.eof:
            try:
                piece = engine.decompress(pending, _STEP)
            except (OSError, ValueError, zlib.error) as error:
                raise ChunkFormatError(f"{source}: damaged {codec} data: {error}") from error
            pending = engine.unconsumed_tail if codec == "gz" else b""
            if not piece and not pending and not engine.eof:
                raise ChunkFormatError(f"{source}: truncated {codec} data")
            yield piece
        rest = engine.unused_data


def _foreign(data: memoryview, codec: str, nbytes: int, source: str) -> bytes:
    """Inflate brotli or snappy with their optional packages."""
    package = {"br": "brotli", "snappy": "python-snappy"}[codec]
    try:
        module: ModuleType = importlib.import_module({"br": "brotli", "snappy": "snappy"}[codec])
    except ImportError as error:
        raise MissingDependencyError(
            f"{source}: compressed with {codec!r}; run: pip install {package}"
        ) from error
    if codec == "snappy":
        _check_snappy_size(data, nbytes, source)
        try:
            return _gather(iter([bytes(module.decompress(bytes(data)))]), nbytes, source)
        except module.UncompressError as error:
            raise ChunkFormatError(f"{source}: damaged snappy data: {error}") from error
    engine = module.Decompressor()
    step = 1 << 12  # brotli cannot be told where to stop, so it is fed in small pieces
    try:
        pieces = (engine.process(bytes(data[at : at + step])) for at in range(0, len(data), step))
        return _gather(pieces, nbytes, source)
    except module.error as error:
        raise ChunkFormatError(f"{source}: damaged brotli data: {error}") from error


def _check_snappy_size(data: memoryview, nbytes: int, source: str) -> None:
    size = 0
    for shift, byte in enumerate(data[:5]):
        size |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            break
    if size != nbytes:
        raise ChunkFormatError(f"{source}: says to inflate to {size}, not to {nbytes} bytes")
