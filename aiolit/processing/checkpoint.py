"""The folder ``.checkpoints`` of an output: which job is unfinished there, and its records."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from typing import Any

from aiolit.errors import ConfigError, ObjectNotFoundError
from aiolit.processing.journal import FOLDER, JOB_KEY
from aiolit.runtime.groups import single_error
from aiolit.store.base import Store
from aiolit.store.local import LocalStore
from aiolit.store.threads import run_in_thread

__all__ = ["begin_job", "checkpoint_keys", "has_checkpoint", "read_records", "remove_folder"]

_AT_ONCE = 16


async def has_checkpoint(store: Store) -> bool:
    """Whether an interrupted job has left its records."""
    try:
        await store.head(JOB_KEY)
    except ObjectNotFoundError:
        return False
    return True


async def begin_job(store: Store, job: Mapping[str, Any]) -> None:
    """Write down what the job is; where an interrupted one is there, it has to be the same.

    Args:
        store: The output.
        job: What has to be the same in every attempt, as JSON values.

    Raises:
        ConfigError: An earlier attempt was another job; the message names what differs.
    """
    try:
        text = await store.get(JOB_KEY)
    except ObjectNotFoundError:
        await store.put(JOB_KEY, json.dumps(job, sort_keys=True).encode())
        return
    try:
        earlier = dict(json.loads(text))
    except (TypeError, ValueError) as error:
        url = store.object_url(JOB_KEY)
        raise ConfigError(f"{url} is no record of an interrupted job: {error}") from error
    for name, value in job.items():
        if earlier.get(name) != value:
            raise ConfigError(
                f"{store.url} holds an interrupted job with {name}={earlier.get(name)!r}, "
                f"not {value!r}; finish it as it was, or delete its {FOLDER} folder"
            )


async def read_records(store: Store, prefix: str) -> list[tuple[str, bytes]]:
    """Return the key and the bytes of each record whose name begins with ``prefix``, by name."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def read(key: str) -> bytes:
        async with places:
            return await store.get(key)

    keys = [info.key async for info in store.list(f"{FOLDER}/{prefix}")]
    with single_error():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read(key)) for key in keys]
    return [(key, task.result()) for key, task in zip(keys, tasks, strict=True)]


async def checkpoint_keys(store: Store) -> list[str]:
    """Return the keys of everything in the folder, the job last.

    So a removal that is cut short leaves no records of which nobody knows to what job they belong.
    """
    keys = [info.key async for info in store.list(f"{FOLDER}/")]
    return sorted(keys, key=lambda key: key == JOB_KEY)


async def remove_folder(store: Store) -> None:
    """Remove the empty folder, which stores of objects do not have."""
    if isinstance(store, LocalStore):
        await run_in_thread(shutil.rmtree, store.path / FOLDER, ignore_errors=True)
