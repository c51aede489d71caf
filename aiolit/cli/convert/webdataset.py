"""Samples of WebDataset: tars in which the files of a sample follow each other, named alike."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import zstandard

from aiolit.cli.convert.blocks import open_forward
from aiolit.cli.convert.leaves import array_leaf, image_leaf, json_text_leaf
from aiolit.errors import ChunkFormatError, DatasetError, SchemaError
from aiolit.store.base import Store

KEY = "__key__"

_IMAGES = frozenset(("jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "pgm", "pbm", "pnm"))
_NUMBERS = frozenset(("cls", "cls2", "class", "count", "index", "inx", "id"))
_TEXTS = frozenset(("txt", "text", "transcript"))
_JSON = frozenset(("json", "jsn"))
_READ_BYTES = 1 << 20
_BAD_TAR = (tarfile.TarError, EOFError, zstandard.ZstdError)


@dataclass(frozen=True, slots=True)
class TarSamples:
    """Yields the samples of a tar: a dict of ``__key__`` and of the files by their endings.

    Attributes:
        store: Where the tars lie.
        columns: The endings to keep, or None for all.
        undecoded: Whether files are kept as bytes.
    """

    store: Store
    columns: tuple[str, ...] | None = None
    undecoded: bool = False

    def __call__(self, key: str) -> Iterator[dict[str, Any]]:
        """Yield the samples of the tar ``key``, in its order.

        Raises:
            ChunkFormatError: The tar is damaged or cut off.
            SchemaError: Two of its samples have different files.
            StoreError: It cannot be read.
        """
        source = self.store.object_url(key)
        first: tuple[str, list[str]] | None = None
        with open_forward(self.store, key) as file, _open_tar(file, source) as tar:
            for name, files in _grouped(tar, source, self.columns):
                endings = sorted(files)
                first = first or (name, endings)
                if endings != first[1]:
                    raise SchemaError(
                        f"{source}: the sample {name!r} has the files {', '.join(endings)}, and "
                        f"{first[0]!r} has {', '.join(first[1])}; name with --columns those that "
                        "every sample has"
                    )
                yield {KEY: name} | {
                    ending: self._decode(data, ending, f"{source}: {name}.{ending}")
                    for ending, data in files.items()
                }

    def _decode(self, data: bytes, ending: str, source: str) -> Any:
        kind = ending.rpartition(".")[2]
        if self.undecoded:
            return data
        if kind in _IMAGES:
            return image_leaf(data)
        if kind in _JSON:
            return json_text_leaf(data, source)
        try:
            if kind in _NUMBERS:
                return int(data)
            if kind in _TEXTS:
                return data.decode()
            if kind == "npy":
                return array_leaf(np.load(io.BytesIO(data), allow_pickle=False), source)
        except ValueError as error:
            raise DatasetError(f"{source}: {error}; --undecoded keeps the bytes") from error
        return data


def split_name(name: str) -> tuple[str, str] | None:
    """Split a file's path into the sample's name and the ending, as WebDataset does.

    The ending begins at the first dot of the file's own name. None: the file is of no sample.
    """
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return (f"{folder}{slash}{stem}", ending.lower()) if stem and ending else None


def _grouped(
    tar: tarfile.TarFile, source: str, columns: tuple[str, ...] | None
) -> Iterator[tuple[str, dict[str, bytes]]]:
    sample: str | None = None
    files: dict[str, bytes] = {}
    for member in _members(tar, source):
        split = split_name(member.name) if member.isreg() else None
        if split is None:
            continue
        name, ending = split
        if name != sample:
            if sample is not None:
                yield sample, _chosen(files, columns, f"{source}: the sample {sample!r}")
            sample, files = name, {}
        if ending in files:
            raise SchemaError(f"{source}: the sample {name!r} has two files .{ending}")
        if columns is None or ending in columns:
            files[ending] = _content(tar, member, source)
    if sample is not None:
        yield sample, _chosen(files, columns, f"{source}: the sample {sample!r}")


def _chosen(
    files: dict[str, bytes], columns: tuple[str, ...] | None, source: str
) -> dict[str, bytes]:
    for column in columns or ():
        if column not in files:
            raise SchemaError(f"{source} has no file .{column}")
    return files if columns is None else {column: files[column] for column in columns}


def _members(tar: tarfile.TarFile, source: str) -> Iterator[tarfile.TarInfo]:
    try:
        yield from tar
    except _BAD_TAR as error:
        raise ChunkFormatError(f"{source}: damaged or cut off: {error}") from error


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, source: str) -> bytes:
    try:
        file = tar.extractfile(member)
        data = b"" if file is None else file.read()
    except _BAD_TAR as error:
        raise ChunkFormatError(f"{source}: cut off or damaged in {member.name}") from error
    if len(data) != member.size:
        raise ChunkFormatError(f"{source}: cut off in {member.name}")
    return data


@contextmanager
def _open_tar(file: IO[bytes], source: str) -> Iterator[tarfile.TarFile]:
    plain: IO[bytes] = file
    if source.endswith(".zst"):
        plain = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
    with ExitStack() as stack:
        try:
            tar = stack.enter_context(
                tarfile.open(fileobj=plain, mode="r|*", bufsize=_READ_BYTES, tarinfo=_StrictMember)
            )
        except _BAD_TAR as error:
            raise ChunkFormatError(f"{source} is no tar, or a damaged one: {error}") from error
        yield tar


class _StrictMember(tarfile.TarInfo):
    """A member whose header must be whole: by itself tarfile takes a damaged one for the end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _StrictMember:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the mark at the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no header at byte {tarfile_.offset}: {error}") from error
