"""An object of a store as a file that is read forward, fetched while its reader works."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from aiolit.groups import single_error
from aiolit.runtime.portal import Portal, portal
from aiolit.store.base import Store

_BLOCK_BYTES = 4 << 20
_AHEAD = 2  # blocks


@contextmanager
def open_forward(store: Store, key: str) -> Iterator[io.BufferedReader]:
    """Open an object as a file; bytes are fetched ahead, a few megabytes of them.

    Raises:
        StoreError: It cannot be read; also when the file is read.

    Leaving the block ends the transfer and closes the store.
    """
    gate = portal()
    with gate.wrap_async_context_manager(_open_blocks(store, key)) as blocks:
        yield io.BufferedReader(_Forward(gate, blocks), _BLOCK_BYTES)


@asynccontextmanager
async def _open_blocks(store: Store, key: str) -> AsyncIterator[asyncio.Queue[Any]]:
    blocks: asyncio.Queue[bytes | Exception] = asyncio.Queue(_AHEAD)

    async def fetch() -> None:
        try:
            block = bytearray()
            async with store.stream(key) as pieces:
                async for piece in pieces:
                    block += piece
                    if len(block) >= _BLOCK_BYTES:
                        await blocks.put(bytes(block))
                        block.clear()
            if block:
                await blocks.put(bytes(block))
        except Exception as error:  # noqa: BLE001  raised to whoever reads the file
            await blocks.put(error)
        else:
            await blocks.put(b"")

    async with store:
        with single_error():
            async with asyncio.TaskGroup() as group:
                fetcher = group.create_task(fetch())
                yield blocks
                fetcher.cancel()


class _Forward(io.RawIOBase):
    def __init__(self, gate: Portal, blocks: asyncio.Queue[bytes | Exception]) -> None:
        self._gate, self._blocks = gate, blocks
        self._left = memoryview(b"")
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left and not self._ended:
            block = self._gate.call(self._blocks.get)
            if isinstance(block, Exception):
                raise block
            self._left, self._ended = memoryview(block), not block
        part = self._left[: len(buffer)]
        buffer[: len(part)] = part
        self._left = self._left[len(part) :]
        return len(part)
