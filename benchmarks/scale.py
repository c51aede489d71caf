"""What a cluster needs to stream, on paper: from costs measured here, checked against more points.

    python -m benchmarks.scale [--nodes N] [--ranks M] [--workers W] [--chunks-per-second C] ...
    python -m benchmarks.scale --json points.json        keep the measured points
    python -m benchmarks.scale --points points.json      no measurement: use points that were kept

The model. Reading `n` bytes in `b` batches with `w` loader workers costs CPU time

    start + per_batch * b + per_byte * n + w * worker_start + (handover_per_byte * n if w else 0)

a straight line in each term, fitted to points with 0 and 1 workers and two batch sizes on one half
of the points, and checked against the others, 2 workers among them. The peak of anonymous memory is
`base + w * worker`, and a GET brings `bytes_per_request`. By Little's law, GETs of the length
`first byte + bytes_per_request / rate of a connection` keep `GETs/s * length` connections busy.

What is assumed:

- Samples of one size, read as bytes: decoding comes on top (benchmarks.sample_cost).
- Every byte is fetched once; nothing is cached on the nodes, which is the first epoch, the dearest.
- Costs do not grow with the number of ranks: ranks share nothing but the store and the node's link.
- The CPU is of the kind that was measured, and a rank has its cores for itself. (Here the server of
  the measured points shares the two cores with them, so their rate is below what is predicted from
  CPU time alone; the CPU time itself is what the model is checked by.)
- An S3 prefix gives 5,500 GETs/s; more prefixes give more (AWS's figure).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import Inputs, Sizes, data_folder
from benchmarks.rows import NETWORK, Row
from benchmarks.runner import Bench

GETS_PER_PREFIX = 5500
Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A measured run, or what the model says of one."""

    workers: int
    batch_size: int
    samples: int
    nbytes: int
    cpu_s: float
    peak_bytes: float
    requests: float
    fitted: bool
    """Whether the costs were fitted to it; the others are the check."""

    @property
    def batches(self) -> int:
        """How many batches it read."""
        return -(-self.samples // self.batch_size)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What was measured; seconds are CPU time."""

    start_s: float
    per_batch_s: float
    per_byte_s: float
    worker_start_s: float
    handover_per_byte_s: float
    base_bytes: float
    worker_bytes: float
    bytes_per_request: float

    def cpu_s(self, *, workers: int, batches: float, nbytes: float) -> float:
        """CPU time of all processes of a rank."""
        per_byte = self.per_byte_s + (self.handover_per_byte_s if workers else 0.0)
        fixed = self.start_s + workers * self.worker_start_s
        return fixed + self.per_batch_s * batches + per_byte * nbytes

    def predict(self, point: Point) -> Point:
        """What the model says of a run."""
        cpu_s = self.cpu_s(workers=point.workers, batches=point.batches, nbytes=point.nbytes)
        return dataclasses.replace(
            point,
            cpu_s=cpu_s,
            peak_bytes=self.base_bytes + point.workers * self.worker_bytes,
            requests=point.nbytes / self.bytes_per_request,
        )


def fit(points: Sequence[Point]) -> Costs:
    """Fit the costs to the points marked so: least squares, no cost below zero.

    Raises:
        ValueError: The points do not tell the costs apart.
    """
    used = [point for point in points if point.fitted]
    terms = np.array([_terms(point) for point in used], float)
    if not used or np.linalg.matrix_rank(terms) < terms.shape[1]:
        raise ValueError(
            "these points do not tell the costs apart: there must be two amounts of data with 0 "
            "and with 1 workers, and two batch sizes"
        )
    scale = terms.max(axis=0)  # bytes and counts differ by orders of magnitude
    times = np.array([point.cpu_s for point in used])
    start, batch, byte, worker, handover = _not_negative(terms / scale, times) / scale
    alone = [point.peak_bytes for point in used if not point.workers]
    extra = [(p.peak_bytes - max(alone)) / p.workers for p in used if p.workers]
    most = max(used, key=lambda point: point.nbytes)
    return Costs(
        start_s=float(start),
        per_batch_s=float(batch),
        per_byte_s=float(byte),
        worker_start_s=float(worker),
        handover_per_byte_s=float(handover),
        base_bytes=max(alone),
        worker_bytes=max(0.0, *extra),
        bytes_per_request=most.nbytes / most.requests,
    )


def _terms(point: Point) -> tuple[float, ...]:
    handed = point.nbytes if point.workers else 0
    return 1.0, point.batches, point.nbytes, point.workers, handed


def _not_negative(terms: Floats, values: Floats) -> Floats:
    """Least squares where a solution below zero is 0, and the others are solved again."""
    free = list(range(terms.shape[1]))
    solution = np.zeros(terms.shape[1])
    while free:
        found = np.linalg.lstsq(terms[:, free], values, rcond=None)[0]
        if (found >= 0).all():
            solution[free] = found
            break
        del free[int(np.argmin(found))]
    return solution


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Who reads what, how fast."""

    nodes: int
    ranks: int
    """On each node."""
    workers: int
    """Of each rank's loader."""
    chunks_per_second: float
    """Of all ranks together."""
    chunk_bytes: float
    sample_bytes: float
    batch_size: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What that takes."""

    bytes_per_second: float
    node_bytes_per_second: float
    samples_per_second: float
    gets_per_second: float
    prefixes: int
    connections: float
    node_connections: float
    node_cores: float
    node_memory_bytes: float


def needs(
    cluster: Cluster, costs: Costs, *, first_byte_s: float, connection_bytes_per_second: float
) -> Needs:
    """Work out what a cluster needs, once it runs.

    Args:
        cluster: Who reads what.
        costs: Of `fit`.
        first_byte_s: Seconds from a GET to its first byte.
        connection_bytes_per_second: What one connection gives.
    """
    total = cluster.chunks_per_second * cluster.chunk_bytes
    samples = total / cluster.sample_bytes
    gets = total / costs.bytes_per_request
    get_s = first_byte_s + costs.bytes_per_request / connection_bytes_per_second
    cpu = costs.cpu_s(
        workers=cluster.workers, batches=samples / cluster.batch_size, nbytes=total
    ) - costs.cpu_s(workers=cluster.workers, batches=0, nbytes=0)
    rank_memory = costs.base_bytes + cluster.workers * costs.worker_bytes
    return Needs(
        bytes_per_second=total,
        node_bytes_per_second=total / cluster.nodes,
        samples_per_second=samples,
        gets_per_second=gets,
        prefixes=math.ceil(gets / GETS_PER_PREFIX),
        connections=gets * get_s,
        node_connections=gets * get_s / cluster.nodes,
        node_cores=cpu / cluster.nodes,
        node_memory_bytes=cluster.ranks * rank_memory,
    )


_PLAN = (  # workers, batch size, share of the data, fitted
    (0, 16, 0.25, True),
    (0, 16, 1.0, True),
    (0, 256, 1.0, True),
    (1, 64, 0.25, True),
    (1, 64, 1.0, True),
    (0, 64, 1.0, False),
    (0, 64, 0.5, False),
    (1, 256, 1.0, False),
    (2, 64, 1.0, False),
    (2, 256, 1.0, False),
)


def measure(bench: Bench, repeats: int) -> list[Point]:
    """Read JPEG bytes from the S3 server as `_PLAN` says: medians of the rounds."""
    rows = [
        Row(
            name=f"scale-{workers}w-{batch_size}-{share}",
            title="",
            kind="jpegs",
            task="part",
            remote=True,
            contenders=("aiolit",),
            job={"num_workers": workers, "batch_size": batch_size, "share": share},
        )
        for workers, batch_size, share, _ in _PLAN
    ]
    results = bench.measure(rows, repeats)
    points = []
    for row, (workers, batch_size, _, fitted) in zip(rows, _PLAN, strict=True):
        runs = results[row.name].get("aiolit")
        if not runs:
            raise RuntimeError(f"{row.name} could not be measured: {bench.failures}")
        point = Point(
            workers=workers,
            batch_size=batch_size,
            samples=runs[0].samples,
            nbytes=int(statistics.median(run.fetched_bytes or 0 for run in runs)),
            cpu_s=statistics.median(run.cpu_s for run in runs),
            peak_bytes=statistics.median(run.peak_bytes for run in runs),
            requests=statistics.median(run.requests or 0 for run in runs),
            fitted=fitted,
        )
        points.append(point)
    return points


def check_table(points: Sequence[Point], costs: Costs) -> str:
    """The points, measured and predicted, as text."""
    header = f"{'workers':>7} {'batch':>5} {'samples':>8} {'CPU s':>8} {'model':>8} {'':>6}"
    lines = [f"{header} {'peak MB':>8} {'model':>8} {'GETs':>6} {'model':>6}"]
    for point in points:
        model = costs.predict(point)
        off = round(model.cpu_s / point.cpu_s - 1, 2) + 0.0  # never a -0%
        lines.append(
            f"{point.workers:7} {point.batch_size:5} {point.samples:8,} {point.cpu_s:8.2f} "
            f"{model.cpu_s:8.2f} {off:+6.0%} "
            f"{point.peak_bytes / 1e6:8,.0f} {model.peak_bytes / 1e6:8,.0f} "
            f"{point.requests:6,.0f} {model.requests:6,.0f}" + ("  fitted" if point.fitted else "")
        )
    return "\n".join(lines)


def needs_table(cluster: Cluster, found: Needs) -> str:
    """What a cluster needs, as text."""
    rate, ranks = found.samples_per_second, cluster.nodes * cluster.ranks
    cores = found.node_cores
    lines = {
        "samples/s": f"{rate:,.0f}, a rank {rate / ranks:,.0f}",
        "bandwidth": f"{found.bytes_per_second / 1e9:,.1f} GB/s, "
        f"a node {found.node_bytes_per_second * 8 / 1e9:,.1f} Gbit/s",
        "GETs/s": f"{found.gets_per_second:,.0f}: {found.prefixes:,} S3 prefixes or more",
        "connections": f"{found.connections:,.0f} busy, a node {found.node_connections:,.0f}, "
        f"a rank {found.node_connections / cluster.ranks:,.1f}",
        "CPU": f"{cores:,.1f} cores a node, {cores / cluster.ranks:,.2f} a rank",
        "memory": f"{found.node_memory_bytes / 1e9:,.1f} GB a node, page cache not counted",
    }
    return "\n".join(f"  {name:12} {text}" for name, text in lines.items())


def main() -> int:
    """Print the check of the model, and what the cluster needs."""
    options = _parse()
    if options.points:
        points = [Point(**one) for one in json.loads(options.points.read_text())]
    else:
        sizes, inputs = (Sizes.quick(), Inputs.quick()) if options.quick else (Sizes(), Inputs())
        folder = options.folder / ("quick" if options.quick else "full")
        bench = Bench(folder, sizes, inputs, lambda line: print(line, file=sys.stderr, flush=True))
        points = measure(bench, options.repeats or (1 if options.quick else 5))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(one) for one in points], indent=1))
    costs = fit(points)
    print("measured costs")
    for name, value in dataclasses.asdict(costs).items():
        print(f"  {name:22} {value:.4g}")
    print("\nthe model beside what was measured")
    print(check_table(points, costs))
    cluster = Cluster(
        nodes=options.nodes,
        ranks=options.ranks,
        workers=options.workers,
        chunks_per_second=options.chunks_per_second,
        chunk_bytes=options.chunk_mb * 1e6,
        sample_bytes=options.sample_kb * 1e3,
        batch_size=options.batch_size,
    )
    found = needs(
        cluster,
        costs,
        first_byte_s=options.first_byte_ms / 1e3,
        connection_bytes_per_second=options.connection_mb * 1e6,
    )
    print(
        f"\n{options.chunks_per_second:,.0f} chunks/s of {options.chunk_mb:g} MB for "
        f"{options.nodes * options.ranks:,} ranks on {options.nodes:,} nodes, "
        f"{options.workers} workers each, samples of {options.sample_kb:g} KB"
    )
    print(needs_table(cluster, found))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale")
    parser.add_argument("--nodes", type=int, default=125)
    parser.add_argument("--ranks", type=int, default=8, help="of a node (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of a rank (%(default)s)")
    parser.add_argument("--chunks-per-second", type=float, default=10_000, help="of all ranks")
    parser.add_argument("--chunk-mb", type=float, default=64)
    parser.add_argument("--sample-kb", type=float, default=106)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--first-byte-ms", type=float, default=NETWORK.first_byte_ms)
    parser.add_argument("--connection-mb", type=float, default=NETWORK.bytes_per_second / 1e6)
    parser.add_argument("--points", type=Path, help="use the points of this file")
    parser.add_argument("--json", type=Path, help="write the points to this file")
    parser.add_argument("--quick", action="store_true", help="little data: a smoke test")
    parser.add_argument("--repeats", type=int, help="rounds (default 5)")
    parser.add_argument("--folder", type=Path, default=data_folder(), help="data (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
