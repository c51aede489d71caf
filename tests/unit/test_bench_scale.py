"""The scaling model: arithmetic that a reader can check by hand."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.scale import Cluster, Costs, Point, check_table, fit, needs, needs_table

COSTS = Costs(
    start_s=0.5,
    per_batch_s=0.001,
    per_byte_s=1e-9,
    worker_start_s=0.25,
    handover_per_byte_s=5e-10,
    base_bytes=3e8,
    worker_bytes=2e8,
    bytes_per_request=8e6,
)


def point(workers: int, batch_size: int, nbytes: int, *, fitted: bool = True) -> Point:
    """A run that costs just what COSTS says."""
    shape = Point(
        workers=workers,
        batch_size=batch_size,
        samples=nbytes // 100_000,
        nbytes=nbytes,
        cpu_s=0.0,
        peak_bytes=0.0,
        requests=0.0,
        fitted=fitted,
    )
    return COSTS.predict(shape)


POINTS = [
    point(0, 16, 100_000_000),
    point(0, 16, 400_000_000),
    point(0, 256, 400_000_000),
    point(1, 64, 100_000_000),
    point(1, 64, 400_000_000),
]


def test_a_run_costs_the_sum_of_its_parts() -> None:
    run = point(2, 50, 1_000_000_000)
    # 10,000 samples in 200 batches; two workers; a gigabyte read and handed over
    assert run.cpu_s == pytest.approx(0.5 + 0.2 + 1.0 + 2 * 0.25 + 0.5)
    assert run.peak_bytes == 7e8
    assert run.requests == 125


def test_the_costs_are_found_again() -> None:
    found = dataclasses.asdict(fit(POINTS))
    assert found == pytest.approx(dataclasses.asdict(COSTS))


def test_points_that_are_not_marked_are_not_fitted_to() -> None:
    wrong = dataclasses.replace(point(2, 64, 400_000_000, fitted=False), cpu_s=1000.0)
    assert fit([*POINTS, wrong]) == fit(POINTS)


def test_no_cost_is_below_zero() -> None:
    cheap_workers = [
        dataclasses.replace(one, cpu_s=one.cpu_s - 0.4) if one.workers else one for one in POINTS
    ]
    found = fit(cheap_workers)
    assert found.worker_start_s == 0
    assert all(value >= 0 for value in dataclasses.asdict(found).values())


def test_points_that_tell_nothing_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="do not tell the costs apart"):
        fit(POINTS[:4])


def test_what_a_cluster_needs() -> None:
    cluster = Cluster(
        nodes=10,
        ranks=8,
        workers=2,
        chunks_per_second=100,
        chunk_bytes=64e6,
        sample_bytes=100_000,
        batch_size=64,
    )
    found = needs(cluster, COSTS, first_byte_s=0.02, connection_bytes_per_second=80e6)
    assert found.bytes_per_second == 6.4e9
    assert found.node_bytes_per_second == 6.4e8
    assert found.samples_per_second == 64_000
    assert found.gets_per_second == 800
    assert found.prefixes == 1
    # each GET takes 20 ms and 100 ms, so 800 a second keep 96 connections busy
    assert found.connections == pytest.approx(96)
    assert found.node_connections == pytest.approx(9.6)
    # 1,000 batches of 1 ms and 6.4 GB of 1.5 ns a byte each second, on ten nodes
    assert found.node_cores == pytest.approx((1.0 + 9.6) / 10)
    assert found.node_memory_bytes == 8 * 7e8


def test_many_ranks_need_many_prefixes() -> None:
    cluster = Cluster(
        nodes=125,
        ranks=8,
        workers=0,
        chunks_per_second=10_000,
        chunk_bytes=64e6,
        sample_bytes=100_000,
        batch_size=64,
    )
    found = needs(cluster, COSTS, first_byte_s=0.015, connection_bytes_per_second=80e6)
    assert found.gets_per_second == 80_000
    assert found.prefixes == 15
    assert "80,000: 15 S3 prefixes" in needs_table(cluster, found)


def test_the_check_shows_each_point_beside_the_model() -> None:
    lines = check_table([*POINTS, point(2, 64, 400_000_000, fitted=False)], fit(POINTS)).split("\n")
    assert [line.endswith("fitted") for line in lines] == [False, *[True] * 5, False]
    assert all(line.split()[5] == "+0%" for line in lines[1:])
