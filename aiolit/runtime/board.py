"""Counters of several processes, side by side in shared memory."""

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
    bound = max(work, key=lambda name: work[name])
    if work[bound] < 0.5 * max(sum(work.values()), waited_s):
        bound = "data"
    return Verdict(bound, _ADVICE[bound])


_ADVICE = {
    "network": "chunks arrive too slowly; raise max_pre_download, use a nearer or faster store, or "
    "a cache that holds the data set (max_cache_size)",
    "decode": "samples are decoded too slowly; raise num_workers, or store them smaller or decoded",
    "data": "collating batches and moving them between processes takes the time; use arrays of one "
    "shape (collated column by column), larger batches, or fewer workers",
}
