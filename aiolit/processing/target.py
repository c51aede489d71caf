"""Where a data set is written: what lies there already, and the one commit at the end."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from aiolit.errors import (
    ConfigError,
    ObjectExistsError,
    ObjectNotFoundError,
    OptimizeError,
    SchemaError,
)
from aiolit.format.dataset_info import (
    ChunkInfo,
    DatasetConfig,
    Index,
    loader_name,
    plain_name,
)
from aiolit.format.index import dump_index, parse_index
from aiolit.format.tree import TreeSpec
from aiolit.options import Mode
from aiolit.processing.checkpoint import (
    Checkpoint,
    check_no_job,
    checkpoint_keys,
    holds_jobs,
    remove_folder,
)
from aiolit.processing.folder_mark import CHUNK_NAME, FolderMark
from aiolit.processing.journal import Covered, InputMark, Progress, Record, record_name
from aiolit.processing.key_order import leaf_order
from aiolit.processing.output import look_at_output
from aiolit.processing.protocol import Schema
from aiolit.processing.summary import SkippedInput
from aiolit.runtime.tasks import finish
from aiolit.store.base import Store
from aiolit.store.connect import scheme_of
from aiolit.store.local import LocalStore
from aiolit.store.threads import run_in_thread

__all__ = ["INDEX_KEY", "Target", "check_same_schema", "mark_of", "next_number", "read_index"]

INDEX_KEY = "index.json"
_LOG = logging.getLogger("aiolit")
_DELETES = 16
# Of what is written down of the job, when its index is about to be written.
_COMMIT = "commit"


async def read_index(store: Store) -> Index | None:
    """Return the index of the data set in ``store``, or None where there is none."""
    data = await _get_index(store)
    return None if data is None else parse_index(data, source=store.object_url(INDEX_KEY))


async def _get_index(store: Store) -> bytes | None:
    try:
        return await store.get(INDEX_KEY)
    except ObjectNotFoundError:
        return None


def check_same_schema(expected: Schema, found: Schema, *, before: str, now: str) -> None:
    """Compare the samples' trees of two sources.

    Raises:
        SchemaError: They differ; the message names the first leaf that does.
    """
    if expected == found:
        return
    old = TreeSpec.from_json(expected.data_spec, source=before)
    new = TreeSpec.from_json(found.data_spec, source=now)
    old_leaves = dict(zip(old.leaf_paths(), expected.data_format, strict=True))
    new_leaves = dict(zip(new.leaf_paths(), found.data_format, strict=True))
    for path in [*old_leaves, *new_leaves]:
        was, is_ = old_leaves.get(path), new_leaves.get(path)
        if was != is_:
            raise SchemaError(
                f"leaf {path or 'of the sample'!r} is {_leaf(was)} in {before} but "
                f"{_leaf(is_)} in {now}; every sample of a data set has the same leaves"
            )
    raise SchemaError(
        f"the samples of {before} and of {now} have the same leaves in different containers or "
        f"in another order: {expected.data_spec} and {found.data_spec}"
    )


def _leaf(name: str | None) -> str:
    return "missing" if name is None else repr(name)


@dataclass(slots=True)
class Target:
    """A data set that is being written.

    Attributes:
        store: The folder.
        config: What holds for all its chunks; the schema comes with the first sample.
        mode: What may be there already.
        old: The index that is there, or None.
        rank: The number of the node whose chunks these are.
        first_number: The number of the first chunk that this job writes.
        chunks: The chunks of this job, by position.
        names: The files this job has begun to write.
        schema: The tree of the samples, once known.
        journal: Where a record is kept of every chunk, or None.
        mark: Says what inputs have come in so far, for the records; or None.
        folder_mark: Says in a folder of this machine that the job is at work; or None.
        is_committed: Whether the index of this very job is there already: an earlier attempt was
            ended when it had nothing left to do but to remove its records.
    """

    store: Store
    config: DatasetConfig
    mode: Mode | None
    old: Index | None = None
    rank: int = 0
    first_number: int = 0
    journal: Checkpoint | None = None
    mark: Callable[[], InputMark] | None = None
    schema: Schema | None = None
    schema_source: str = "the first sample"
    chunks: dict[int, ChunkInfo] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    folder_mark: FolderMark | None = None
    is_committed: bool = False
    _job: dict[str, Any] = field(default_factory=dict)
    _skipped: list[tuple[int, str, str]] = field(default_factory=list)
    _marking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def prepare(self) -> None:
        """Look at what is there, and remove the unfinished files of killed processes.

        Raises:
            ConfigError: The output cannot be written; a data set is there and ``mode`` is None, or
                its options differ from the ones given and ``mode`` is ``"append"``; or an
                interrupted job is there, whose chunks this one would replace.
        """
        await look_at_output(self.store)
        data = await _get_index(self.store)
        if data is not None:
            self.old = parse_index(data, source=self.store.object_url(INDEX_KEY))
        if self.journal is None and self.mode == "overwrite":
            if any(await holds_jobs(self.store)):
                await self._forget_checkpoint()
        else:
            await check_no_job(self.store, but=self.journal)
        if self.old is None or data is None or await self._find_commit(data):
            return
        if self.mode is None:
            raise ConfigError(
                f"{self.store.url} holds a data set already; choose another output_dir, or "
                "mode='append' to add to it or mode='overwrite' to replace it"
            )
        self.first_number = next_number(self.old.chunks)
        if self.mode == "append" and self.old.chunks:
            self._check_append(self.old.config)

    async def _find_commit(self, index: bytes) -> bool:
        """Look whether an earlier attempt of this job has written the index that is there."""
        if self.journal is None:
            return False
        job = await self.journal.read_job() or {}
        if job.get(_COMMIT, {}).get("index") != _digest(index):
            return False
        self.is_committed, self._job, self.first_number = True, job, job["first_number"]
        return True

    async def begin_writing(self) -> None:
        """Say in the folder that a job is at work, before its first file; again is harmless.

        What killed jobs have left there, and no index names, is removed.
        """
        if self.folder_mark is None:
            return
        old = self.old.chunks if self.old is not None and self.mode == "overwrite" else ()
        async with self._marking:
            await run_in_thread(
                self.folder_mark.leave,
                self.first_number,
                replaced=[chunk.filename for chunk in old],
                kept={chunk.filename for chunk in self.chunks.values()},
            )

    async def aclose(self) -> None:
        """Take back what `begin_writing` has said: the job has ended."""
        if self.folder_mark is not None:
            await run_in_thread(self.folder_mark.take_away)

    def _check_append(self, old: DatasetConfig) -> None:
        new = self.config
        for name, was, wanted in (
            ("item_loader", loader_name(old), loader_name(new)),
            ("compression", old.compression, new.compression),
            ("compression_level", old.compression_level, new.compression_level),
            ("encryption", old.encryption, new.encryption),
        ):
            if was != wanted:
                raise ConfigError(
                    f"cannot append to {self.store.url}: it has {name}={was!r}, not {wanted!r}"
                )
        if old.data_spec is not None:
            self.schema = Schema(old.data_format, old.data_spec)
            self.schema_source = "the data set there"

    def agree(self, schema: Schema, *, source: str) -> list[int] | None:
        """Take the schema of a worker; the first one counts.

        Returns:
            None; or, where only the order of dict keys differs, the order of leaves that turns
            samples of ``schema`` into ones like the first.

        Raises:
            SchemaError: It differs from the first one.
        """
        if self.schema is None:
            self.schema, self.schema_source = schema, source
        if schema == self.schema:
            return None
        order = leaf_order(self.schema, schema)
        if order is None or not self._can_reorder:
            check_same_schema(self.schema, schema, before=self.schema_source, now=source)
        return order

    @property
    def _can_reorder(self) -> bool:
        """Whether the leaves of an encoded sample can be told apart."""
        cipher = self.config.encryption
        plain = cipher is None or cipher.level != "sample"
        return plain and loader_name(self.config) == "PyTreeLoader"

    async def load_progress(self, job: Mapping[str, Any]) -> Progress:
        """Return what earlier attempts at the same job have finished.

        Records that follow a gap are deleted.

        Args:
            job: What has to be the same in every attempt, as JSON values.

        Raises:
            ConfigError: An earlier attempt was another job; the message names what differs.
        """
        assert self.journal is not None
        job = dict(job, first_number=self.first_number)
        await self.journal.begin(job)
        sizes = {info.key: info.size async for info in self.store.list("chunk-")}
        if self.is_committed:
            return self._all_done(sizes)
        self._job = job
        records: list[Record] = []
        for key, data in await self.journal.read_records("chunk-"):
            record = Record.parse(data, source=self.store.object_url(key))
            if sizes.get(record.chunk["filename"]) == record.stored_nbytes:
                records.append(record)
            else:  # somebody has removed or replaced the chunk
                await self.store.delete(key)
        progress = Progress.of(records)
        for record in records[len(progress.records) :]:
            await self.store.delete(self.journal.key(record_name(record.number)))
        for record in progress.records:
            self.chunks[record.number] = ChunkInfo(**record.chunk)
            self._skipped += record.skipped
            if record.data_spec is not None:
                schema = Schema(record.data_format, record.data_spec)
                self.agree(schema, source="the interrupted job")
        return progress

    def _all_done(self, sizes: Mapping[str, int]) -> Progress:
        """Return that everything is finished; only the inputs are still to be compared."""
        assert self.old is not None
        commit, config = self._job[_COMMIT], self.old.config
        if config.data_spec is not None:
            self.schema = Schema(config.data_format, config.data_spec)
        chunks = [chunk for chunk in self.old.chunks if next_number([chunk]) > self.first_number]
        self.chunks = dict(enumerate(chunks))
        done = ((0, int(commit["inputs"][0])),)
        records = [
            Record(
                number=number,
                chunk=asdict(chunk),
                data_format=config.data_format,
                data_spec=config.data_spec,
                covered=Covered(done=done),
                stored_nbytes=sizes.get(chunk.filename, 0),
                inputs=InputMark(*commit["inputs"]),
            )
            for number, chunk in enumerate(chunks)
        ]
        if records:
            skipped = tuple((index, shown, why) for index, shown, why in commit["skipped"])
            records[0] = replace(records[0], skipped=skipped)
        return Progress(tuple(records), done, is_complete=True)

    async def stored(
        self,
        position: int,
        chunk: ChunkInfo,
        covered: Covered,
        *,
        stored_nbytes: int,
        skipped: Iterable[SkippedInput] = (),
    ) -> None:
        """Take note of a chunk that is in place."""
        if self.journal is not None:
            told = tuple((each.index, each.input, each.error) for each in skipped)
            self._skipped += told
            schema = self.schema
            record = Record(
                number=position,
                chunk=asdict(chunk),
                data_format=schema.data_format if schema else (),
                data_spec=schema.data_spec if schema else None,
                covered=covered,
                stored_nbytes=stored_nbytes,
                inputs=None if self.mark is None else self.mark(),
                skipped=told,
            )
            await self.store.put(self.journal.key(record_name(position)), record.dump())
        self.chunks[position] = chunk

    def index(self, *, updated_at: str) -> Index:
        """Return the index of the finished data set."""
        chunks = tuple(self.chunks[position] for position in sorted(self.chunks))
        if self.old is not None and self.mode == "append" and self.old.chunks:
            return replace(self.old, chunks=(*self.old.chunks, *chunks), updated_at=updated_at)
        config = self.config
        if self.schema is not None:
            config = replace(
                config,
                data_format=self.schema.data_format,
                data_spec=self.schema.data_spec,
            )
        return Index(chunks=chunks, config=config, updated_at=updated_at)

    async def commit(self, index: Index, written: Iterable[str]) -> None:
        """Write ``index.json``; from then on the data set is complete.

        A failure or a cancellation leaves either the whole data set or none of it: it is looked
        whether the index arrived before anything is removed.
        """
        await self.begin_writing()
        if self.is_committed:
            return
        data = dump_index(index)
        if self.old is not None and await read_index(self.store) != self.old:
            await self.discard(written)
            raise OptimizeError(f"another job changed {self.store.url} in the meantime")
        await self._announce(data)
        try:
            await finish(self.store.put(INDEX_KEY, data, if_absent=self.old is None))
        except ObjectExistsError as error:
            raise OptimizeError(
                f"another job wrote a data set to {self.store.url} in the meantime"
            ) from error
        except BaseException:
            if not await self._holds(data):
                await self.discard(written)
            raise

    async def _announce(self, index: bytes) -> None:
        """Write down what the index is going to be.

        Between it and the removal of the records the job may be ended: then the same call again
        finds that it was complete.
        """
        if self.journal is None or self.mark is None:
            return
        mark = self.mark()
        commit = {
            "index": _digest(index),
            "inputs": [mark.count, mark.digest],
            "skipped": [list(each) for each in self._skipped],
        }
        await self.journal.write_job({**self._job, _COMMIT: commit})

    async def _holds(self, data: bytes) -> bool:
        try:
            return await self.store.get(INDEX_KEY) == data
        except ObjectNotFoundError:
            return False
        except OSError:
            return True  # nobody knows, so nothing may be removed

    async def tidy(self, index: Index) -> None:
        """Remove records, and the chunks that were replaced; the data set is complete already."""
        wanted = {chunk.filename for chunk in index.chunks}
        old = self.old.chunks if self.old is not None else ()
        unwanted = [chunk.filename for chunk in old if chunk.filename not in wanted]
        await self.remove(unwanted)
        if self.journal is not None:
            # Nobody else writes here as long as the records are there.
            first_number = 0 if self.mode == "overwrite" else self.first_number
            await self.remove(await self.strays(None, first_number, index))
            await self._forget_checkpoint()

    async def _forget_checkpoint(self) -> None:
        for keys in await checkpoint_keys(self.store):
            await self.remove(keys)
        await remove_folder(self.store)

    async def discard(self, written: Iterable[str]) -> None:
        """Remove the chunks of a job that failed; one that keeps a journal keeps them."""
        if self.journal is None:
            await self.remove(written)

    async def strays(
        self, ranks: Container[int] | None, first_number: int, index: Index | None = None
    ) -> list[str]:
        """Return chunks of these nodes (None: of any), from this number on, that are not wanted.

        Those of the index are, or without one those of this job.
        """
        chunks = self.chunks.values() if index is None else index.chunks
        known = {chunk.filename for chunk in chunks}
        if index is not None:
            # LitData leaves an inflated chunk beside the index, in place of the compressed one.
            known |= {plain_name(chunk, index.config) for chunk in chunks}
        return [
            info.key
            async for info in self.store.list("chunk-")
            if info.key not in known
            and (match := CHUNK_NAME.fullmatch(info.key))
            and (ranks is None or int(match[1]) in ranks)
            and int(match[2]) >= first_number
        ]

    async def remove(self, keys: Iterable[str]) -> None:
        """Delete objects; one that cannot be deleted is only logged."""
        places = asyncio.Semaphore(_DELETES)
        failures: list[str] = []

        async def delete(key: str) -> None:
            async with places:
                try:
                    await self.store.delete(key)
                except OSError as error:
                    failures.append(str(error))

        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(delete(key))
        if failures:
            _LOG.warning(
                "%d objects below %s could not be deleted; the first: %s",
                len(failures),
                self.store.url,
                failures[0],
            )


def next_number(chunks: Iterable[ChunkInfo]) -> int:
    """Return the number behind the highest in the names of chunks."""
    matches = (CHUNK_NAME.fullmatch(chunk.filename) for chunk in chunks)
    return max((int(match[2]) for match in matches if match), default=-1) + 1


def mark_of(store: Store, url: str) -> FolderMark | None:
    """Return the mark for an output that is a folder of this machine, which nobody said is shared.

    Of a job on another machine nothing is known here.
    """
    is_own = isinstance(store, LocalStore) and scheme_of(url) in ("", "file")
    return FolderMark(store.path) if is_own and isinstance(store, LocalStore) else None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
