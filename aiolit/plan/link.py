"""How many requests to have on the way, and how large each: what is measured of a link decides.

More requests are added while they bring more bytes, and half of them are given up when the server
asks for less: additive-increase/multiplicative-decrease as TCP does it (Chiu and Jain, 1989), with
the throughput as the signal, since a busy machine loses no packets.
"""

from __future__ import annotations

from dataclasses import dataclass

_SMOOTH = 0.25  # the weight of a new measure of latency or rate
_PIPES = 4  # a part takes so many times as long to receive as its first byte takes to come
_WINDOW_S = 0.5  # rates are compared over at least so long
_GROWTH = 1.5
_WORTH = 0.3  # so much of the added requests must show in the rate
_PATIENCE = 4  # windows before growing is tried again; doubled each time it was in vain
_MOST_PATIENCE = 64


@dataclass(slots=True)
class LinkModel:
    """What is known of the way to a store, in plain numbers; time is an argument.

    Args:
        limit: Requests to begin with.
        least: Never fewer than these.
        most: Never more than these.
        part_bytes: Bytes of a request to begin with.
        least_bytes: Never smaller than these.
        most_bytes: Never larger than these.

    Attributes:
        limit: How many requests to have on the way at once.
        part_bytes: How many bytes to ask for in one.
    """

    limit: int = 16
    least: int = 2
    most: int = 64
    part_bytes: int = 4 << 20
    least_bytes: int = 2 << 20
    most_bytes: int = 8 << 20
    _latency_s: float = 0.0
    _rate: float = 0.0  # of one request, in bytes per second
    _since: float | None = None
    _nbytes: int = 0
    _full: bool = True
    _before: tuple[int, float] | None = None  # the limit and rate before the last growth
    _rest: int = 0
    _patience: int = _PATIENCE

    def completed(
        self, nbytes: int, first_byte_s: float, seconds: float, now: float, *, waiting: bool
    ) -> None:
        """Take note of a request that ended well.

        Args:
            nbytes: What it brought.
            first_byte_s: How long its first byte took.
            seconds: How long it took in all.
            now: The time, in seconds.
            waiting: Whether others wait for its place: without them the limit tells nothing.
        """
        self._measure(nbytes, first_byte_s, seconds)
        if self._since is None:
            self._since, self._nbytes, self._full = now, 0, True
            return
        self._nbytes += nbytes
        self._full = self._full and waiting
        if now - self._since >= _WINDOW_S and self._nbytes >= self.limit * self.part_bytes:
            rate = self._nbytes / (now - self._since)
            if self._full:
                self._compare(rate)
            self._since, self._nbytes, self._full = now, 0, True

    def throttled(self) -> None:
        """Take note that the server asked for fewer requests; more of it at once counts once."""
        if self._since is None and self._rest:
            return
        self.limit = max(self.least, self.limit // 2)
        self._before, self._since, self._rest = None, None, self._patience

    def _measure(self, nbytes: int, first_byte_s: float, seconds: float) -> None:
        rate = nbytes / max(seconds - first_byte_s, 1e-6)
        weight = _SMOOTH if self._rate else 1.0
        self._latency_s += weight * (first_byte_s - self._latency_s)
        self._rate += weight * (rate - self._rate)
        wanted = int(_PIPES * self._latency_s * self._rate)
        self.part_bytes = min(max(wanted, self.least_bytes), self.most_bytes) >> 20 << 20

    def _compare(self, rate: float) -> None:
        if self._before is not None:
            (limit, known), self._before = self._before, None
            if rate < known * (1 + _WORTH * (self.limit / limit - 1)):
                self.limit, self._rest = limit, self._patience
                self._patience = min(2 * self._patience, _MOST_PATIENCE)
                return
            self._patience = _PATIENCE
        if self._rest:
            self._rest -= 1
        elif self.limit < self.most:
            self._before = self.limit, rate
            self.limit = min(self.most, max(self.limit + 1, int(self.limit * _GROWTH)))
