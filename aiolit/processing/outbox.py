"""In the worker: collect the encoded samples of a run into pieces and send them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from time import perf_counter

from aiolit.processing.protocol import Bytes, Kind, PieceMeta
from aiolit.runtime.channel import Channel

__all__ = ["FLUSH_BYTES", "FLUSH_S", "Outbox"]

FLUSH_BYTES = 1 << 20
FLUSH_S = 0.1
_SMALL_PART = 4096  # bytes, on average


class Outbox:
    """The samples of one run that are not sent yet.

    A piece leaves when it holds `FLUSH_BYTES`, or when `FLUSH_S` seconds have passed since the
    last one: a long input neither fills memory nor looks dead.
    """

    def __init__(self, run: int, channel: Channel) -> None:
        self._run = run
        self._channel = channel
        self._started = self._flushed = perf_counter()
        self._sizes = array("q")
        self._dims = array("q")
        self._parts: list[Bytes] = []
        self._nbytes = 0
        self._counts: list[int] = []
        self._open = False

    def add(self, parts: Sequence[Bytes], nbytes: int, dim: int | None) -> None:
        """Take a sample of the current input; a full piece is sent at once."""
        if not self._open:
            self._counts.append(0)
            self._open = True
        self._counts[-1] += 1
        self._sizes.append(nbytes)
        if dim is not None:
            self._dims.append(dim)
        self._parts.extend(parts)
        self._nbytes += nbytes
        if self._nbytes >= FLUSH_BYTES or perf_counter() - self._flushed >= FLUSH_S:
            self.flush()

    def input_done(self) -> None:
        """Take note that the current input has given all its samples."""
        if not self._open:
            self._counts.append(0)
        self._open = False
        if perf_counter() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self, *, ended: bool = False) -> None:
        """Send what is there; with ``ended`` the run is complete."""
        if not self._counts and not ended:
            return
        now = perf_counter()
        meta = PieceMeta(
            run=self._run,
            counts=self._counts,
            complete=not self._open,
            ended=ended,
            num_samples=len(self._sizes),
            has_dims=bool(self._dims),
            seconds=now - self._started,
        )
        self._flushed = now
        # Small parts are many: to join them costs less than to send each.
        small = self._nbytes < _SMALL_PART * len(self._parts)
        data = b"".join(self._parts) if small else self._parts
        sizes, dims = memoryview(self._sizes), memoryview(self._dims)
        self._channel.send((Kind.PIECE, meta), [sizes, dims, data])
        self._sizes, self._dims = array("q"), array("q")
        self._parts, self._nbytes = [], 0
        # An open input goes on in the next piece, which counts its further samples.
        self._counts = [0] if self._open else []
