"""The benchmarks' tables: medians, ratios within the rounds, and columns that fit the work."""

from __future__ import annotations

from typing import Any

from benchmarks.rows import CONTENDERS, ROWS
from benchmarks.table import Measured, table


def run(samples: int, seconds: float, **fields: Any) -> Measured:
    return Measured(
        **{"samples": samples, "seconds": seconds, "cpu_s": 1.0, "peak_bytes": 0, **fields}
    )


def cells(text: str) -> dict[str, dict[str, str]]:
    """The table by contender and header; of headers that come twice, the first."""
    lines = text.split("\n")[1:]
    split = [[cell for cell in line.split("  ") if cell] for line in lines]
    headers = [cell.strip() for cell in split[0]]
    found: dict[str, dict[str, str]] = {}
    for line in split[1:]:
        row: dict[str, str] = {}
        for header, cell in zip(headers, line[1:], strict=True):
            row.setdefault(header, cell.strip())
        found[line[0].strip()] = row
    return found


def test_ratios_are_taken_within_a_round() -> None:
    runs = {
        "limit": [run(100, 1.0), run(100, 10.0), run(100, 1.0)],
        "aiolit": [run(100, 2.0), run(100, 20.0), run(100, 4.0)],
    }
    found = cells(table(ROWS["jpeg-disk-warm"], runs))
    assert found["aiolit"]["samples/s"] == "25"
    assert found["aiolit"]["(min-max)"] == "(5-50)"
    assert found["aiolit"]["of limit"] == "0.50"
    assert found["limit"]["of limit"] == "-"
    assert found["aiolit"]["of litdata"] == "-"


def test_what_the_network_gave() -> None:
    bare = run(100, 1.0, nbytes=10**9, fetched_bytes=10**9, requests=10, connections=4)
    ours = run(
        100, 1.0, nbytes=10**9, fetched_bytes=2 * 10**9, requests=20, connections=4, cpu_s=3.0
    )
    found = cells(table(ROWS["jpeg-s3-2w"], {"bare GETs": [bare], "aiolit": [ours]}))
    assert found["aiolit"]["of data"] == "2.00"
    assert found["aiolit"]["requests"] == "20"
    assert found["aiolit"]["CPU s/GB"] == "3.00"
    assert found["aiolit"]["CPU of bare"] == "3.00"


def test_round_trips_of_random_reads() -> None:
    ours = run(
        100, 3.0, nbytes=10**7, fetched_bytes=10**7, requests=200, connections=1, median_ms=33.0
    )
    found = cells(table(ROWS["random-s3"], {"aiolit": [ours]}))
    assert found["aiolit"]["round trips"] == "2.2"


def test_writing_with_and_without_its_start() -> None:
    runs = {
        "cp": [run(100, 1.0, nbytes=10**7)],
        "aiolit": [run(100, 2.0, nbytes=10**7, startup_s=1.0)],
    }
    found = cells(table(ROWS["write-jpegs-disk"], runs))
    assert found["aiolit"]["samples/s"] == "50"
    assert found["aiolit"]["then samples/s"] == "100"
    assert found["aiolit"]["MB/s"] == "5"


def test_every_row_names_contenders_that_are_there() -> None:
    for row in ROWS.values():
        assert set(row.contenders) <= set(CONTENDERS), row.name
        text = table(row, {label: [run(1, 1.0)] for label in row.contenders})
        assert len(text.split("\n")) == 2 + len(row.contenders)
