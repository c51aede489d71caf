"""What the statistics cost: an epoch of tiny records, with them and without.

    python -m benchmarks.stats_overhead

Twice: by counting how often a clock is read and a counter bumped, and timing these alone; and by
the CPU seconds of epochs with and without them, in turn, so that a slow minute of the machine hits
both. The first is the sharper figure: two epochs of the same work differ by more than what is
looked for. Clocks are taken away from outside, there is no switch for it in aiolit.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import timeit
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from aiolit.runtime.stats import Counters
from aiolit.streaming import batch_feed, dataloader, reading
from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset
from aiolit.testing.datasets import write_dataset

RECORDS, BATCH, ROUNDS = 300_000, 64, 25
BUMPS = 2  # of counters, for each batch


@contextmanager
def other_clock(clock: Callable[[], float]) -> Iterator[None]:
    """Have the reading path read another clock."""
    instead = mock.Mock(perf_counter=clock)
    with ExitStack() as stack:
        for module in (batch_feed, dataloader, reading):
            stack.enter_context(mock.patch.object(module, "time", instead))
        yield


def epoch(loader: StreamingDataLoader) -> float:
    """Return the CPU seconds of one epoch."""
    began = time.process_time()
    for _ in loader:
        pass
    return time.process_time() - began


def clock_reads(loader: StreamingDataLoader) -> int:
    """Count how often a clock is read in one epoch."""
    reads = 0

    def counting() -> float:
        nonlocal reads
        reads += 1
        return time.perf_counter()

    with other_clock(counting):
        epoch(loader)
    return reads


def alone(statement: str) -> float:
    """Return the seconds that a statement takes."""
    count, names = 100_000, {"stats": Counters(), "time": time}
    took = min(timeit.repeat(statement, globals=names, number=count))
    return (took - min(timeit.repeat("pass", number=count))) / count


def main() -> None:
    """Measure both ways and print what was found."""
    with tempfile.TemporaryDirectory() as place:
        records = ({"id": number, "value": number / 2} for number in range(RECORDS))
        folder = write_dataset(Path(place) / "records", records, chunk_size=50_000)
        loader = StreamingDataLoader(StreamingDataset(folder, shuffle=True), batch_size=BATCH)
        reads = clock_reads(loader)
        taken: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(ROUNDS):
            taken[True].append(epoch(loader))
            with other_clock(float):
                taken[False].append(epoch(loader))
    batches, median = RECORDS / BATCH, statistics.median(taken[True])
    clock, bump = alone("time.perf_counter()"), alone("stats.samples += 64")
    spent = reads * clock + BUMPS * batches * bump
    print(f"{RECORDS:,} records of two numbers in {batches:,.0f} batches, {ROUNDS} rounds:")
    print(f"  {reads:,} clock reads of {clock * 1e9:.0f} ns")
    print(f"  {BUMPS * batches:,.0f} bumps of {bump * 1e9:.0f} ns")
    print(f"  of {median * 1e3:.1f} ms CPU time an epoch (median): {100 * spent / median:.2f} %")
    for on, times in taken.items():
        name = "with clocks" if on else "without"
        spread = f"{min(times) * 1e3:.1f} to {max(times) * 1e3:.1f}"
        print(f"  {name:12} {statistics.median(times) * 1e3:.1f} ms ({spread})")


if __name__ == "__main__":
    main()
