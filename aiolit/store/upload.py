"""Large objects go up in parts: a bounded number at once, all of them or none."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from aiolit.errors import StoreError
from aiolit.groups import single_error
from aiolit.store.threads import open_in_thread, run_in_thread

if TYPE_CHECKING:
    # base's Store has put_file, which is made of this module.
    from aiolit.store.base import Buffer, Store

SINGLE_PUT_NBYTES = 16 << 20
PART_NBYTES = 16 << 20
CONCURRENT_PARTS = 4
MAX_PARTS = 10_000


class Upload(ABC):
    """An object that is going up in parts and does not show yet.

    Attributes:
        part_nbytes: How large every part but the last must be, in bytes.
        concurrency: How many parts may be under way at once.
    """

    part_nbytes: int = PART_NBYTES
    concurrency: int = CONCURRENT_PARTS

    @abstractmethod
    async def put_part(self, number: int, data: memoryview) -> None:
        """Send one part; parts are numbered from 0. Sending one again replaces it."""

    @abstractmethod
    async def complete(self) -> None:
        """Make the object out of the parts, in order of their numbers."""

    @abstractmethod
    async def abort(self) -> None:
        """Drop the parts; nothing of the upload is left."""


def part_nbytes_for(nbytes: int | None) -> int:
    """Return a part size, in bytes, with which an object of this size stays within 10,000 parts."""
    if nbytes is None:
        return PART_NBYTES
    mebibytes = -(-nbytes // (MAX_PARTS << 20))
    return max(PART_NBYTES, mebibytes << 20)


async def upload_file(store: Store, key: str, path: Path) -> None:
    """Write a file as one object; see ``Store.put_file``."""
    nbytes = (await run_in_thread(path.stat)).st_size
    if nbytes <= SINGLE_PUT_NBYTES:
        await store.put(key, await run_in_thread(path.read_bytes))
        return
    fd = await open_in_thread(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC), os.close)
    try:
        async with _begun(store, key, nbytes) as upload:
            size = upload.part_nbytes

            async def send(number: int) -> None:
                async with slots:
                    await upload.put_part(
                        number, memoryview(await run_in_thread(_pread, fd, size, number * size))
                    )

            slots = asyncio.Semaphore(upload.concurrency)
            async with asyncio.TaskGroup() as group:
                for number in range(-(-nbytes // size)):
                    group.create_task(send(number))
    finally:
        os.close(fd)


async def upload_stream(store: Store, key: str, chunks: AsyncIterator[Buffer]) -> None:
    """Write what an iterator yields as one object; see ``Store.put_stream``."""
    async with aclosing(_parts(chunks, PART_NBYTES)) as parts:
        first = await anext(parts, None)
        if first is None or len(first) < PART_NBYTES:
            await store.put(key, first if first is not None else b"")
            return
        async with _begun(store, key, None) as upload:
            slots = asyncio.Semaphore(upload.concurrency)

            async def send(number: int, part: bytearray) -> None:
                try:
                    await upload.put_part(number, memoryview(part))
                finally:
                    slots.release()

            async with asyncio.TaskGroup() as group:
                number, part = 0, cast(bytearray | None, first)
                while part is not None:
                    # The slot is taken before the next part is gathered: it bounds the memory.
                    await slots.acquire()
                    group.create_task(send(number, part))
                    number, part = number + 1, await anext(parts, None)


@asynccontextmanager
async def _begun(store: Store, key: str, nbytes: int | None) -> AsyncIterator[Upload]:
    """Complete the upload when the block ends well; abort it in every other case."""
    upload = await store.open_upload(key, nbytes=nbytes)
    try:
        with single_error():
            yield upload
        await upload.complete()
    except BaseException as error:
        # Parts that are not aborted stay stored, and paid for, until someone looks.
        try:
            await upload.abort()
        except StoreError as left:
            error.add_note(f"the parts of {store.object_url(key)} could not be removed: {left}")
        raise


async def _parts(chunks: AsyncIterator[Buffer], nbytes: int) -> AsyncGenerator[bytearray, None]:
    """Yield the bytes of ``chunks`` in parts of exactly ``nbytes``, the last one shorter."""
    part = bytearray()
    async for chunk in chunks:
        view = memoryview(chunk).cast("B")
        while len(view):
            taken = view[: nbytes - len(part)]
            part += taken
            view = view[len(taken) :]
            if len(part) == nbytes:
                yield part
                part = bytearray()
    if part:
        yield part


def _pread(fd: int, nbytes: int, offset: int) -> bytes:
    pieces = []
    while nbytes and (piece := os.pread(fd, nbytes, offset)):
        pieces.append(piece)
        nbytes -= len(piece)
        offset += len(piece)
    return b"".join(pieces)
