"""What is at a place that holds no data set: what a user meant, perhaps."""

from __future__ import annotations

from contextlib import aclosing

from aiolit.cli.convert.images import SUFFIXES as IMAGE_SUFFIXES
from aiolit.errors import StoreError
from aiolit.store.base import Store
from aiolit.store.local import LocalStore
from aiolit.store.threads import run_in_thread

_LOOKED_AT = 1000  # names

_ADVICE = (
    ((".parquet",), "Parquet files: `aiolit index` makes their index"),
    ((".tar", ".tgz", ".tar.gz", ".tar.zst"), "tars: `aiolit convert` makes a data set of them"),
    (IMAGE_SUFFIXES, "images: `aiolit convert` makes a data set of them"),
)


async def explain_missing(store: Store) -> str:
    """Say what is at the place of a data set that has no index."""
    head = f"there is no data set at {store.url}"
    if isinstance(store, LocalStore) and not await run_in_thread(store.path.is_dir):
        if await run_in_thread(store.path.exists):
            return f"{head}: it is a file, and a data set is a folder"
        return f"{head}: there is no such folder"
    try:
        keys = await _first_keys(store)
    except StoreError:  # a web server, say, cannot be listed
        return f"{head}: there is no index.json, so it is none, or its writing has not ended"
    if not keys:
        return f"{head}: there are no files"
    if any(key.startswith(".checkpoints/") or ("/" not in key and _is_chunk(key)) for key in keys):
        return (
            f"{head} yet: there are chunks and no index.json, which is written last; it is being "
            "written, or the writing was killed"
        )
    for suffixes, advice in _ADVICE:
        if any(key.lower().endswith(suffixes) for key in keys):
            return f"{head}, but there are {advice}"
    folders = [key.rpartition("/")[0] for key in keys if key.endswith("/index.json")]
    if folders:
        return f"{head} itself; there is one in {store.object_url(folders[0])}"
    return f"{head}, but other files, such as {keys[0]}"


async def holds_parquet(store: Store) -> bool:
    """Whether there are Parquet files among the first names; False where nothing can be listed."""
    try:
        return any(key.endswith(".parquet") for key in await _first_keys(store))
    except StoreError:
        return False


def _is_chunk(key: str) -> bool:
    return key.startswith("chunk-") and key.endswith(".bin")


async def _first_keys(store: Store) -> list[str]:
    keys: list[str] = []
    async with aclosing(store.list()) as listing:
        async for info in listing:
            keys.append(info.key)
            if len(keys) == _LOOKED_AT:
                break
    return keys
