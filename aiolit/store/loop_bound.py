"""Clients belong to the loop that opened them: another loop, or a forked child, opens its own."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar


class Closeable(Protocol):
    """Something open that is closed by awaiting ``aclose``."""

    async def aclose(self) -> None:
        """Close it."""


C = TypeVar("C", bound=Closeable)


@dataclass(slots=True)
class _OpenOnLoop:
    """What is open on one loop of one process.

    It is held from here, and not from the store alone, for two reasons. A client that dies in a
    forked child would close sockets and unhook descriptors that are its parent's; held for ever,
    it stays untouched. And a store that is forgotten by its user can still be closed, in order,
    when its loop ends.
    """

    pid: int
    loop: asyncio.AbstractEventLoop
    clients: dict[int, Closeable] = field(default_factory=dict)


_open: list[_OpenOnLoop] = []


def _here() -> _OpenOnLoop:
    loop, pid = asyncio.get_running_loop(), os.getpid()
    for entry in _open:
        if entry.loop is loop and entry.pid == pid:
            return entry
    _open[:] = [entry for entry in _open if entry.pid != pid or not entry.loop.is_closed()]
    entry = _OpenOnLoop(pid, loop)
    _open.append(entry)
    return entry


async def aclose_all() -> None:
    """Close every client that any store has open on the running loop.

    For whoever ends a loop: stores that nobody closed are closed here.
    """
    clients = _here().clients
    while clients:
        _, client = clients.popitem()
        await client.aclose()


class LoopBound(ABC, Generic[C]):
    """A picklable configuration that opens one client for each loop, on first use."""

    def __init__(self) -> None:
        self._pid = 0
        self._clients: dict[asyncio.AbstractEventLoop, C] = {}
        self._opening: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}

    @abstractmethod
    async def _open_client(self) -> C:
        """Open a client on the running loop."""

    async def _client(self) -> C:
        """Return the running loop's client; the first caller opens it, others wait for it."""
        loop = asyncio.get_running_loop()
        if self._pid != os.getpid():
            # Only the references go: the parent's clients stay alive in _open.
            self._pid, self._clients, self._opening = os.getpid(), {}, {}
        client = self._clients.get(loop)
        if client is not None:
            return client
        async with self._opening.setdefault(loop, asyncio.Lock()):
            if loop not in self._clients:
                self._forget_closed_loops()
                client = await self._open_client()
                _here().clients[id(client)] = client
                self._clients[loop] = client
        return self._clients[loop]

    async def aclose(self) -> None:
        """Close the client of the running loop, if there is one."""
        if self._pid != os.getpid():
            return
        loop = asyncio.get_running_loop()
        self._opening.pop(loop, None)
        client = self._clients.pop(loop, None)
        if client is not None and _here().clients.pop(id(client), None) is not None:
            await client.aclose()

    def _forget_closed_loops(self) -> None:
        for loop in [loop for loop in self._clients if loop.is_closed()]:
            del self._clients[loop]
        for loop in [loop for loop in self._opening if loop.is_closed()]:
            del self._opening[loop]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pid": 0, "_clients": {}, "_opening": {}}
