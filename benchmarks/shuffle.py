"""How well an epoch is shuffled, beside LitData: on data that lies sorted by class.

    python -m benchmarks.shuffle [--samples N] [--chunks N] [--classes N]

Three figures of one shuffled epoch, and what a permutation of all samples would give:

- moved: how far a sample lies from where it lay in the data set, as a share of the epoch; chunks
  in random order are enough for a good figure.
- neighbours: how far two samples that were neighbours lie apart, as a share of the epoch; where
  samples are mixed within a chunk only, that is a fraction of a chunk.
- classes: how many classes a batch of 64 holds.

The script runs itself in each library's own environment, see scripts/peers.sh.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
BATCH = 64
PEERS = ("litdata-0.2.58", "litdata-0.2.76")


def order(library: str, folder: str, options: dict[str, Any]) -> list[int]:
    """Return the samples of the first epoch, in order."""
    lib: Any = importlib.import_module(library)
    loader = lib.StreamingDataLoader(
        lib.StreamingDataset(folder, shuffle=True, **options), batch_size=BATCH
    )
    return [sample for batch in loader for sample in batch.tolist()]


def figures(found: list[int], classes: int) -> tuple[float, float, float]:
    """Return the three figures of an epoch."""
    total = len(found)
    place = np.empty(total, np.int64)
    place[np.array(found)] = np.arange(total)
    moved = float(np.abs(place - np.arange(total)).mean() / total)
    apart = float(np.abs(np.diff(place)).mean() / total)
    of_class = np.array(found) * classes // total
    batches = [of_class[at : at + BATCH] for at in range(0, total - BATCH + 1, BATCH)]
    return moved, apart, float(np.mean([len(np.unique(batch)) for batch in batches]))


def run(python: str, library: str, folder: Path, options: dict[str, Any]) -> list[int]:
    """Read an epoch in a fresh process."""
    command = [python, str(HERE / "shuffle.py"), "--order", library, str(folder)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    if library == "aiolit":
        environment["PYTHONPATH"] = str(HERE.parent)
    done = subprocess.run(
        [*command, json.dumps(options)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
        check=True,
    )
    read: list[int] = json.loads(done.stdout.splitlines()[-1])
    return read


def main() -> int:
    """Print the table."""
    if sys.argv[1:2] == ["--order"]:
        library, folder, text = sys.argv[2:]
        print(json.dumps(order(library, folder, json.loads(text))))
        return 0
    from benchmarks.resume import write  # the measured processes have no such package

    parser = argparse.ArgumentParser(prog="python -m benchmarks.shuffle")
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--chunks", type=int, default=200)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/aiolit-bench-shuffle"))
    asked = parser.parse_args()
    shutil.rmtree(asked.folder, ignore_errors=True)
    write(asked.folder, asked.samples, asked.chunks)
    per_chunk = asked.samples // asked.chunks
    rows: list[tuple[str, list[int]]] = []
    ours: list[dict[str, Any]]
    ours = [{}, *({"shuffle_window": n * per_chunk} for n in (1, 32, asked.chunks))]
    for options in ours:
        chunks = options.get("shuffle_window", 8 * per_chunk) // per_chunk
        name = f"aiolit, {chunks} chunks" + ("" if options else " (default)")
        rows.append((name, run(sys.executable, "aiolit", asked.folder, options)))
    for peer in PEERS:
        found = subprocess.run(
            [HERE.parent / "scripts" / "peers.sh", "--path", peer],
            capture_output=True,
            text=True,
            check=False,
        )
        if found.returncode == 0:
            rows.append((peer, run(found.stdout.strip(), "litdata", asked.folder, {})))
    shuffled = np.random.default_rng(1).permutation(asked.samples).tolist()
    rows.append(("all samples permuted", shuffled))
    print(
        f"{asked.samples:,} samples in {asked.chunks} chunks, {asked.classes} classes in order, "
        f"batches of {BATCH}"
    )
    print(f"{'':28}{'moved':>10}{'neighbours':>12}{'classes':>10}")
    for name, read in rows:
        assert sorted(read) == list(range(asked.samples)), name
        moved, apart, classes = figures(read, asked.classes)
        print(f"{name:28}{moved:10.1%}{apart:12.2%}{classes:10.1f}")
    shutil.rmtree(asked.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
