"""Several machines without a cluster: each process does its share, whoever ends last merges."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

from aiolit.errors import ConfigError, ObjectExistsError, ObjectNotFoundError, OptimizeError
from aiolit.format.dataset_info import Index
from aiolit.format.index import dump_index, parse_index
from aiolit.processing.checkpoint import Checkpoint
from aiolit.processing.input_digest import CheckedSource, InputDigest
from aiolit.processing.job import (
    OptimizeJob,
    Report,
    sample_sink,
    with_earlier,
    work_through,
    worker_setup,
)
from aiolit.processing.journal import Progress
from aiolit.processing.mapping import MapJob, run_map
from aiolit.processing.nodes import Downloads, Share
from aiolit.processing.protocol import Schema
from aiolit.processing.regions import region_bounds
from aiolit.processing.sources import InputSource, SequenceSource, take_all
from aiolit.processing.summary import MapSummary, Summary
from aiolit.processing.target import INDEX_KEY, Target, check_same_schema, next_number
from aiolit.processing.writer import write_chunks
from aiolit.store.base import Store
from aiolit.store.connect import is_remote, open_store, scheme_of

__all__ = ["Share", "check_shared", "find_share", "map_share", "optimize_share"]

NUM_NODES = "DATA_OPTIMIZER_NUM_NODES"
NODE_RANK = "DATA_OPTIMIZER_NODE_RANK"
# How many processes a launcher has started, and which of them this is.
_LAUNCHERS = (("WORLD_SIZE", "RANK"), ("SLURM_NTASKS", "SLURM_PROCID"))
_JOB = "share_of"


def find_share(environ: Mapping[str, str]) -> Share | None:
    """Return the share that the environment gives this process; None: it does the whole job.

    Raises:
        ConfigError: A variable is no number in its range, or nothing says which node this is.
    """
    if (text := environ.get(NUM_NODES)) is None:
        return None
    num_nodes = _number(NUM_NODES, text, least=1)
    if num_nodes == 1:
        return None
    if (rank := environ.get(NODE_RANK)) is not None:
        return Share(rank=_number(NODE_RANK, rank, stop=num_nodes), num_nodes=num_nodes)
    for size, name in _LAUNCHERS:
        if environ.get(size) == str(num_nodes) and name in environ:
            return Share(rank=_number(name, environ[name], stop=num_nodes), num_nodes=num_nodes)
    raise ConfigError(
        f"{NUM_NODES}={num_nodes}, but nothing says which node this is: set {NODE_RANK}, or start "
        "as many processes with torchrun or srun"
    )


def _number(name: str, text: str, *, least: int = 0, stop: int | None = None) -> int:
    if not text.isdecimal() or int(text) < least or (stop is not None and int(text) >= stop):
        upper = "" if stop is None else f" below {stop}"
        raise ConfigError(f"{name} must be a whole number from {least} on{upper}, not {text!r}")
    return int(text)


def check_shared(url: str) -> None:
    """Refuse an output that the other nodes may not reach.

    Raises:
        ConfigError: It is a folder that nobody said is shared.
    """
    if not is_remote(url) and scheme_of(url) != "local":
        raise ConfigError(
            f"{NUM_NODES} is set, and output_dir={url} is a folder of this machine: the nodes' "
            f"chunks would not come together. Pass a URL, or 'local:{url}' if every node sees the "
            "same folder there"
        )


async def optimize_share(
    job: OptimizeJob, share: Share, downloads: Downloads
) -> tuple[Summary, tuple[str, ...]]:
    """Write the chunks of a share, and the data set's index where all others are written.

    A share that an earlier attempt has finished is not done again; with ``use_checkpoint``, the
    chunks are not that one has finished.

    Returns:
        What this share came to, and where there are leaves stored by pickle.

    Raises:
        ConfigError: A data set or another unfinished job is there.
        OptimizeError: No share had a sample, or another job has changed the output.
        SchemaError: The shares have different samples; the message names the leaf.
    """
    started = perf_counter()
    output = job.output
    async with open_store(
        output.url,
        storage_options=output.storage_options,
        session_options=output.session_options,
    ) as store:
        rank = share.rank
        journal = Checkpoint(store, rank) if output.use_checkpoint else None
        target = Target(store, job.layout.config(), output.mode, rank=rank, journal=journal)
        merged = await _find_merged(store, share.num_nodes)
        if merged is None:
            await target.prepare()
        items = await take_all(job.source)
        identity = _identity(job, share, items, await _get(store, INDEX_KEY))
        start, stop = _bounds(job, share, len(items))
        report = Report(inputs=stop - start)
        if merged is not None:
            del identity["index_before"]
        # All of them now: what does not fit together is found before any work.
        parts = [await _read_part(store, rank, identity) for rank in range(share.num_nodes)]
        part = parts[share.rank]
        if merged is not None:
            await _tidy_merged(target, merged, parts)
            part = part or _share_of(target, merged)
        elif part is None:
            progress = None if journal is None else await target.load_progress(identity)
            report = await _write(job, target, downloads, items[start:stop], start, progress)
            # What an attempt that was killed has stored, and this one does not need.
            await target.remove(await target.strays({rank}, target.first_number))
            # Not the old chunks of a data set that is added to.
            written = replace(target, mode=None).index(updated_at=str(time.time()))
            part = replace(written, extra={_JOB: identity})
            await store.put(_part_key(rank), dump_index(part))
        if merged is None:
            await _merge(target, share.num_nodes, identity)
    summary = Summary(
        output_dir=output.url,
        samples=sum(chunk.num_items for chunk in part.chunks),
        chunks=len(part.chunks),
        nbytes=sum(chunk.nbytes for chunk in part.chunks),
        inputs=report.inputs,
        seconds=perf_counter() - started,
        skipped=tuple(report.skipped),
    )
    return summary, () if target.schema is None else target.schema.pickled


async def map_share(job: MapJob, share: Share, downloads: Downloads) -> MapSummary:
    """Call the function on a share of the inputs and store what it writes."""
    items = await take_all(job.source)
    start, stop = _bounds(job, share, len(items))
    weights = None if job.weights is None else job.weights[start:stop]
    source: InputSource = SequenceSource(items[start:stop])
    checked = None
    if job.checked is not None:
        source = checked = CheckedSource(source)
    source = downloads.of(source)
    return await run_map(replace(job, source=source, checked=checked, weights=weights, share=share))


def _bounds(job: OptimizeJob | MapJob, share: Share, total: int) -> tuple[int, int]:
    bounds = _all_bounds(job, share, total)
    return bounds[share.rank], bounds[share.rank + 1]


def _all_bounds(job: OptimizeJob | MapJob, share: Share, total: int) -> list[int]:
    weights = None if job.weights is None else job.weights[:total]
    return region_bounds(total, share.num_nodes, weights)


async def _write(
    job: OptimizeJob,
    target: Target,
    downloads: Downloads,
    items: Sequence[Any],
    start: int,
    progress: Progress | None,
) -> Report:
    source = downloads.of(SequenceSource(items))
    weights = None if job.weights is None else job.weights[start : start + len(items)]
    uploaders = job.output.num_uploaders
    try:
        async with write_chunks(job.layout, target, uploaders, progress) as writer:
            report = await work_through(
                worker_setup(job),
                source,
                job.work,
                sample_sink(writer),
                progress=progress,
                weights=weights,
                on_skipped=writer.skipped,
            )
            report.skipped = with_earlier(report.skipped, progress)
            return report
    except BaseException:
        await target.discard(target.names)
        raise
    finally:
        await source.close()


def _identity(
    job: OptimizeJob, share: Share, items: list[Any], base: bytes | None
) -> dict[str, Any]:
    """Return what has to be the same for all shares of a job, as JSON values.

    The inputs too: a folder that is listed in another order on another machine would give shares
    that overlap, and inputs that are in none.
    """
    digest = InputDigest()
    for item in items:
        digest.add(item)
    bounds = _all_bounds(job, share, len(items))
    return {
        "function": "a share of optimize",
        **job.layout.fingerprint(),
        "num_nodes": share.num_nodes,
        "inputs": len(items),
        "digest_of_inputs": digest.mark().digest,
        "shares_begin_at": bounds[:-1],  # they follow from the weights
        "keep_data_ordered": job.work.ordered,
        "mode": job.output.mode,
        "index_before": None if base is None else hashlib.sha256(base).hexdigest(),
    }


def _part_key(rank: int) -> str:
    return f"{rank}-{INDEX_KEY}"


async def _get(store: Store, key: str) -> bytes | None:
    try:
        return await store.get(key)
    except ObjectNotFoundError:
        return None


async def _read_part(store: Store, rank: int, identity: Mapping[str, Any]) -> Index | None:
    """Return the index of a finished share, or None.

    Raises:
        ConfigError: It is one of another job.
    """
    data = await _get(store, _part_key(rank))
    if data is None:
        return None
    url = store.object_url(_part_key(rank))
    part = parse_index(data, source=url)
    was = part.extra.get(_JOB, {})
    for name, value in identity.items():
        if was.get(name) != value:
            raise ConfigError(
                f"{url} is of a job with {name}={was.get(name)!r}, not {value!r}: call all nodes "
                "with the same inputs and options, or delete it to begin anew"
            )
    return part


async def _merge(target: Target, num_nodes: int, identity: Mapping[str, Any]) -> None:
    """Write the index of the data set, if all shares are finished."""
    store, parts = target.store, []
    for rank in range(num_nodes):
        if (part := await _read_part(store, rank, identity)) is None:
            return  # whoever writes it will merge; or it was merged, and the parts were removed
        parts.append(part)
    index = _joined(target, parts)
    data = dump_index(index)
    before = await _get(store, INDEX_KEY)
    if before != data:
        digest = None if before is None else hashlib.sha256(before).hexdigest()
        try:
            if digest != identity["index_before"]:
                raise ObjectExistsError(store.object_url(INDEX_KEY))
            await store.put(INDEX_KEY, data, if_absent=before is None)
        except ObjectExistsError as error:
            # Two that end at once write the same.
            if await _get(store, INDEX_KEY) != data:
                raise OptimizeError(f"another job changed {store.url} in the meantime") from error
    await _tidy(target, index, num_nodes)


async def _tidy(target: Target, index: Index, num_nodes: int) -> None:
    await target.tidy(index)
    await target.remove([_part_key(rank) for rank in range(num_nodes)])


async def _find_merged(store: Store, num_nodes: int) -> Index | None:
    """Return the index that is there, if it is the one of shares that were not removed yet.

    Whoever wrote it was ended before it was done; so their nodes need not do anything again.
    """
    if (data := await _get(store, INDEX_KEY)) is None:
        return None
    parts = [await _read_part(store, rank, {}) for rank in range(num_nodes)]
    names = {chunk.filename for part in parts if part is not None for chunk in part.chunks}
    index = parse_index(data, source=store.object_url(INDEX_KEY))
    return index if names and names <= {chunk.filename for chunk in index.chunks} else None


async def _tidy_merged(target: Target, index: Index, parts: Sequence[Index | None]) -> None:
    """Remove what whoever wrote the index had no time to remove."""
    of_shares = [chunk for part in parts if part is not None for chunk in part.chunks]
    target.first_number = min(next_number([chunk]) for chunk in of_shares) - 1
    if target.mode == "overwrite":
        await target.remove(await target.strays(None, 0, index))
    await _tidy(target, index, len(parts))


def _share_of(target: Target, index: Index) -> Index:
    """Return what an index has of a share, whose own one was removed already."""
    chunks = [
        chunk
        for chunk in index.chunks
        if chunk.filename.startswith(f"chunk-{target.rank}-")
        and next_number([chunk]) > target.first_number
    ]
    return replace(index, chunks=tuple(chunks))


def _joined(target: Target, parts: list[Index]) -> Index:
    filled = [(rank, part) for rank, part in enumerate(parts) if part.chunks]
    if not filled and target.mode != "append":
        raise OptimizeError(f"not a single sample came out, so {target.store.url} is no data set")
    for rank, part in filled:
        schema = Schema(part.config.data_format, part.config.data_spec or "")
        if target.schema is None:
            target.schema, target.schema_source = schema, f"the share of node {rank}"
        now = f"the share of node {rank}"
        check_same_schema(target.schema, schema, before=target.schema_source, now=now)
    chunks = [chunk for part in parts for chunk in part.chunks]
    joined = replace(target, chunks=dict(enumerate(chunks)))
    # Not the time of the merge: whoever merges writes the same bytes.
    updated_at = max((part.updated_at or "0" for part in parts), key=float)
    return joined.index(updated_at=updated_at)
