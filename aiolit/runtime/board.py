"""What a training loop waits for, told from counters."""

from __future__ import annotations

from dataclasses import dataclass

from aiolit.runtime.stats import Counters


@dataclass(frozen=True, slots=True)
class Verdict:
    """What holds a loop up, and what to do about it.

    Attributes:
        bound: ``"consumer"``, ``"network"``, ``"decode"`` or ``"data"``.
        advice: One sentence that names the knob to turn.
    """

    bound: str
    advice: str

    def __str__(self) -> str:
        return f"{self.bound}-bound: {self.advice}"


def judge(counters: Counters, waited_s: float, seconds: float) -> Verdict:
    """Say what a training loop waits for.

    Args:
        counters: Of all processes that read, added up.
        waited_s: How long the loop waited for batches.
        seconds: How long the loop has run.
    """
    if seconds <= 0 or waited_s < 0.1 * seconds:
        return Verdict("consumer", "batches are there before they are asked for; nothing to turn")
    work = {
        "network": counters.wait_seconds,
        "decode": counters.decode_seconds,
        "data": counters.collate_seconds,
    }
    most = max(work, key=lambda name: work[name])
    if work[most] < 0.5 * max(sum(work.values()), waited_s):
        return Verdict("data", _MOVING)
    if most == "network" and not counters.requests:
        return Verdict("data", _DISK)
    return Verdict(most, _ADVICE[most])


_MOVING = (
    "collating batches and moving them between processes takes the time; use arrays of one shape "
    "(collated column by column), larger batches, or fewer num_workers"
)
_DISK = (
    "chunks are read from the disk too slowly; keep them on a faster one, write larger chunks, or "
    "raise num_workers"
)
_ADVICE = {
    "network": "chunks arrive too slowly; raise max_pre_download, use a nearer or faster store, or "
    "a cache that holds the data set (max_cache_size)",
    "decode": "samples are decoded and transformed too slowly; raise num_workers (or, where that "
    "releases the GIL as JPEG decoders do, decode_threads), or store samples smaller or decoded",
    "data": _MOVING,
}
