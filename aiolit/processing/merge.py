"""Several data sets into one, chunk by chunk, without decoding a sample."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from aiolit.errors import ConfigError, DatasetNotFoundError, ObjectNotFoundError
from aiolit.format.builder import chunk_filename
from aiolit.format.dataset_info import (
    ChunkInfo,
    DatasetConfig,
    Index,
    is_mds,
    is_whole_compressed,
    loader_name,
    plain_name,
)
from aiolit.groups import single_error
from aiolit.options import parse_place, positive
from aiolit.processing.protocol import Schema
from aiolit.processing.summary import Summary
from aiolit.processing.target import INDEX_KEY, Target, check_same_schema, mark_of, read_index
from aiolit.store.base import Store
from aiolit.store.connect import open_store, scheme_of
from aiolit.store.connections import expand
from aiolit.store.local import LocalStore

__all__ = ["check_merge", "merge"]

OnCopied = Callable[[int, int], object]

_MAX_WORKERS = 16
# Stores whose `copy` stays inside the server, for any two keys of a bucket.
_SERVER_SIDE = ("s3", "r2", "gs")


@dataclass(frozen=True, slots=True)
class MergeJob:
    """A merge, its arguments checked."""

    sources: tuple[str, ...]
    output: str
    max_workers: int
    storage_options: Mapping[str, Any] | None
    session_options: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class _Source:
    store: Store
    index: Index


def check_merge(
    input_dirs: Sequence[Any],
    output_dir: Any,
    max_workers: int | None,
    storage_options: Mapping[str, Any] | None,
    session_options: Mapping[str, Any] | None,
) -> MergeJob:
    """Check the arguments of a merge.

    Raises:
        ConfigError: There are fewer than two inputs, or one of them is the output.
    """
    if isinstance(input_dirs, str) or len(input_dirs) < 2:
        raise ConfigError("input_dirs must be a list of at least two data sets")
    sources = tuple(expand(parse_place(each, name="input_dirs")) for each in input_dirs)
    output = expand(parse_place(output_dir, name="output_dir"))
    if any(each.rstrip("/") == output.rstrip("/") for each in sources):
        raise ConfigError(f"{output} cannot be merged into itself; choose another output_dir")
    workers = _MAX_WORKERS if max_workers is None else positive(max_workers, name="max_workers")
    return MergeJob(sources, output, workers, storage_options, session_options)


async def merge(job: MergeJob, on_copied: OnCopied | None = None) -> Summary:
    """Write a data set that has the chunks of all inputs, in their order.

    Args:
        job: What to merge.
        on_copied: Called with the chunks there are, and with those copied so far, after each.

    Raises:
        ConfigError: There is a data set already, or the inputs differ in how they are stored.
        DatasetNotFoundError: An input is no data set.
        SchemaError: The inputs have different samples; the message names the leaf.

    A failure or a cancellation writes no index and removes the chunks copied so far.
    """
    started = perf_counter()
    async with AsyncExitStack() as stack:

        async def opened(url: str) -> Store:
            store = open_store(
                url,
                storage_options=job.storage_options,
                session_options=job.session_options,
            )
            return await stack.enter_async_context(store)

        store = await opened(job.output)
        target = Target(store, DatasetConfig(), None, folder_mark=mark_of(store, job.output))
        stack.push_async_callback(target.aclose)
        await target.prepare()
        sources = [await _open_source(await opened(url), url) for url in job.sources]
        config = _common_config(sources)
        target.config = config
        copies = _plan(sources, config)
        names = [chunk.filename for _, _, chunk in copies]
        try:
            root = split_bucket(job.output)
            copier = _Copier(target.store, None if root is None else await opened(root[0]))
            await target.begin_writing()
            nbytes = await _copy_all(copies, copier, job.max_workers, on_copied)
        except BaseException:
            await target.discard(names)
            raise
        target.chunks.update({n: chunk for n, (_, _, chunk) in enumerate(copies)})
        index = target.index(updated_at=str(time.time()))
        await target.commit(index, names)
    return Summary(
        output_dir=job.output,
        samples=sum(chunk.num_items for chunk in index.chunks),
        chunks=len(index.chunks),
        nbytes=nbytes,
        inputs=len(sources),
        seconds=perf_counter() - started,
    )


async def _open_source(store: Store, url: str) -> _Source:
    index = await read_index(store)
    if index is None:
        raise DatasetNotFoundError(f"{url} has no {INDEX_KEY}: it is no finished data set")
    if is_mds(index.config):
        raise ConfigError(f"{url} holds MosaicML shards; they can be read but not merged")
    return _Source(store, index)


def _common_config(sources: Sequence[_Source]) -> DatasetConfig:
    first = sources[0]
    expected = first.index.config
    for source in sources[1:]:
        config = source.index.config
        for name, was, is_ in (
            ("item_loader", loader_name(expected), loader_name(config)),
            ("compression", expected.compression, config.compression),
            ("compression_level", expected.compression_level, config.compression_level),
            ("encryption", expected.encryption, config.encryption),
        ):
            if was != is_:
                raise ConfigError(
                    f"cannot merge: {first.store.url} has {name}={was!r} and {source.store.url} "
                    f"has {name}={is_!r}"
                )
        if config.data_spec is not None and expected.data_spec is not None:
            check_same_schema(
                Schema(expected.data_format, expected.data_spec),
                Schema(config.data_format, config.data_spec),
                before=first.store.url,
                now=source.store.url,
            )
    return expected


_Copy = tuple[_Source, ChunkInfo, ChunkInfo]


def _plan(sources: Sequence[_Source], config: DatasetConfig) -> list[_Copy]:
    pairs = [(source, chunk) for source in sources for chunk in source.index.chunks]
    copies = []
    for number, (source, chunk) in enumerate(pairs):
        whole = is_whole_compressed(chunk, source.index.config)
        name = chunk_filename(0, number, config.compression if whole else None)
        copies.append((source, chunk, replace(chunk, filename=name)))
    return copies


async def _copy_all(
    copies: list[_Copy], copier: _Copier, max_workers: int, on_copied: OnCopied | None
) -> int:
    places = asyncio.Semaphore(max_workers)
    sizes: list[int] = []

    async def copy(number: int) -> None:
        source, old, new = copies[number]
        async with places:
            try:
                size = (await source.store.head(old.filename)).size
                await copier.copy(source.store, old.filename, new.filename)
            except ObjectNotFoundError:
                # LitData leaves an inflated chunk beside the index of a local data set.
                plain = plain_name(old, source.index.config)
                if plain == old.filename:
                    raise
                size = (await source.store.head(plain)).size
                new = replace(new, filename=chunk_filename(0, number, None))
                await copier.copy(source.store, plain, new.filename)
                copies[number] = (source, old, new)
            sizes.append(size)
            if on_copied is not None:
                on_copied(len(copies), len(sizes))

    with single_error():
        async with asyncio.TaskGroup() as group:
            for number in range(len(copies)):
                group.create_task(copy(number))
    return sum(sizes)


async def copy_object(source: Store, src: str, target: Store, dst: str) -> None:
    """Copy an object to another store; its bytes pass through here."""
    if isinstance(source, LocalStore):
        await target.put_file(dst, source.file_path(src))
        return
    async with source.stream(src) as pieces:
        await target.put_stream(dst, pieces)


def split_bucket(url: str) -> tuple[str, str] | None:
    """Return the root of a bucket and the prefix below it, or None where there is no such thing."""
    if scheme_of(url) not in _SERVER_SIDE:
        return None
    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.strip("/").partition("/")
    return f"{scheme}://{bucket}", f"{prefix}/" if prefix else ""


class _Copier:
    """Copies chunks to the output, inside the server where they lie in the same bucket."""

    def __init__(self, target: Store, bucket: Store | None) -> None:
        self._target = target
        self._bucket = bucket

    async def copy(self, source: Store, src: str, dst: str) -> None:
        """Copy one chunk."""
        here, there = split_bucket(source.url), split_bucket(self._target.url)
        if self._bucket is None or here is None or there is None or here[0] != there[0]:
            await copy_object(source, src, self._target, dst)
        else:
            await self._bucket.copy(f"{here[1]}{src}", f"{there[1]}{dst}")
