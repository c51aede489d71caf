"""Throughput over the number of workers, the latency and the chunk size: measured, then drawn.

    make plots                                       (matplotlib: requirements/bench.txt)
    python -m benchmarks.plot [--sweeps workers latency chunks] [--repeats N] [--quick]
    python -m benchmarks.plot --series series.json   draw again what was measured

JPEG bytes from S3, nothing cached, as in the rows jpeg-s3-*. For each sweep NAME.png and NAME.svg
are written into `--out`, and beside them series.json with what is drawn: medians of the rounds,
with the slowest and the fastest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.data import Inputs, Sizes, data_folder
from benchmarks.rows import NETWORK, Row
from benchmarks.runner import Bench
from benchmarks.table import Measured

CONTENDERS = ("bare GETs", "limit", "aiolit", "litdata", "mosaicml", "webdataset")
# The colours of Okabe and Ito, which tell apart for most kinds of sight, and a mark for each.
STYLES: Mapping[str, dict[str, Any]] = {
    "bare GETs": {"color": "#999999", "linestyle": ":", "marker": ""},
    "limit": {"color": "#000000", "linestyle": "--", "marker": ""},
    "aiolit": {"color": "#D55E00", "linestyle": "-", "marker": "o"},
    "litdata": {"color": "#0072B2", "linestyle": "-", "marker": "s"},
    "mosaicml": {"color": "#009E73", "linestyle": "-", "marker": "^"},
    "webdataset": {"color": "#CC79A7", "linestyle": "-", "marker": "D"},
}

Series = dict[str, list[tuple[float, float, float, float]]]
"""By contender: the value, and the median, slowest and fastest samples/s."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """One figure: the same work with one thing changed."""

    name: str
    title: str
    axis: str
    values: tuple[float, ...]

    def row(self, value: float) -> Row:
        """The work at one value; the others are those of the row jpeg-s3-2w."""
        job: dict[str, Any] = {"num_workers": 2}
        network = NETWORK
        if self.name == "workers":
            job["num_workers"] = int(value)
        elif self.name == "latency":
            network = dataclasses.replace(NETWORK, first_byte_ms=value)
        else:
            job["chunk_bytes"] = int(value * 1e6)
        return Row(
            name=f"{self.name}-{value:g}",
            title=self.title,
            kind="jpegs",
            remote=True,
            network=network,
            contenders=CONTENDERS,
            job=job,
        )


SWEEPS: Mapping[str, Sweep] = {
    sweep.name: sweep
    for sweep in (
        Sweep(
            name="workers",
            title="15 ms to the first byte, chunks of 64 MB",
            axis="workers of the loader",
            values=(0, 1, 2, 4),
        ),
        Sweep(
            name="latency",
            title="2 workers, chunks of 64 MB",
            axis="milliseconds to the first byte (median)",
            values=(1, 5, 15, 50, 150),
        ),
        Sweep(
            name="chunks",
            title="2 workers, 15 ms to the first byte",
            axis="chunk size, MB",
            values=(4, 16, 64),
        ),
    )
}


def measure(bench: Bench, sweep: Sweep, repeats: int) -> Series:
    """Run a sweep; a contender that failed at a value has no point there."""
    found: Series = {}
    for value in sweep.values:
        row = sweep.row(value)
        for label, runs in bench.measure([row], repeats)[row.name].items():
            found.setdefault(label, []).append((value, *_spread(runs)))
        bench.drop_extra_data()
    return found


def _spread(runs: Sequence[Measured]) -> tuple[float, float, float]:
    rates = [run.rate for run in runs]
    return statistics.median(rates), min(rates), max(rates)


def draw(sweep: Sweep, series: Series, out: Path) -> None:
    """Write NAME.png and NAME.svg."""
    import matplotlib  # not among what the tests need

    matplotlib.use("Agg")
    from matplotlib import pyplot

    places = {value: place for place, value in enumerate(sweep.values)}  # evenly apart
    figure, axes = pyplot.subplots(figsize=(7.2, 4.5), layout="constrained")
    for label in (name for name in CONTENDERS if name in series):
        points = series[label]
        where = [places[point[0]] for point in points]
        low, high = [point[2] for point in points], [point[3] for point in points]
        axes.fill_between(where, low, high, color=STYLES[label]["color"], alpha=0.12, linewidth=0)
        axes.plot(where, [point[1] for point in points], label=label, **STYLES[label])
    axes.set_xticks(list(places.values()), [f"{value:g}" for value in places])
    axes.set_xlabel(sweep.axis)
    axes.set_ylabel("samples/s")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"JPEG files of 106 KB from S3, nothing cached; {sweep.title}", fontsize=10)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    for kind in ("png", "svg"):
        figure.savefig(out / f"{sweep.name}.{kind}", dpi=150)
    pyplot.close(figure)


def main() -> int:
    """Measure what is asked for, and draw it."""
    options = _parse()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.series:
        found: dict[str, Series] = json.loads(options.series.read_text())
    else:
        found = _measured(options)
        (options.out / "series.json").write_text(json.dumps(found, indent=1))
    if not options.no_draw:
        for name, series in found.items():
            draw(SWEEPS[name], series, options.out)
    return 0


def _measured(options: argparse.Namespace) -> dict[str, Series]:
    sizes, inputs = (Sizes.quick(), Inputs.quick()) if options.quick else (Sizes(), Inputs())
    bench = Bench(
        options.folder / ("quick" if options.quick else "full"),
        sizes,
        inputs,
        lambda line: print(line, file=sys.stderr, flush=True),
        only=options.contenders,
    )
    repeats = options.repeats or (1 if options.quick else 3)
    return {name: measure(bench, SWEEPS[name], repeats) for name in options.sweeps}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot")
    parser.add_argument("--sweeps", nargs="+", choices=list(SWEEPS), default=list(SWEEPS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--series", type=Path, help="draw what this file holds")
    parser.add_argument("--no-draw", action="store_true", help="write series.json only")
    parser.add_argument("--quick", action="store_true", help="little data: a smoke test")
    parser.add_argument("--repeats", type=int, help="rounds (default 3)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "plots")
    parser.add_argument("--folder", type=Path, default=data_folder(), help="data (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
