"""Checking the bytes of one chunk file, and naming everything in it that is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from aiolit.cli.reading import is_packed
from aiolit.errors import ChunkFormatError, DatasetError
from aiolit.format.checksum_stream import open_stream_footer, stream_nbytes
from aiolit.format.chunk import check_length, open_chunk, parse_header, verify_chunk
from aiolit.format.compression import decompress_whole
from aiolit.format.dataset_info import ChunkInfo, DatasetConfig, loader_name, whole_file_codec

_PARQUET = b"PAR1"

Outcome = Literal["checksums", "structure", "length", "damaged"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one chunk.

    Attributes:
        filename: The chunk.
        outcome: How it was checked: by its checksums, by its structure and length (others than
            aiolit write no checksums), by its length alone (encrypted as a whole); or damaged.
        problems: One sentence for each damaged part.
    """

    filename: str
    outcome: Outcome
    problems: tuple[str, ...] = ()


def check_chunk(
    name: str, data: memoryview, chunk: ChunkInfo, config: DatasetConfig, source: str
) -> Finding:
    """Check a chunk file.

    Args:
        name: The name it was found under.
        data: Its bytes as stored.
        chunk: What the index says of it.
        config: What the index says of the data set.
        source: What to call it in messages.
    """
    try:
        if is_packed(name, chunk, config):
            plain = decompress_whole(
                data,
                expected_nbytes=chunk.nbytes,
                source=source,
                codec=whole_file_codec(chunk, config),
            )
            data = memoryview(plain)
        _check_size(data, chunk, config, source)
    except DatasetError as error:
        return Finding(chunk.filename, "damaged", (str(error),))
    if _is_sealed(config):
        return Finding(chunk.filename, "length")
    try:
        if loader_name(config) == "ParquetLoader":
            checked = _check_parquet(data, source)
        else:
            checked = verify_chunk(data, chunk, source)
    except DatasetError as error:
        problems = damaged_parts(data, chunk, config, source)
        return Finding(chunk.filename, "damaged", problems or (str(error),))
    return Finding(chunk.filename, "checksums" if checked else "structure")


def _is_sealed(config: DatasetConfig) -> bool:
    return config.encryption is not None and config.encryption.level == "chunk"


def _check_size(data: memoryview, chunk: ChunkInfo, config: DatasetConfig, source: str) -> None:
    check_length(data, chunk, source)
    own = chunk.checksum_items is not None or chunk.checksum_bytes is not None
    if len(data) > chunk.nbytes and (own or _is_sealed(config)):
        raise ChunkFormatError(
            f"{source}: has {len(data)} bytes, and the index declares {chunk.nbytes}"
        )


def _check_parquet(data: memoryview, source: str) -> bool:
    if data[:4] != _PARQUET or data[-4:] != _PARQUET:
        raise ChunkFormatError(f"{source}: does not begin and end as Parquet files do")
    return False


def damaged_parts(
    data: memoryview, chunk: ChunkInfo, config: DatasetConfig, source: str
) -> tuple[str, ...]:
    """Name every damaged block of items, or run of tokens, of a chunk that is known to be damaged.

    Args:
        data: The file's bytes, whole-file compression undone.
        chunk: What the index says of it.
        config: What the index says of the data set.
        source: What to call it in messages.
    """
    problems: dict[str, None] = {}  # items of one block share their sentence
    try:
        checks = _checks(data, chunk, config, source)
    except DatasetError as error:
        return (str(error),)
    for check in checks:
        try:
            check()
        except DatasetError as error:
            problems[str(error)] = None
    return tuple(problems)


def _checks(
    data: memoryview, chunk: ChunkInfo, config: DatasetConfig, source: str
) -> Iterator[Callable[[], object]]:
    """Return calls that check the parts of a chunk one by one."""
    if chunk.checksum_bytes is None:
        # Checksums are of the bytes as they are stored.
        bare = replace(config, encryption=None, compression_level=None)
        view = open_chunk(data, chunk, bare, source=source)
        return (partial(view.item, item) for item in range(chunk.num_items))
    step = chunk.checksum_bytes
    stream = open_stream_footer(data, parse_header(data, chunk, source), chunk, source)
    base = 4 * (chunk.num_items + 2)
    end = base + stream_nbytes(chunk)
    return (partial(stream.verify, at, min(at + step, end)) for at in range(base, end, step))
