"""The benchmarks run: every contender of a row gives every sample, and the table is made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.data import Sizes
from benchmarks.rows import ROWS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_row_of_each_kind(tmp_path: Path) -> None:
    rows = ["jpeg-s3-0w", "random-s3-together", "records-disk"]
    results = tmp_path / "results.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--folder", str(tmp_path)]
    finished = subprocess.run(
        [*command, "--json", str(results), *rows],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    measured = json.loads(results.read_text())
    assert list(measured) == rows
    for name in rows:
        assert f"{ROWS[name].title}  [{name}]" in finished.stdout
    streamed = measured["jpeg-s3-0w"]["aiolit"][0]
    count = Sizes.quick().jpegs
    assert streamed["samples"] == count
    assert count * 60_000 < streamed["fetched_bytes"] < count * 140_000
    assert streamed["peak_bytes"] > 10_000_000
    assert {"limit", "aiolit", "litdata"} <= set(measured["records-disk"])
