"""``index.json.zstd``: the list of a raw data set's files, in LitData's format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import zstandard

from aiolit.errors import ChunkFormatError, IndexFormatError
from aiolit.format.compression import inflate_zstd
from aiolit.format.fields import Fields, parse_object
from aiolit.raw.items import FileMetadata

INDEX_FILE = "index.json.zstd"
_MOST_BYTES = 4 << 30
_MOST_GROWTH = 1000  # lists of like names shrink a lot; one that shrank more is a bomb


@dataclass(frozen=True, slots=True)
class RawIndex:
    """A list of files.

    Attributes:
        files: Sorted by path.
        created_at: When it was made, in seconds since 1970.
        folders: For a local folder, when each folder in it last changed, in nanoseconds; None
            where that is not known.
    """

    files: list[FileMetadata]
    created_at: float
    folders: Mapping[str, int] | None = None


def dump_raw_index(source: str, index: RawIndex) -> bytes:
    """Write the file: keys in LitData's order, so that LitData reads it."""
    top: dict[str, Any] = {
        "source": source,
        "files": [{"path": file.path, "size": file.size} for file in index.files],
        "created_at": index.created_at,
    }
    if index.folders is not None:
        top["folders"] = dict(index.folders)
    return zstandard.ZstdCompressor().compress(json.dumps(top).encode())


def parse_raw_index(data: bytes, *, root: str, source: str) -> RawIndex:
    """Read the file, made here or by LitData.

    Args:
        data: The bytes of the file.
        root: What every path must begin with: an index cannot name files elsewhere.
        source: What to call the file in messages.

    Raises:
        IndexFormatError: It is truncated or garbled, or names files that do not lie below ``root``.
    """
    top = parse_object(_inflated(data, source), source=source)
    prefix = root.rstrip("/") + "/"
    files = [_file(fields, prefix) for fields in top.objects("files")]
    files.sort(key=lambda file: file.path)
    created = top.values.get("created_at")
    return RawIndex(
        [file for file in files if file.path != prefix + INDEX_FILE],
        _seconds(created),
        _folders(top),
    )


def without_duplicates(files: Iterable[FileMetadata]) -> list[FileMetadata]:
    """Sort files by path; of those with one path, the last remains."""
    by_path = {file.path: file for file in files}
    return [by_path[path] for path in sorted(by_path)]


def _inflated(data: bytes, source: str) -> bytes:
    try:
        nbytes = zstandard.frame_content_size(data)
    except zstandard.ZstdError as error:
        raise IndexFormatError(f"{source}: no zstd file: {error}") from error
    if not 0 <= nbytes <= min(_MOST_BYTES, _MOST_GROWTH * len(data)):
        raise IndexFormatError(f"{source}: {len(data)} bytes say that they hold {nbytes}")
    try:
        return inflate_zstd(memoryview(data), nbytes, source)
    except ChunkFormatError as error:
        raise IndexFormatError(str(error)) from error


def _file(fields: Fields, prefix: str) -> FileMetadata:
    path = fields.text("path")
    key = path.removeprefix(prefix)
    if key == path or not key:
        fields.refuse("path", f"does not lie below {prefix}: {path[:200]!r}")
    try:
        # Names on a disk may be any bytes; those in a store are text.
        key.encode(errors="strict" if "://" in prefix else "surrogateescape")
    except UnicodeEncodeError:
        fields.refuse("path", f"is no text: {path[:200]!a}")
    if "\0" in key or any(part in (".", "..") for part in key.split("/")):
        fields.refuse("path", f"leads out of the folder: {path[:200]!r}")
    return FileMetadata(path, fields.integer("size"))


def _seconds(value: object) -> float:
    try:
        return float(value) if isinstance(value, int | float) else 0.0
    except OverflowError:  # JSON integers have no limit
        return 0.0


def _folders(top: Fields) -> dict[str, int] | None:
    found = top.values.get("folders")
    if not isinstance(found, dict):
        return None
    return {name: changed for name, changed in found.items() if isinstance(changed, int)}
