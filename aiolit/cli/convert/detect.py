"""What a place holds, as its files tell."""

from __future__ import annotations

import fnmatch
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiolit.cli.convert.images import SUFFIXES as IMAGE_SUFFIXES
from aiolit.cli.convert.names import expand_braces
from aiolit.errors import ConfigError, ObjectNotFoundError
from aiolit.store.base import Store
from aiolit.store.connect import is_remote, local_path, scheme_of

Kind = Literal["webdataset", "mds", "parquet", "images"]

TAR_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")
_SUFFIXES: dict[Kind, tuple[str, ...]] = {
    "webdataset": TAR_SUFFIXES,
    "parquet": (".parquet",),
    "images": IMAGE_SUFFIXES,
}
_SHOWN: dict[Kind, str] = {
    "webdataset": "tars",
    "parquet": "Parquet files",
    "images": "images",
    "mds": "MDS shards",
}
_PATTERN = re.compile(r"[*?{]")
_SPLIT = re.compile(r"(?:^|[-_./])(train|test|validation|valid|val|dev)(?=[-_./]|$)")
INDEX = "index.json"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files lie.

    Attributes:
        root: The folder.
        pattern: Which of its files are meant, or None for all.
    """

    root: str
    pattern: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """What a place holds.

    Attributes:
        kind: What the files are.
        keys: Those that hold samples, sorted; of MDS shards none.
    """

    kind: Kind
    keys: list[str]


def split_place(source: str) -> Place:
    """Split what the user wrote into a folder, and a file or pattern in it."""
    root, slash, last = source.rstrip("/").rpartition("/")
    names_files = _PATTERN.search(last) or last.lower().endswith(
        (*TAR_SUFFIXES, *_SUFFIXES["parquet"])
    )
    if not names_files:
        return Place(source, None)
    if not is_remote(source) and local_path(source).is_dir():
        return Place(source, None)
    return Place(root or (slash or "."), last)


async def find(store: Store, place: Place, kind: Kind | None) -> Found:
    """Look what a place holds.

    Args:
        store: The folder.
        place: The folder and the pattern.
        kind: What the user says that it is, or None.

    Raises:
        ConfigError: It holds nothing that can be converted, or more than one kind.
        StoreError: It cannot be listed.
    """
    if kind in (None, "mds") and place.pattern is None and (index := await _read_index(store)):
        kind = _kind_of_index(index, store)
        if kind == "mds":
            return Found(kind, [])
    if kind == "mds":
        raise ConfigError(f"there is no {INDEX} in {store.url}: it holds no MDS shards")
    keys = await _keys(store, place)
    groups = {
        name: [key for key in keys if key.lower().endswith(suffixes)]
        for name, suffixes in _SUFFIXES.items()
        if kind in (None, name)
    }
    there = {name: group for name, group in groups.items() if group}
    if len(there) > 1:
        counts = ", ".join(f"{len(group):,} {_SHOWN[name]}" for name, group in there.items())
        raise ConfigError(f"{store.url} holds {counts}: say which are meant with --from")
    if not there:
        raise ConfigError(_nothing(store, place, keys, kind))
    ((found, chosen),) = there.items()
    _warn_of_splits(chosen)
    return Found(found, chosen)


async def _read_index(store: Store) -> Mapping[str, Any] | None:
    try:
        index = json.loads(await store.get(INDEX))
    except ObjectNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{store.object_url(INDEX)} is no JSON: {error}") from error
    return index if isinstance(index, dict) else None


def _kind_of_index(index: Mapping[str, Any], store: Store) -> Kind:
    if "shards" in index:
        return "mds"
    config = index.get("config")
    if isinstance(config, dict) and config.get("item_loader") == "ParquetLoader":
        return "parquet"
    raise ConfigError(
        f"{store.url} is a data set already; copy it with `aiolit copy`, or stream it as it is"
    )


async def _keys(store: Store, place: Place) -> list[str]:
    """List what is meant; nothing has to be listed where names are given in full."""
    names = ["*"] if place.pattern is None else expand_braces(place.pattern)
    if not any("*" in name or "?" in name for name in names):
        return names
    found = [info.key async for info in store.list()]
    visible = [key for key in found if not _is_hidden(key)]
    if place.pattern is None:
        return visible
    here = [key for key in visible if "/" not in key]
    return [key for key in here if any(fnmatch.fnmatchcase(key, name) for name in names)]


def _is_hidden(key: str) -> bool:
    return any(part.startswith(".") for part in key.split("/"))


def _nothing(store: Store, place: Place, keys: Sequence[str], kind: Kind | None) -> str:
    what = "nothing that can be converted" if kind is None else f"no {_SHOWN[kind]}"
    where = store.url if place.pattern is None else f"{store.url}, in files {place.pattern}"
    if not keys:
        text = f"there are no files in {where}"
        folder = local_path(store.url)
        if not is_remote(store.url) and not folder.is_dir():
            text = f"there is no folder {store.url}"
            if folder.exists():
                text = f"{store.url} is a file of no kind that can be converted"
    else:
        text = f"{where} holds {what}: {len(keys):,} files such as {keys[0]}"
        if below := [key for key in keys if key.endswith(f"/{INDEX}")]:
            one = store.object_url(below[0].rpartition("/")[0])
            text = f"{where} itself holds {what}; convert the folders in it, such as {one}"
    if scheme_of(store.url) == "hf" and "@" not in store.url:
        text += (
            "; the Hub keeps most data sets as Parquet too, at "
            "hf://datasets/OWNER/NAME@refs/convert/parquet"
        )
    return text


def _warn_of_splits(keys: Sequence[str]) -> None:
    splits = sorted({match[1] for key in keys for match in _SPLIT.finditer(key.lower())})
    if len(splits) > 1:
        warnings.warn(
            f"there are files of {' and of '.join(splits)}: all of them become one data set; to "
            "keep them apart, convert each folder or pattern alone",
            stacklevel=2,
        )
