"""Stores around a store, for tests: slow ones, faulty ones, watched ones."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from aiolit.store.base import ByteStream, Data, ObjectInfo, Store, buffers
from aiolit.store.wrapped import WrappedStore

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong with one call.

    Attributes:
        error: Raised; None: the call goes well, or stalls.
        after_nbytes: How many bytes of a read arrive first.
        stall: Never answer, until cancelled.
    """

    error: Exception | None = None
    after_nbytes: int = 0
    stall: bool = False


def in_turn(faults: Iterable[Fault | None]) -> Callable[[str, str], Fault | None]:
    """Return a choice for :class:`FaultStore`: one entry per call, then none for ever."""
    left = iter(faults)
    return lambda verb, key: next(left, None)


class FaultStore(WrappedStore):
    """Fail when told to.

    Args:
        inner: The store that does the work.
        choose: Called with the verb and the key of each call; returns its fault or None.
    """

    def __init__(self, inner: Store, choose: Callable[[str, str], Fault | None]) -> None:
        super().__init__(inner)
        self._choose = choose

    async def _maybe_fail(self, verb: str, key: str) -> None:
        fault = self._choose(verb, key)
        if fault is not None:
            await _happen(fault)

    async def head(self, key: str) -> ObjectInfo:
        await self._maybe_fail("head", key)
        return await self.inner.head(key)

    async def get(self, key: str) -> bytes:
        await self._maybe_fail("get", key)
        return await self.inner.get(key)

    async def get_range(self, key: str, start: int, end: int, *, etag: str | None = None) -> bytes:
        await self._maybe_fail("get_range", key)
        return await self.inner.get_range(key, start, end, etag=etag)

    async def read_into(
        self,
        key: str,
        start: int,
        out: memoryview,
        *,
        etag: str | None = None,
        on_etag: Callable[[str | None], None] | None = None,
        on_progress: Progress | None = None,
    ) -> str | None:
        fault = self._choose("read_into", key)
        wanted = out if fault is None else out[: fault.after_nbytes]
        version = etag
        if fault is None or len(wanted):
            version = await self.inner.read_into(
                key, start, wanted, etag=etag, on_etag=on_etag, on_progress=on_progress
            )
        if fault is not None:
            await _happen(fault)
        return version

    @asynccontextmanager
    async def stream(
        self, key: str, start: int = 0, *, etag: str | None = None
    ) -> AsyncIterator[ByteStream]:
        fault = self._choose("stream", key)
        if fault is not None and not fault.after_nbytes:
            await _happen(fault)
        async with self.inner.stream(key, start, etag=etag) as pieces:
            yield pieces if fault is None else _FaultyStream(pieces, fault)

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        fault = self._choose("list", prefix)
        left = fault.after_nbytes if fault is not None else -1
        async for info in self.inner.list(prefix, after=after):
            if left == 0 and fault is not None:
                await _happen(fault)
            left -= 1
            yield info

    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        await self._maybe_fail("put", key)
        await self.inner.put(key, data, if_absent=if_absent)

    async def copy(self, src: str, dst: str) -> None:
        await self._maybe_fail("copy", src)
        await self.inner.copy(src, dst)

    async def delete(self, key: str) -> None:
        await self._maybe_fail("delete", key)
        await self.inner.delete(key)


class _FaultyStream(ByteStream):
    def __init__(self, inner: ByteStream, fault: Fault) -> None:
        self.etag, self.size = inner.etag, inner.size
        self._inner, self._fault, self._left = inner, fault, fault.after_nbytes

    async def __anext__(self) -> bytes:
        if not self._left:
            await _happen(self._fault)
        piece = (await anext(self._inner))[: self._left]
        self._left -= len(piece)
        return piece


async def _happen(fault: Fault) -> None:
    if fault.stall:
        await asyncio.get_running_loop().create_future()
    if fault.error is not None:
        raise fault.error


class LatencyStore(WrappedStore):
    """Be as slow as a distant server.

    Args:
        inner: The store that does the work.
        latency_s: Before each answer, in seconds.
        bytes_per_s: Of one read; None: as fast as it goes.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        inner: Store,
        latency_s: float,
        *,
        bytes_per_s: float | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(inner)
        self._latency_s, self._bytes_per_s, self._sleep = latency_s, bytes_per_s, sleep

    async def _wait(self, nbytes: int = 0) -> None:
        await self._sleep(
            self._latency_s + (nbytes / self._bytes_per_s if self._bytes_per_s else 0)
        )

    async def head(self, key: str) -> ObjectInfo:
        await self._wait()
        return await self.inner.head(key)

    async def get(self, key: str) -> bytes:
        data = await self.inner.get(key)
        await self._wait(len(data))
        return data

    async def get_range(self, key: str, start: int, end: int, *, etag: str | None = None) -> bytes:
        await self._wait(end - start)
        return await self.inner.get_range(key, start, end, etag=etag)

    async def read_into(
        self,
        key: str,
        start: int,
        out: memoryview,
        *,
        etag: str | None = None,
        on_etag: Callable[[str | None], None] | None = None,
        on_progress: Progress | None = None,
    ) -> str | None:
        await self._wait(len(out))
        return await self.inner.read_into(
            key, start, out, etag=etag, on_etag=on_etag, on_progress=on_progress
        )

    @asynccontextmanager
    async def stream(
        self, key: str, start: int = 0, *, etag: str | None = None
    ) -> AsyncIterator[ByteStream]:
        await self._wait()
        async with self.inner.stream(key, start, etag=etag) as pieces:
            yield pieces

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        await self._wait()
        async for info in self.inner.list(prefix, after=after):
            yield info

    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        await self._wait(sum(map(len, buffers(data))))
        await self.inner.put(key, data, if_absent=if_absent)


@dataclass(frozen=True, slots=True)
class Request:
    """One call: the verb, the key, and the range of a read."""

    verb: str
    key: str
    start: int = 0
    end: int = 0


@dataclass(slots=True)
class Seen:
    """What a :class:`CountingStore` has seen.

    Attributes:
        requests: Every call, in order of its beginning.
        nbytes_read: How many bytes the reads brought.
        running: How many calls are under way.
        peak: How many were at most.
    """

    requests: list[Request] = field(default_factory=list)
    nbytes_read: int = 0
    running: int = 0
    peak: int = 0

    def by_verb(self) -> Counter[str]:
        """Count the calls of each verb."""
        return Counter(request.verb for request in self.requests)


class CountingStore(WrappedStore):
    """Watch what is asked of a store; see ``seen``."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.seen = Seen()

    @contextmanager
    def _counted(self, request: Request) -> Iterator[None]:
        seen = self.seen
        seen.requests.append(request)
        seen.running += 1
        seen.peak = max(seen.peak, seen.running)
        try:
            yield
        finally:
            seen.running -= 1

    async def head(self, key: str) -> ObjectInfo:
        with self._counted(Request("head", key)):
            return await self.inner.head(key)

    async def get(self, key: str) -> bytes:
        with self._counted(Request("get", key)):
            data = await self.inner.get(key)
        self.seen.nbytes_read += len(data)
        return data

    async def get_range(self, key: str, start: int, end: int, *, etag: str | None = None) -> bytes:
        with self._counted(Request("get_range", key, start, end)):
            data = await self.inner.get_range(key, start, end, etag=etag)
        self.seen.nbytes_read += len(data)
        return data

    async def read_into(
        self,
        key: str,
        start: int,
        out: memoryview,
        *,
        etag: str | None = None,
        on_etag: Callable[[str | None], None] | None = None,
        on_progress: Progress | None = None,
    ) -> str | None:
        def progress(count: int) -> None:
            self.seen.nbytes_read += count
            if on_progress is not None:
                on_progress(count)

        with self._counted(Request("read_into", key, start, start + len(out))):
            return await self.inner.read_into(
                key, start, out, etag=etag, on_etag=on_etag, on_progress=progress
            )

    @asynccontextmanager
    async def stream(
        self, key: str, start: int = 0, *, etag: str | None = None
    ) -> AsyncIterator[ByteStream]:
        with self._counted(Request("stream", key, start)):
            async with self.inner.stream(key, start, etag=etag) as pieces:
                yield _CountedStream(pieces, self.seen)

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        with self._counted(Request("list", prefix)):
            async for info in self.inner.list(prefix, after=after):
                yield info

    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        with self._counted(Request("put", key)):
            await self.inner.put(key, data, if_absent=if_absent)

    async def copy(self, src: str, dst: str) -> None:
        with self._counted(Request("copy", src)):
            await self.inner.copy(src, dst)

    async def delete(self, key: str) -> None:
        with self._counted(Request("delete", key)):
            await self.inner.delete(key)


class _CountedStream(ByteStream):
    def __init__(self, inner: ByteStream, seen: Seen) -> None:
        self.etag, self.size = inner.etag, inner.size
        self._inner, self._seen = inner, seen

    async def __anext__(self) -> bytes:
        piece = await anext(self._inner)
        self._seen.nbytes_read += len(piece)
        return piece
