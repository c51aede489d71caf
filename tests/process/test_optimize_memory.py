"""A long run in little memory: what processes hold does not grow with what went through."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pytest

from aiolit.format.index import parse_index
from aiolit.processing.functions import optimize

SAMPLE_BYTES = 1 << 20
SAMPLES = 400
CHUNK_BYTES = 8 << 20


def anonymous_bytes(pid: int) -> int:
    """Return what a process holds in memory of its own."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it ended meanwhile
        return 0
    lines = dict(line.split(":", 1) for line in status.splitlines())
    return 1024 * int(lines.get("RssAnon", "0 kB").split()[0])


def bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


@dataclass
class Gauge:
    """Looks at this process, its workers and the work folders whenever an input is taken."""

    folder: Path
    ours: list[int] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)
    spool: list[int] = field(default_factory=list)

    def look(self) -> None:
        self.ours.append(anonymous_bytes(os.getpid()))
        children = [each.pid for each in psutil.Process().children()]
        self.workers.append(max(map(anonymous_bytes, children), default=0))
        self.spool.append(bytes_below(self.folder))


def growth(figures: list[int]) -> int:
    """Return by how much the second half's most exceeds what the second quarter had."""
    half, quarter = len(figures) // 2, len(figures) // 4
    return max(figures[half:]) - max(figures[quarter:half])


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as they come"])
def test_memory_and_work_folders_stay_flat(
    ordered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(work))
    gauge = Gauge(work)

    def inputs() -> Iterator[int]:
        for index in range(SAMPLES):
            gauge.look()
            yield index

    def sample(index: int) -> np.ndarray:
        return np.full(SAMPLE_BYTES, index % 251, dtype=np.uint8)

    out = tmp_path / "out"
    summary = optimize(
        sample,
        inputs(),
        out,
        chunk_bytes=CHUNK_BYTES,
        num_workers=2,
        keep_data_ordered=ordered,
        verbose=False,
    )
    assert summary.samples == SAMPLES
    assert summary.nbytes > SAMPLES * SAMPLE_BYTES
    assert growth(gauge.ours) < 40 << 20
    assert growth(gauge.workers) < 16 << 20
    assert max(gauge.spool) < 64 << 20
    assert list(work.iterdir()) == []
    index = parse_index((out / "index.json").read_bytes(), source=str(out))
    for chunk in index.chunks:
        assert (out / chunk.filename).stat().st_size <= CHUNK_BYTES + (1 << 20)
