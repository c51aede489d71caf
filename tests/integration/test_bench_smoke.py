"""The benchmarks run: every contender of a row gives every sample, and the table is made.

Peers take part where nothing of theirs can end a run by chance: obstore's runtime, which LitData
uses for S3, now and then aborts the interpreter while that ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.data import Inputs, Sizes
from benchmarks.rows import ROWS

ROOT = Path(__file__).parents[2]
OURS = ["aiolit", "aiolit, together", "aiolit's store layer", "limit", "limit, together"]
BARE = ["bare GETs", "bare GETs with aiohttp", "bare PUTs", "bare interpreters", "cp", "fn alone"]


def run(module: str, *arguments: str) -> str:
    """Run a module of the benchmarks to its end and return what it printed."""
    finished = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def measure(folder: Path, rows: list[str], contenders: list[str]) -> Mapping[str, Any]:
    """Measure rows with little data; return the runs by row and contender."""
    results = folder / "results.json"
    options = ["--quick", "--folder", str(folder), "--json", str(results)]
    printed = run("benchmarks", *options, "--contenders", *contenders, "--rows", *rows)
    for name in rows:
        assert f"{ROWS[name].title}  [{name}]" in printed
    measured: Mapping[str, Any] = json.loads(results.read_text())
    assert list(measured) == rows
    for name, runs in measured.items():
        present = [label for label in ROWS[name].contenders if label in contenders]
        assert list(runs) == present
        assert all(len(of_one) == 1 for of_one in runs.values())
    return measured


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_reading_and_fetching(tmp_path: Path) -> None:
    rows = ["jpeg-s3-0w", "random-s3-together", "records-disk", "raw-s3-0w", "raw-s3-2w"]
    rows += ["fetch-ranges", "fetch-samples"]
    measured = measure(tmp_path, rows, [*OURS, *BARE])
    count, nbytes = Sizes.quick().jpegs, (tmp_path / "quick/buckets/bench/source/jpegs.bin").stat()
    for name in ("jpeg-s3-0w", "raw-s3-2w"):
        streamed = measured[name]["aiolit"][0]
        assert streamed["samples"] == count
        assert streamed["fetched_bytes"] > streamed["nbytes"] == nbytes.st_size
        assert streamed["peak_bytes"] > 10_000_000
    fetched = measured["fetch-samples"]["aiolit's store layer"][0]
    assert fetched["requests"] == count


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_writing(tmp_path: Path) -> None:
    rows = [name for name, row in ROWS.items() if row.task == "write"]
    # Time: the other rows show that each kind of sample, and each kind of place, can be written.
    rows = [name for name in rows if name not in ("write-records-s3", "write-tokens-s3")]
    measured = measure(tmp_path, rows, [*OURS, *BARE])
    for name in rows:
        written = measured[name]["aiolit"][0]
        assert written["samples"] == getattr(Inputs.quick(), ROWS[name].inputs)
        assert 0 < written["startup_s"] < written["seconds"]
    assert measured["write-jpegs-s3"]["aiolit"][0]["sent_bytes"] > 100_000 * Inputs.quick().jpegs


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_litdata_beside(tmp_path: Path) -> None:
    measured = measure(tmp_path, ["write-tokens-disk", "records-disk"], ["litdata"])
    assert measured["write-tokens-disk"]["litdata"][0]["samples"] == Inputs.quick().tokens
    assert measured["records-disk"]["litdata"][0]["samples"] == Sizes.quick().records


@pytest.mark.timeout(200)
def test_the_cost_of_a_sample(tmp_path: Path) -> None:
    results = tmp_path / "costs.json"
    run("benchmarks.sample_cost", "--quick", "--json", str(results))
    costs = json.loads(results.read_text())
    assert len(costs["sample"]) == 8
    assert all(cost >= 0 for cost in costs["sample"].values())
    assert costs["decoder"]["Pillow"] > costs["sample"]["two numbers, by columns"]
