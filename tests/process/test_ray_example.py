"""The example for Ray, which starts a cluster of its own and ends it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_optimize.py"
TIME_LIMIT_S = 170


@pytest.mark.slow
@pytest.mark.timeout(TIME_LIMIT_S + 30)
def test_the_example_writes_in_order_and_ends_its_cluster(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLE)],
        cwd=tmp_path,
        # Ray keeps a token there.
        env={**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"no end in {TIME_LIMIT_S} s: {process.communicate()[0]}")
    assert process.returncode == 0, output
    assert re.search(r"1797 samples in \d+ chunks\nin the order of the inputs: True\n", output)
    _, alive = psutil.wait_procs(ours(str(tmp_path)), timeout=10)
    assert not alive


def ours(home: str) -> list[psutil.Process]:
    """List the processes that live in the example's home: Ray's have sessions of their own."""
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("HOME") == home
    ]
