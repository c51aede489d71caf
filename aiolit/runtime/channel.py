"""Messages over a Unix socket: a picklable header and any number of raw buffers.

A frame is: three little-endian words (u32 header bytes, u32 buffers, u64 bytes of all buffers), the
size of each buffer as u64, the cloudpickled header, then the buffers, each padded to a multiple of
8 so that what is received into one allocation is aligned. Both ends belong to one program and trust
each other.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

import cloudpickle
import numpy as np

__all__ = ["AsyncChannel", "Channel", "ChannelClosedError", "ChannelLimitError", "ChannelLimits"]

BytesLike: TypeAlias = bytes | bytearray | memoryview
# What is one buffer at the other end: bytes, or pieces of it, which are not joined before.
Gathered: TypeAlias = BytesLike | list[BytesLike]

_PREFIX = struct.Struct("<IIQ")
_ALIGNMENT = 8
_PADDING = bytes(_ALIGNMENT)
# The kernel takes at most 1024 pieces in one sendmsg (IOV_MAX).
_PIECES = 1024
# Smaller pieces are joined: a system call costs more than the copy.
_JOIN_BELOW = 16384

# A message has three parts, and what lies in the socket's buffer is read with one call for each.
_READS_PER_TURN = 8


class ChannelClosedError(EOFError):
    """The other end is gone, or a message was cut short."""


class ChannelLimitError(ValueError):
    """A message is larger than the channel allows."""


@dataclass(frozen=True, slots=True)
class ChannelLimits:
    """What one message may measure; the receiver reserves nothing beyond it.

    Attributes:
        header_nbytes: Bytes of the pickled header.
        buffers: How many buffers.
        nbytes: Bytes of all buffers together.
    """

    header_nbytes: int = 256 * 2**20
    buffers: int = 2**16
    nbytes: int = 8 * 2**30

    def check(self, header_nbytes: int, buffers: int, nbytes: int) -> None:
        """Refuse a message that is too large.

        Raises:
            ChannelLimitError: It says which figure is beyond which limit.
        """
        for what, value, limit in (
            ("header bytes", header_nbytes, self.header_nbytes),
            ("buffers", buffers, self.buffers),
            ("bytes in buffers", nbytes, self.nbytes),
        ):
            if value > limit:
                raise ChannelLimitError(f"a message of {value} {what}; at most {limit} are allowed")


DEFAULT_LIMITS = ChannelLimits()


def encode(header: object, buffers: Sequence[Gathered], limits: ChannelLimits) -> list[memoryview]:
    """Lay a message out as the pieces to send, in order; large ones are not copied."""
    parts = [
        [_flat(part) for part in (buffer if isinstance(buffer, list) else [buffer])]
        for buffer in buffers
    ]
    sizes = [sum(view.nbytes for view in views) for views in parts]
    pickled = cloudpickle.dumps(header)
    total = sum(sizes)
    limits.check(len(pickled), len(sizes), total)
    head = _PREFIX.pack(len(pickled), len(sizes), total)
    pieces = [memoryview(head + struct.pack(f"<{len(sizes)}Q", *sizes) + pickled)]
    for views, size in zip(parts, sizes, strict=True):
        pieces += [view for view in views if view.nbytes]
        if padding := -size % _ALIGNMENT:
            pieces.append(memoryview(_PADDING)[:padding])
    return _joined(pieces)


class _Frame:
    """The receiving half of one message: which buffer to fill next, without any I/O."""

    def __init__(self, limits: ChannelLimits) -> None:
        self._limits = limits
        self._next = self._after_prefix
        self._begun = False
        self.done = False
        self._want(_PREFIX.size)

    def _want(self, nbytes: int) -> None:
        # numpy takes memory and does not touch it: the bytes to come are its first.
        self.target = np.empty(nbytes, np.uint8).data
        self.filled = 0

    def advance(self, nbytes: int) -> None:
        """Count bytes received into ``target[filled:]``; none means that the other end is gone."""
        if not nbytes:
            how = "in the middle of a message" if self._begun else "between two messages"
            raise ChannelClosedError(f"the other end of the channel is gone, {how}")
        self._begun = True
        self.filled += nbytes
        while not self.done and self.filled == self.target.nbytes:
            self._next()

    def _after_prefix(self) -> None:
        self._header_nbytes, count, total = _PREFIX.unpack(self.target)
        self._limits.check(self._header_nbytes, count, total)
        self._count, self._total = count, total
        self._next = self._after_header
        self._want(8 * count + self._header_nbytes)

    def _after_header(self) -> None:
        at = 8 * self._count
        self._sizes = struct.unpack(f"<{self._count}Q", self.target[:at])
        if sum(self._sizes) != self._total:
            raise ChannelLimitError("a message whose buffers do not add up to its size")
        self._pickled = self.target[at:]
        self._next = self._after_buffers
        self._want(sum(_padded(size) for size in self._sizes))

    def _after_buffers(self) -> None:
        self.done = True

    def message(self) -> tuple[Any, list[memoryview]]:
        """Take the complete message apart."""
        ends = list(accumulate(_padded(size) for size in self._sizes))
        starts = [0, *ends[:-1]]
        parts = zip(starts, self._sizes, strict=False)
        return cloudpickle.loads(self._pickled), [self.target[at : at + size] for at, size in parts]


def _padded(nbytes: int) -> int:
    return nbytes + -nbytes % _ALIGNMENT


def _flat(buffer: BytesLike) -> memoryview:
    view = memoryview(buffer)
    return view.cast("B") if view.nbytes else memoryview(b"")  # an empty view cannot be cast


def _joined(pieces: list[memoryview]) -> list[memoryview]:
    """Copy small neighbours together into one piece, so that one system call sends them."""
    joined: list[memoryview] = []
    small: list[memoryview] = []
    for piece in pieces:
        if piece.nbytes < _JOIN_BELOW:
            small.append(piece)
            continue
        if small:
            joined.append(memoryview(b"".join(small)))
            small = []
        joined.append(piece)
    if small:
        joined.append(memoryview(b"".join(small)))
    return joined


class Channel:
    """The blocking end, for a worker process: one thread, plain calls."""

    def __init__(self, sock: socket.socket, limits: ChannelLimits = DEFAULT_LIMITS) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._limits = limits

    def send(self, header: object, buffers: Sequence[Gathered] = ()) -> None:
        """Send a message straight from the buffers and return when the kernel has all of it.

        A list of buffers arrives as one.

        Raises:
            ChannelLimitError: It is too large; nothing was sent.
            ChannelClosedError: The other end is gone.
        """
        pieces = encode(header, buffers, self._limits)
        at = 0
        try:
            while at < len(pieces):
                sent = self._sock.sendmsg(pieces[at : at + _PIECES])
                while at < len(pieces) and sent >= pieces[at].nbytes:
                    sent -= pieces[at].nbytes
                    at += 1
                if sent:
                    pieces[at] = pieces[at][sent:]
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosedError("the other end of the channel is gone") from error

    def recv(self) -> tuple[Any, list[memoryview]]:
        """Wait for a message; its buffers are writable views into one allocation.

        Raises:
            ChannelClosedError: The other end is gone.
            ChannelLimitError: The message is too large; the channel is of no use any more.
        """
        frame = _Frame(self._limits)
        while not frame.done:
            try:
                frame.advance(self._sock.recv_into(frame.target[frame.filled :]))
            except ConnectionResetError as error:
                raise _as_closed(error) from error
        return frame.message()

    def close(self) -> None:
        """Close this end; again is harmless."""
        self._sock.close()


class AsyncChannel:
    """The event loop's end. One task may send while another receives.

    A cancelled ``recv`` loses nothing: the next one goes on where it stopped. A cancelled ``send``
    leaves half a message behind, so the channel refuses further ones.
    """

    def __init__(self, sock: socket.socket, limits: ChannelLimits = DEFAULT_LIMITS) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._limits = limits
        self._frame = _Frame(limits)
        self._receiving = False
        self._sending = False
        self._broken = False
        self._waiter: asyncio.Future[None] | None = None

    async def recv(self) -> tuple[Any, list[memoryview]]:
        """Wait for a message; its buffers are writable views into one allocation.

        Raises:
            ChannelClosedError: The other end is gone, or this one was closed.
            ChannelLimitError: The message is too large; the channel is of no use any more.
        """
        if self._receiving:
            raise RuntimeError("another task is receiving from this channel")
        self._receiving = True
        try:
            if not self._frame.done:
                await self._frame_done()
            frame, self._frame = self._frame, _Frame(self._limits)
        finally:
            self._receiving = False
        return frame.message()

    async def _frame_done(self) -> None:
        fd = self._sock.fileno()
        if fd < 0:
            raise ChannelClosedError("this end of the channel has been closed")
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        loop.add_reader(fd, self._fill, self._waiter)
        try:
            await self._waiter
        finally:
            self._stop_reading()

    def _fill(self, waiter: asyncio.Future[None]) -> None:
        """Read a few times at most, so that a fast sender cannot keep the loop for itself.

        Not only once: where the other end has died with unread messages of ours, uvloop calls only
        once, and what it had sent before, less than a socket's buffer, is still to be read.
        """
        frame = self._frame
        try:
            for _ in range(_READS_PER_TURN):
                if not frame.done:
                    frame.advance(self._sock.recv_into(frame.target[frame.filled :]))
        except (BlockingIOError, InterruptedError):
            return
        except (ConnectionResetError, ChannelClosedError, ChannelLimitError) as error:
            self._stop_reading()
            if not waiter.done():
                waiter.set_exception(_as_closed(error))
        if frame.done:
            self._stop_reading()
            if not waiter.done():
                waiter.set_result(None)

    def _stop_reading(self) -> None:
        if self._waiter is not None:
            self._waiter.get_loop().remove_reader(self._sock.fileno())
            self._waiter = None

    async def send(self, header: object, buffers: Sequence[BytesLike] = ()) -> None:
        """Send a message straight from the buffers.

        Raises:
            ChannelLimitError: It is too large; nothing was sent.
            ChannelClosedError: The other end is gone, this one was closed, or an earlier send was
                cancelled halfway.
        """
        self._check_sendable()
        await self._send(encode(header, buffers, self._limits))

    async def send_line(self, line: bytes) -> None:
        """Send bytes and a line end outside any message, for a reader that has no channel yet."""
        self._check_sendable()
        await self._send([memoryview(line + b"\n")])

    def _check_sendable(self) -> None:
        if self._sending:
            raise RuntimeError("another task is sending on this channel")
        if self._broken:
            raise ChannelClosedError("an earlier message was cut short")
        if self._sock.fileno() < 0:
            raise ChannelClosedError("this end of the channel has been closed")

    async def _send(self, pieces: list[memoryview]) -> None:
        loop = asyncio.get_running_loop()
        self._sending = self._broken = True
        try:
            for piece in pieces:
                await loop.sock_sendall(self._sock, piece)
            self._broken = False
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ChannelClosedError("the other end of the channel is gone") from error
        finally:
            self._sending = False

    def close(self) -> None:
        """Close this end; the other one sees the end of the stream. Again is harmless."""
        waiter = self._waiter
        self._stop_reading()
        with suppress(OSError):  # it is closed, or the other end is gone
            # A forked child may have a copy of this end, which closing leaves open.
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        if waiter is not None and not waiter.done():
            waiter.set_exception(ChannelClosedError("this end of the channel has been closed"))


def _as_closed(error: Exception) -> Exception:
    if isinstance(error, ConnectionResetError):
        return ChannelClosedError("the other end of the channel is gone")
    return error
