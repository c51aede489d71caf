"""A store that tries again: from the byte it reached, patiently, but not for ever."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from aiolit.errors import (
    ConfigError,
    ObjectChangedError,
    ShortBodyError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from aiolit.plan.backoff import Backoff, next_wait_s
from aiolit.store.base import (
    Buffer,
    ByteStream,
    Data,
    ObjectInfo,
    Store,
    buffers,
)
from aiolit.store.hedge import HedgedRead, Progress
from aiolit.store.upload import Upload, upload_file, upload_stream
from aiolit.store.wrapped import WrappedStore

T = TypeVar("T")
Clock = Callable[[], float]
Sleep = Callable[[float], Awaitable[None]]

WORTH_A_RETRY = (StoreUnavailableError, StoreTimeoutError, ShortBodyError)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When to try again and when to stop.

    Attributes:
        backoff: How the waits between attempts grow.
        give_up_after_s: The longest time without a new byte, in seconds, however often it failed.
        give_up_unreached_after_s: The same while no connection comes about at all (an unknown
            host, a refused connection): most often a wrong endpoint, so shorter.
        hedge_after_s: Make a second request for the rest of a read when no byte has come for so
            long, in seconds, and keep the one that moves first. None: never.
    """

    backoff: Backoff = field(default_factory=Backoff)
    give_up_after_s: float = 120.0
    give_up_unreached_after_s: float = 20.0
    hedge_after_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("give_up_after_s", "hedge_after_s"):
            value = getattr(self, name)
            given = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (given and value >= 0):
                raise ConfigError(f"{name} must be a number of seconds, not {value!r}")

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """Make a policy of what users may say, under the names of ``RETRY_NAMES``."""
        policy = cls(**{name: value for name, value in options.items() if value is not None})
        unreached = min(policy.give_up_after_s, policy.give_up_unreached_after_s)
        return replace(policy, give_up_unreached_after_s=unreached)


def _random() -> float:
    # From the system: forked workers share the state of `random`, and would wait in step.
    return int.from_bytes(os.urandom(7), "big") / (1 << 56)


class RetryStore(WrappedStore):
    """Try again what failed on the way, with jittered back-off.

    Reads go on from the byte they reached, under the etag of their first response, so that an
    object replaced meanwhile is an ``ObjectChangedError`` and not a mixture. What cannot be
    repeated without harm (``put(if_absent=True)``) is tried once. A missing object or a
    refused access fails at once. An error that ends it says how many attempts it took.

    Args:
        inner: The store that does the work.
        policy: When to try again and when to stop.
        clock: Seconds, monotonic.
        sleep: Waits for some seconds.
        random: A number in [0, 1).
        on_retry: Called with the error each time an attempt has failed and another will be made.
        on_hedge: Called each time a second request is made for a read that has stalled.
    """

    def __init__(
        self,
        inner: Store,
        policy: RetryPolicy | None = None,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = asyncio.sleep,
        random: Callable[[], float] = _random,
        on_retry: Callable[[StoreError], None] | None = None,
        on_hedge: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(inner)
        self.policy = policy if policy is not None else RetryPolicy()
        self.on_retry, self.on_hedge = on_retry, on_hedge
        self._clock, self._sleep, self._random = clock, sleep, random

    async def head(self, key: str) -> ObjectInfo:
        return await self.persist(key, lambda: self.inner.head(key))

    async def get(self, key: str) -> bytes:
        """Return the whole object; see ``Store.get``."""
        if self.policy.hedge_after_s is None:
            return await Store.get(self, key)
        tries, data = self.begin(key), bytearray()
        version: str | None = None
        size: int | None = None

        async def read(progress: Progress) -> str | None:
            nonlocal version, size
            async with self.inner.stream(key, len(data), etag=version) as pieces:
                async for piece in pieces:
                    # The version that counts is that of the request whose byte came first.
                    if not data:
                        version, size = pieces.etag, pieces.size
                    elif pieces.size not in (None, size):
                        raise _changed(self.object_url(key))
                    progress(len(piece))
                    data.extend(piece)
            return version

        while True:
            try:
                await self._attempt(read, lambda _: tries.progressed())
            except WORTH_A_RETRY as error:
                if not data or len(data) != size:
                    await tries.again(error)
                    continue
            except StoreError as error:
                tries.end(error)
            return bytes(data)

    async def get_at_once(self, key: str) -> bytes:
        if self.policy.hedge_after_s is not None:  # which is for reads that can go on
            return await self.get(key)
        return await self.persist(key, lambda: self.inner.get_at_once(key))

    async def get_range(self, key: str, start: int, end: int, *, etag: str | None = None) -> bytes:
        return await Store.get_range(self, key, start, end, etag=etag)

    async def read_into(
        self,
        key: str,
        start: int,
        out: memoryview,
        *,
        etag: str | None = None,
        on_etag: Callable[[str | None], None] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> str | None:
        """Fill ``out``; see ``Store.read_into``."""
        tries = self.begin(key)
        done, version = 0, etag

        def advance(count: int) -> None:
            nonlocal done
            done += count
            tries.progressed()
            if on_progress is not None:
                on_progress(count)

        async def read(progress: Callable[[int], None]) -> str | None:
            offered: str | None = None

            def begun(etag: str | None) -> None:
                nonlocal offered
                offered = etag

            def moved(count: int) -> None:
                # The version that counts is that of the request whose byte came first.
                nonlocal version
                version = version if version is not None else offered
                if done == 0 and on_etag is not None:
                    on_etag(version)
                progress(count)

            return await self.inner.read_into(
                key, start + done, out[done:], etag=version, on_etag=begun, on_progress=moved
            )

        while True:
            try:
                return await self._attempt(read, advance)
            except WORTH_A_RETRY as error:
                if done == len(out):
                    return version  # all of it came; what failed was the end of the transfer
                await tries.again(error)
            except StoreError as error:
                tries.end(error)

    async def _attempt(
        self, read: Callable[[Progress], Awaitable[str | None]], advance: Progress
    ) -> str | None:
        if self.policy.hedge_after_s is None:
            return await read(advance)
        hedged = HedgedRead(
            read, advance, self.policy.hedge_after_s, self._clock, self._sleep, self.on_hedge
        )
        return await hedged.run()

    @asynccontextmanager
    async def stream(
        self, key: str, start: int = 0, *, etag: str | None = None
    ) -> AsyncIterator[ByteStream]:
        """Open the object from ``start`` to its end; see ``Store.stream``."""
        pieces = _ResumingStream(self, key, start, etag)
        try:
            await pieces.open()
            yield pieces
        finally:
            await pieces.aclose()

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        """Yield every object below the prefix; a failed page is asked for again."""
        tries = self.begin(prefix)
        while True:
            try:
                async with aclosing(self.inner.list(prefix, after=after)) as page:
                    async for info in page:
                        tries.progressed()
                        after = info.key
                        yield info
            except WORTH_A_RETRY as error:
                await tries.again(error)
            else:
                return

    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        if if_absent:
            # After a lost answer, a second try would find the first one's object.
            await self.inner.put(key, data, if_absent=True)
            return
        parts = buffers(data)
        await self.persist(key, lambda: self.inner.put(key, parts))

    async def put_file(self, key: str, path: str | Path) -> None:
        await upload_file(self, key, Path(path))

    async def put_stream(self, key: str, chunks: AsyncIterator[Buffer]) -> None:
        await upload_stream(self, key, chunks)

    async def open_upload(self, key: str, *, nbytes: int | None = None) -> Upload:
        upload = await self.persist(key, lambda: self.inner.open_upload(key, nbytes=nbytes))
        return _RetryUpload(self, key, upload)

    async def copy(self, src: str, dst: str) -> None:
        await self.persist(src, lambda: self.inner.copy(src, dst))

    async def delete(self, key: str) -> None:
        await self.persist(key, lambda: self.inner.delete(key))

    async def persist(self, key: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeat one whole, idempotent call."""
        tries = self.begin(key)
        while True:
            try:
                return await attempt()
            except WORTH_A_RETRY as error:
                await tries.again(error)
            except StoreError as error:
                tries.end(error)

    def begin(self, key: str) -> Tries:
        """Begin to count the attempts of one operation."""
        return Tries(
            url=self.object_url(key),
            policy=self.policy,
            clock=self._clock,
            sleep=self._sleep,
            random=self._random,
            on_retry=self.on_retry,
        )


class Tries:
    """The attempts of one operation: how many, since when, and whether to go on."""

    def __init__(
        self,
        *,
        url: str,
        policy: RetryPolicy,
        clock: Clock,
        sleep: Sleep,
        random: Callable[[], float],
        on_retry: Callable[[StoreError], None] | None,
    ) -> None:
        self._url, self._policy, self._on_retry = url, policy, on_retry
        self._clock, self._sleep, self._random = clock, sleep, random
        self._began = self._last_byte = clock()
        self._attempts = 0
        self._failures = 0

    def progressed(self) -> None:
        """Note that something new has arrived."""
        self._last_byte = self._clock()
        self._failures = 0

    async def again(self, error: StoreError) -> None:
        """Wait for the next attempt, or end the operation.

        Raises:
            StoreError: Of the kind of ``error``: it has gone on for too long.
        """
        self._attempts += 1
        self._failures += 1
        now = self._clock()
        retry_after_s = error.retry_after_s if isinstance(error, StoreUnavailableError) else None
        wait_s = next_wait_s(
            self._policy.backoff,
            failures=self._failures,
            rng=self._random(),
            retry_after_s=retry_after_s,
            idle_s=now - self._last_byte,
            give_up_after_s=self._policy.give_up_after_s
            if error.reached
            else self._policy.give_up_unreached_after_s,
        )
        if wait_s is None:
            raise self._final(error, now, retry_after_s) from error
        log.debug("attempt %d failed, next in %.2f s: %s", self._attempts, wait_s, error)
        if self._on_retry is not None:
            self._on_retry(error)
        await self._sleep(wait_s)

    def end(self, error: StoreError) -> NoReturn:
        """Raise what ends the operation; where other attempts went before, it says so.

        Raises:
            StoreError: ``error``, or one of its kind.
        """
        attempts, seconds = self._attempts + 1, self._clock() - self._began
        if attempts > 1:
            message = f"{error} (attempt {attempts}, {seconds:.1f} s after the first)"
            raise type(error)(message, url=self._url, attempts=attempts, seconds=seconds) from error
        error.seconds = seconds
        raise error

    def _final(self, error: StoreError, now: float, retry_after_s: float | None) -> StoreError:
        seconds, idle = now - self._began, now - self._last_byte
        asked = f"; the server asks to wait {retry_after_s:.0f} s" if retry_after_s else ""
        final = type(error)(
            f"{error} (gave up on {self._url} after {self._attempts} attempts in {seconds:.1f} s, "
            f"the last {idle:.1f} s without progress{asked})",
            url=self._url,
            attempts=self._attempts,
            seconds=seconds,
        )
        final.reached = error.reached
        return final


class _ResumingStream(ByteStream):
    """The pieces of an object over as many transfers as it takes."""

    def __init__(self, store: RetryStore, key: str, start: int, etag: str | None) -> None:
        self.etag = etag
        self._store, self._key, self._at = store, key, start
        self._tries = store.begin(key)
        self._context: AbstractAsyncContextManager[ByteStream] | None = None
        self._pieces: ByteStream | None = None

    async def open(self) -> ByteStream:
        while True:
            context = self._store.inner.stream(self._key, self._at, etag=self.etag)
            try:
                pieces = await context.__aenter__()
            except WORTH_A_RETRY as error:
                await self._tries.again(error)
                continue
            except StoreError as error:
                self._tries.end(error)
            self._context, self._pieces = context, pieces
            if self.size is not None and pieces.size not in (None, self.size):
                raise _changed(self._store.object_url(self._key))
            self.etag, self.size = pieces.etag, pieces.size
            return pieces

    async def __anext__(self) -> bytes:
        while True:
            try:
                piece = await anext(self._pieces or await self.open())
            except WORTH_A_RETRY as error:
                await self.aclose()
                if self._at == self.size:
                    raise StopAsyncIteration from None
                await self._tries.again(error)
                continue
            self._at += len(piece)
            self._tries.progressed()
            return piece

    async def aclose(self) -> None:
        context, self._context, self._pieces = self._context, None, None
        if context is not None:
            await context.__aexit__(None, None, None)


def _changed(url: str) -> ObjectChangedError:
    return ObjectChangedError(f"{url} was replaced while it was read", url=url)


class _RetryUpload(Upload):
    """Each part is tried again by itself."""

    def __init__(self, store: RetryStore, key: str, inner: Upload) -> None:
        self.part_nbytes, self.concurrency = inner.part_nbytes, inner.concurrency
        self._store, self._key, self._inner = store, key, inner

    async def put_part(self, number: int, data: memoryview) -> None:
        await self._store.persist(self._key, lambda: self._inner.put_part(number, data))

    async def complete(self) -> None:
        await self._store.persist(self._key, self._inner.complete)

    async def abort(self) -> None:
        await self._store.persist(self._key, self._inner.abort)
