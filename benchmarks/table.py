"""The tables: one line a contender, medians of the rounds."""

from __future__ import annotations

__all__ = ["Measured", "table"]

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence

from benchmarks.rows import Row


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of one contender."""

    samples: int
    seconds: float
    """From the first line of the contender's own code, imports done, to the last batch or byte."""
    cpu_s: float
    """Of all its processes, in that time."""
    peak_bytes: int
    nbytes: int | None = None
    """Of the samples that were read, fetched or written; None where that is not known."""
    first_batch_s: float | None = None
    since_exec_s: float | None = None
    """From the start of the interpreter, imports included, to the first batch."""
    startup_s: float = 0.0
    """Of a job of writing: until the first sample was asked for."""
    median_ms: float | None = None
    p95_ms: float | None = None
    fetched_bytes: int | None = None
    """What the server sent; None where the data is on the disk."""
    sent_bytes: int | None = None
    """What the server received."""
    requests: int | None = None
    connections: int | None = None

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.samples / self.seconds

    @property
    def rate_after_start(self) -> float:
        """Samples per second, without the time until the first sample was asked for."""
        return self.samples / (self.seconds - self.startup_s)


Runs = Sequence[Measured]
Column = tuple[str, Callable[[str], str]]
"""A header, and the cell of a contender."""


def table(row: Row, runs: Mapping[str, Runs]) -> str:
    """The row as text: one line a contender, medians, with the slowest and the fastest run."""
    columns = _columns(row, runs)
    lines = [["", *(header for header, _ in columns)]]
    lines += [[label, *(cell(label) for _, cell in columns)] for label in runs]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    text = [f"{row.title}  [{row.name}]"]
    for name, *line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths[1:], strict=True)]
        text.append("  ".join(["", name.ljust(widths[0]), *cells]))
    return "\n".join(text)


def _columns(row: Row, runs: Mapping[str, Runs]) -> list[Column]:
    made = _Cells(runs)
    rate = "MB/s" if row.task == "fetch" else "samples/s"
    of_rate = _megabytes_per_second if row.task == "fetch" else _rate
    columns: list[Column] = [
        (rate, made.median(of_rate, "{:,.0f}")),
        ("(min-max)", made.spread(of_rate)),
        ("of limit", made.ratio(_rate, row.contenders[0])),
    ]
    if "litdata" in row.contenders:
        columns.append(("of litdata", made.ratio(_rate, "litdata")))
    if row.task == "write":
        columns += [
            ("start s", made.median(lambda run: run.startup_s, "{:.2f}")),
            ("then samples/s", made.median(lambda run: run.rate_after_start, "{:,.0f}")),
            ("of limit", made.ratio(lambda run: run.rate_after_start, row.contenders[0])),
            ("of litdata", made.ratio(lambda run: run.rate_after_start, "litdata")),
            ("MB/s", made.median(_megabytes_per_second, "{:,.0f}")),
        ]
    elif row.task != "fetch":
        columns.append(("first batch s", made.median(lambda run: run.first_batch_s, "{:.3f}")))
    if row.task == "first":
        columns.append(("with imports", made.median(lambda run: run.since_exec_s, "{:.2f}")))
    if row.task == "random":
        columns.append(("median ms", made.median(lambda run: run.median_ms, "{:.2f}")))
        columns.append(("p95 ms", made.median(lambda run: run.p95_ms, "{:.2f}")))
    if row.remote:
        columns += _network_columns(row, made)
    if row.job.get("decode"):
        columns.append(("cores busy", made.median(lambda run: run.cpu_s / run.seconds, "{:.2f}")))
    columns.append(("CPU s", made.median(lambda run: run.cpu_s, "{:.2f}")))
    columns.append(("peak MB", made.median(lambda run: run.peak_bytes / 1e6, "{:,.0f}")))
    return columns


def _network_columns(row: Row, made: _Cells) -> list[Column]:
    columns: list[Column] = []
    if row.task == "write":
        columns.append(("MB sent", made.median(lambda run: _mega(run.sent_bytes), "{:,.1f}")))
    else:
        columns.append(("MB fetched", made.median(lambda run: _mega(run.fetched_bytes), "{:,.1f}")))
        columns.append(("of data", made.median(_share_fetched, "{:.2f}")))
    columns.append(("requests", made.median(lambda run: run.requests, "{:,.0f}")))
    columns.append(("connections", made.median(lambda run: run.connections, "{:,.0f}")))
    if row.task == "random":
        trip_ms = row.network.first_byte_ms
        trips = made.median(lambda run: run.median_ms and run.median_ms / trip_ms, "{:.1f}")
        columns.append(("round trips", trips))
    if row.task in ("epoch", "fetch"):
        columns.append(("CPU s/GB", made.median(_cpu_per_gigabyte, "{:.2f}")))
    if "bare GETs" in row.contenders:
        columns.append(("CPU of bare", made.ratio(lambda run: run.cpu_s, "bare GETs")))
    return columns


class _Cells:
    """Makes the cells of a row."""

    def __init__(self, runs: Mapping[str, Runs]) -> None:
        self._runs = runs

    def median(self, value: Callable[[Measured], float | None], form: str) -> Callable[[str], str]:
        """The median of a value over the rounds."""

        def cell(label: str) -> str:
            found = [one for run in self._runs[label] if (one := value(run)) is not None]
            return form.format(statistics.median(found)) if found else "-"

        return cell

    def spread(self, value: Callable[[Measured], float | None]) -> Callable[[str], str]:
        """The smallest and the largest value."""

        def cell(label: str) -> str:
            found = [value(run) or 0.0 for run in self._runs[label]]
            return f"({min(found):,.0f}-{max(found):,.0f})"

        return cell

    def ratio(self, value: Callable[[Measured], float], other: str) -> Callable[[str], str]:
        """The median over the rounds of how many times as much it is as the other's value."""

        def cell(label: str) -> str:
            if label == other or other not in self._runs:
                return "-"
            pairs = zip(self._runs[label], self._runs[other], strict=True)
            return f"{statistics.median(value(one) / value(two) for one, two in pairs):.2f}"

        return cell


def _rate(run: Measured) -> float:
    return run.rate


def _megabytes_per_second(run: Measured) -> float | None:
    return None if run.nbytes is None else run.nbytes / run.seconds / 1e6


def _mega(nbytes: int | None) -> float | None:
    return None if nbytes is None else nbytes / 1e6


def _share_fetched(run: Measured) -> float | None:
    if run.nbytes is None or run.fetched_bytes is None:
        return None
    return run.fetched_bytes / run.nbytes


def _cpu_per_gigabyte(run: Measured) -> float | None:
    return None if run.nbytes is None else run.cpu_s / run.nbytes * 1e9
