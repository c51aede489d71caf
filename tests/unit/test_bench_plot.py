"""The sweeps that are drawn: one thing changes, the points are medians, extra data goes away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.data import Inputs, Sizes
from benchmarks.plot import CONTENDERS, STYLES, SWEEPS, measure
from benchmarks.rows import NETWORK, Row
from benchmarks.runner import Bench
from benchmarks.table import Measured


class Known(Bench):
    """A bench whose runs are known before: three rounds, the rate falls with each row."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Sizes.quick(), Inputs.quick(), print)
        self.rows: list[Row] = []

    def measure(self, rows: Sequence[Row], repeats: int) -> dict[str, dict[str, list[Measured]]]:
        self.rows += rows
        samples = 1000 // len(self.rows)
        runs = [
            Measured(samples=samples, seconds=seconds, cpu_s=1.0, peak_bytes=0)
            for seconds in (1.0, 2.0, 4.0)[:repeats]
        ]
        return {row.name: {"aiolit": runs} for row in rows}


def test_points_are_medians_with_the_slowest_and_the_fastest(tmp_path: Path) -> None:
    series = measure(Known(tmp_path), SWEEPS["chunks"], 3)
    assert series == {"aiolit": [(4, 500, 250, 1000), (16, 250, 125, 500), (64, 166.5, 83.25, 333)]}


@pytest.mark.parametrize("name", list(SWEEPS))
def test_one_thing_changes(tmp_path: Path, name: str) -> None:
    bench, sweep = Known(tmp_path), SWEEPS[name]
    measure(bench, sweep, 1)
    found = {
        "workers": [row.job["num_workers"] for row in bench.rows],
        "latency": [row.network.first_byte_ms for row in bench.rows],
        "chunks": [row.job.get("chunk_bytes", 64_000_000) / 1e6 for row in bench.rows],
    }
    usual = {"workers": 2, "latency": NETWORK.first_byte_ms, "chunks": 64.0}
    assert found.pop(name) == list(sweep.values)
    for other, values in found.items():
        assert set(values) == {usual[other]}


def test_data_of_another_chunk_size_is_removed(tmp_path: Path) -> None:
    ours = tmp_path / "buckets/bench/aiolit"
    for folder in ("jpegs", "jpegs-4000000"):
        (ours / folder).mkdir(parents=True)
        (ours / folder / "chunk-0-0.bin").touch()
        (ours / f"{folder}.complete").touch()
    measure(Known(tmp_path), SWEEPS["chunks"], 1)
    assert {path.name for path in ours.iterdir()} == {"jpegs", "jpegs.complete"}
    assert (ours / "jpegs/chunk-0-0.bin").exists()


def test_every_contender_has_a_style() -> None:
    assert set(CONTENDERS) == set(STYLES)
