"""The programs in examples/ run to their end, say what they promise and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

ROOT = Path(__file__).parents[2]
TIME_LIMIT_S = 170


def descendants_in(session: int) -> list[psutil.Process]:
    """List the processes that still live in a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found.append(process)
        except ProcessLookupError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(TIME_LIMIT_S + 30)
def test_the_quick_start_trains_well_from_disk_and_s3_and_leaves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # multiprocessing puts sockets there, whose paths may have 107 characters at most.
    with TemporaryDirectory() as temporary:
        output = run_quick_start(tmp_path, home, temporary)
        assert not os.listdir(temporary)
    accuracies = [float(text) for text in re.findall(r"held-out digits: ([\d.]+)", output)]
    assert len(accuracies) == 2, output
    assert min(accuracies) > 0.95, output
    assert not os.listdir(home)


def run_quick_start(tmp_path: Path, home: Path, temporary: str) -> str:
    """Run the example and see it leave no process; return what it printed."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "quickstart.py")],
        cwd=tmp_path,
        env={
            **os.environ,
            "TMPDIR": temporary,
            "HOME": str(home),
            # torch makes this folder when an optimizer is built, and leaves it.
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch"),
        },
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
    _, alive = psutil.wait_procs(descendants_in(process.pid), timeout=5)
    assert not alive
    return output
