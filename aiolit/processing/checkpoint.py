"""The folder ``.checkpoints`` of an output: which job is unfinished there, and its records."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiolit.errors import ConfigError, ObjectNotFoundError
from aiolit.groups import single_error
from aiolit.processing.journal import FOLDER
from aiolit.store.base import Store
from aiolit.store.local import LocalStore
from aiolit.store.threads import run_in_thread

__all__ = ["Checkpoint", "check_no_job", "checkpoint_keys", "holds_jobs", "remove_folder"]

_AT_ONCE = 16
_JOB = "job.json"
_SHARES = f"{FOLDER}/share-"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is written down of a job.

    Attributes:
        store: The output.
        share: Which share of a job of several nodes it is of; None: of a job that one process does,
            or the head of a cluster.
    """

    store: Store
    share: int | None = None

    def key(self, name: str) -> str:
        """Return where something of that name is written down, relative to the output."""
        return f"{FOLDER}/{name}" if self.share is None else f"{_SHARES}{self.share}-{name}"

    async def read_job(self) -> dict[str, Any] | None:
        """Return what an earlier attempt has written down of the job, or None.

        Raises:
            ConfigError: It is garbled.
        """
        key = self.key(_JOB)
        try:
            return dict(json.loads(await self.store.get(key)))
        except ObjectNotFoundError:
            return None
        except (TypeError, ValueError) as error:
            url = self.store.object_url(key)
            raise ConfigError(f"{url} is no record of an interrupted job: {error}") from error

    async def write_job(self, job: Mapping[str, Any]) -> None:
        """Write down what the job is, as JSON values."""
        await self.store.put(self.key(_JOB), json.dumps(job, sort_keys=True).encode())

    async def begin(self, job: Mapping[str, Any]) -> None:
        """Write down what the job is; where an interrupted one is there, it has to be the same.

        Args:
            job: What has to be the same in every attempt, as JSON values.

        Raises:
            ConfigError: An earlier attempt was another job; the message names what differs.
        """
        earlier = await self.read_job()
        if earlier is None:
            await self.write_job(job)
            return
        for name, value in job.items():
            if earlier.get(name) != value:
                raise ConfigError(
                    f"{self.store.url} holds an interrupted job with {name}={earlier.get(name)!r}, "
                    f"not {value!r}; finish it as it was, or delete its {FOLDER} folder"
                )

    async def read_records(self, prefix: str) -> list[tuple[str, bytes]]:
        """Return key and bytes of each record whose name begins with ``prefix``, by name."""
        places = asyncio.Semaphore(_AT_ONCE)

        async def read(key: str) -> bytes:
            async with places:
                return await self.store.get(key)

        keys = [info.key async for info in self.store.list(self.key(prefix))]
        with single_error():
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(read(key)) for key in keys]
        return [(key, task.result()) for key, task in zip(keys, tasks, strict=True)]


async def check_no_job(store: Store, but: Checkpoint | None = None) -> bool:
    """Refuse an output where an interrupted job is.

    Args:
        store: The output.
        but: One that is to be gone on with; the other shares of its job may be there too.

    Returns:
        Whether that one is there, or another share.

    Raises:
        ConfigError: There is one.
    """
    of_one, of_shares = await holds_jobs(store)
    if but is None and (of_one or of_shares):
        raise ConfigError(
            f"{store.url} holds an interrupted job; use_checkpoint=True goes on with it, "
            f"deleting its {FOLDER} folder (or mode='overwrite' of optimize) gives it up"
        )
    if but is not None and (of_shares if but.share is None else of_one):
        nodes = "several nodes" if of_shares else "one process"
        raise ConfigError(
            f"{store.url} holds an interrupted job of {nodes}; finish it as it was, or delete its "
            f"{FOLDER} folder"
        )
    return of_one or of_shares


async def holds_jobs(store: Store) -> tuple[bool, bool]:
    """Return whether records of an interrupted job are there: of one process; of shares."""
    try:
        await store.head(f"{FOLDER}/{_JOB}")
    except ObjectNotFoundError:
        of_one = False
    else:
        of_one = True
    async for _ in store.list(_SHARES):
        return of_one, True
    return of_one, False


async def checkpoint_keys(store: Store) -> tuple[list[str], list[str]]:
    """Return the keys of all records, and those that say of which jobs they are.

    To be removed in that order: a removal that is cut short leaves no records of which nobody knows
    to what job they belong.
    """
    keys = [info.key async for info in store.list(f"{FOLDER}/")]
    jobs = [key for key in keys if key.endswith(_JOB)]
    return [key for key in keys if key not in jobs], jobs


async def remove_folder(store: Store) -> None:
    """Remove the empty folder, which stores of objects do not have."""
    if isinstance(store, LocalStore):
        await run_in_thread(shutil.rmtree, store.path / FOLDER, ignore_errors=True)
