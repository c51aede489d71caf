"""The protocol that every store keeps: objects below a URL, by key, asynchronously."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aiolit.store.upload import Upload, upload_file, upload_stream

Buffer = bytes | bytearray | memoryview
Data = Buffer | Sequence[Buffer]


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of an object without reading it.

    Attributes:
        key: Relative to the store's root.
        size: In bytes.
        etag: Changes whenever the bytes do; None where the store has no such thing.
        modified: Seconds since 1970, or None.
    """

    key: str
    size: int
    etag: str | None
    modified: float | None


class ByteStream(ABC, AsyncIterator[bytes]):
    """The bytes of one version of an object, piece by piece.

    Attributes:
        etag: The version, or None where the store has no such thing.
        size: How large the whole object is, in bytes, or None where the server does not say.
    """

    etag: str | None = None
    size: int | None = None


class Store(ABC):
    """Objects below a URL.

    A store is configuration until its first use: making one does no I/O, and it pickles. What it
    opens belongs to the running loop of this process; another loop, or a forked child, opens its
    own. Close it with ``async with`` or :meth:`aclose`, on the loop that used it.

    Keys are relative to the root, with ``/`` between their parts. Cancelling a call leaves no
    task, thread or connection behind, and no half-written object.

    Attributes:
        url: The root, for messages.
    """

    url: str

    @abstractmethod
    async def head(self, key: str) -> ObjectInfo:
        """Return what is known of the object.

        Raises:
            ObjectNotFoundError: There is none.
        """

    async def get(self, key: str) -> bytes:
        """Return the whole object."""
        async with self.stream(key) as pieces:
            return b"".join([piece async for piece in pieces])

    async def get_at_once(self, key: str) -> bytes:
        """Return the whole object, a small one: it is read again from its start where that fails,
        and with less ado than by ``get``."""
        return await self.get(key)

    async def get_range(self, key: str, start: int, end: int, *, etag: str | None = None) -> bytes:
        """Return the bytes ``[start, end)`` of the object: all of them, or an error.

        Args:
            key: The object.
            start: First byte.
            end: One past the last byte.
            etag: The version that is wanted; any, if None.

        Raises:
            RangeError: The object ends before ``end``, or the server cannot serve ranges.
            ShortBodyError: The body ended early.
            ObjectChangedError: The object is no longer of version ``etag``.
        """
        check_range(self, key, start, end)
        data = bytearray(end - start)
        await self.read_into(key, start, memoryview(data), etag=etag)
        return bytes(data)

    @abstractmethod
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
        """Fill ``out`` with the object's bytes from ``start`` on, and return the object's etag.

        Nothing is written to ``out`` after the call has returned, failed or been cancelled.

        Args:
            key: The object.
            start: First byte.
            out: Where the bytes go; its length says how many. No request is made for none.
            etag: The version that is wanted; any, if None.
            on_etag: Called with the etag, once, before the first byte.
            on_progress: Called with the number of bytes just added, in order.

        Raises:
            RangeError: The object ends too early, or the server cannot serve ranges.
            ShortBodyError: The body ended early.
            ObjectChangedError: The object is no longer of version ``etag``.
        """

    @abstractmethod
    def stream(
        self, key: str, start: int = 0, *, etag: str | None = None
    ) -> AbstractAsyncContextManager[ByteStream]:
        """Open the object from ``start`` to its end; leaving the block ends the transfer."""

    @abstractmethod
    def list(self, prefix: str = "", *, after: str = "") -> AsyncGenerator[ObjectInfo, None]:
        """Yield every object whose key begins with ``prefix``, by key, in ascending order.

        Args:
            prefix: Of the key, not of a folder: ``"a/b"`` also finds ``"a/bc"``.
            after: Leave out keys up to and including this one.
        """

    @abstractmethod
    async def put(self, key: str, data: Data, *, if_absent: bool = False) -> None:
        """Write a whole object; readers see the old one or the new one, never a part.

        Args:
            key: The object.
            data: One buffer, or several that follow each other.
            if_absent: Do not replace an object that is there.

        Raises:
            ObjectExistsError: There is one, and ``if_absent`` was given.
        """

    async def put_file(self, key: str, path: str | Path) -> None:
        """Write the file as an object, in concurrent parts when large.

        A failure or a cancellation leaves no part of it behind.
        """
        await upload_file(self, key, Path(path))

    async def put_stream(self, key: str, chunks: AsyncIterator[Buffer]) -> None:
        """Write what the iterator yields as one object.

        A failure, of the iterator too, or a cancellation leaves no part of it behind.
        """
        await upload_stream(self, key, chunks)

    @abstractmethod
    async def open_upload(self, key: str, *, nbytes: int | None = None) -> Upload:
        """Begin an upload in parts; nothing shows until it is completed.

        Args:
            key: The object.
            nbytes: Its size, where known: larger objects need larger parts.
        """

    @abstractmethod
    async def copy(self, src: str, dst: str) -> None:
        """Copy an object to another key of this store, without moving its bytes through here."""

    @abstractmethod
    async def delete(self, key: str) -> None:
        """Delete the object; a missing one is fine."""

    async def aclose(self) -> None:
        """Close what this store has open on the running loop; it may be used again afterwards."""
        return

    def object_url(self, key: str) -> str:
        """Return how messages name the object."""
        return f"{self.url.rstrip('/')}/{key}" if key else self.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"


def check_range(store: Store, key: str, start: int, end: int) -> None:
    """Refuse a range that no object can have.

    Raises:
        ValueError: ``start`` is negative or lies behind ``end``.
    """
    if not 0 <= start <= end:
        raise ValueError(f"no such range of {store.object_url(key)}: {start} to {end}")


def buffers(data: Data) -> list[memoryview]:
    """Return the buffers of ``data`` as flat views of bytes."""
    parts: Iterable[Buffer] = [data] if isinstance(data, bytes | bytearray | memoryview) else data
    return [memoryview(part).cast("B") for part in parts if len(part)]


def joined(data: Data) -> bytes:
    """Return ``data`` as one ``bytes``; no copy where it is one already."""
    return data if isinstance(data, bytes) else b"".join(buffers(data))
