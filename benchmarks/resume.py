"""How long it takes to go on in the middle of an epoch of ten million samples, beside LitData.

    python -m benchmarks.resume [--samples N] [--chunks N] [--peer litdata-0.2.76]

For one data set and for a mixture of two, shuffled: seconds from ``load_state_dict`` to the first
batch, at the start and at 10 % and 90 % of the epoch. Nothing is read before: both libraries make
the state of a reader that was given so many samples (``state_dict(num_samples_yielded, ...)``).
Every figure is the median of several fresh processes. The samples are whole numbers, so that
reading costs nothing beside the bookkeeping.

The script runs itself in each library's own environment, see scripts/peers.sh.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BATCH = 64
SHARES = (0.0, 0.1, 0.9)
KINDS = ("one data set", "mixture of two")


def write(folder: Path, samples: int, chunks: int) -> None:
    """Write a data set of the numbers from 0 on, without a Python object for each."""
    import numpy as np  # the parent's; the measured processes do not need it

    from aiolit.format.assemble import assemble
    from aiolit.format.index import dump_index

    folder.mkdir(parents=True)
    index, _ = assemble([0, 1], chunk_size=2)
    document = json.loads(dump_index(index))
    document["config"] |= {"chunk_size": -(-samples // chunks), "chunk_bytes": None}
    document["chunks"], size = [], -(-samples // chunks)
    for number, first in enumerate(range(0, samples, size)):
        count = min(size, samples - first)
        offsets = 4 * (count + 2) + 12 * np.arange(count + 1, dtype=np.uint32)
        head = np.concatenate(([np.uint32(count)], offsets)).astype("<u4")
        items = np.zeros(count, dtype=[("size", "<u4"), ("value", "<i8")])
        items["size"], items["value"] = 8, np.arange(first, first + count)
        name = f"chunk-0-{number}.bin"
        (folder / name).write_bytes(head.tobytes() + items.tobytes())
        entry = {"filename": name, "chunk_size": count, "chunk_bytes": 12 * count, "dim": None}
        document["chunks"].append(entry)
    (folder / "index.json").write_text(json.dumps(document))


def measure(library: str, folders: list[str], kind: str, share: float) -> float:
    """Return the seconds from ``load_state_dict`` to the first batch."""
    lib: Any = importlib.import_module(library)
    members = [lib.StreamingDataset(folder, shuffle=True) for folder in folders]
    if kind == KINDS[0]:
        dataset, total = members[0], len(members[0])
    else:
        options = {"weights": [0.5, 0.5], "iterate_over_all": False}
        dataset, total = lib.CombinedStreamingDataset(members, **options), 2 * len(members[0])
    loader = lib.StreamingDataLoader(dataset, batch_size=BATCH)
    taken = int(total * share) // BATCH * BATCH
    state = _state(library, dataset, kind, taken)
    began = time.perf_counter()
    if taken:
        loader.load_state_dict(state)
    next(iter(loader))
    return time.perf_counter() - began


def _state(library: str, dataset: Any, kind: str, taken: int) -> Any:
    if library == "aiolit":
        return {"version": 1, "dataset": dataset.state_dict(taken, 0, BATCH)}
    if kind == KINDS[0]:
        counts: Any = taken
        saved = dataset.state_dict(taken, 0, BATCH)
    else:
        counts = {0: [taken // 2, taken - taken // 2]}
        saved = dataset.state_dict(0, BATCH, counts[0])
    return {
        "dataset": saved,
        "current_epoch": 1,
        "num_samples_yielded": counts,
        "latest_worker_idx": 0,
    }


def run(python: str, library: str, folders: list[str], kind: str, share: float) -> float | str:
    """Measure in a fresh process; a failure is its last line."""
    command = [python, str(HERE / "resume.py"), "--measure", library, kind, str(share), *folders]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    if library == "aiolit":
        environment["PYTHONPATH"] = str(HERE.parent)
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=600, check=False
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it failed"])[-1]
    return float(done.stdout.split()[-1])


def main() -> int:
    """Print the table; not 0 if a process failed."""
    if sys.argv[1:2] == ["--measure"]:
        library, kind, place, *places = sys.argv[2:]
        print(measure(library, places, kind, float(place)))
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume")
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", default="litdata-0.2.76")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/aiolit-bench-resume"))
    options = parser.parse_args()
    peers = HERE.parent / "scripts" / "peers.sh"
    found = subprocess.run([peers, "--path", options.peer], capture_output=True, text=True)
    pythons = {"aiolit": sys.executable}
    if found.returncode == 0:
        pythons["litdata"] = found.stdout.strip()
    shutil.rmtree(options.folder, ignore_errors=True)
    folders = [str(options.folder / name) for name in ("one", "two")]
    for folder in folders:
        write(Path(folder), options.samples, options.chunks)
    print(f"{options.samples:,} samples in {options.chunks:,} chunks, batches of {BATCH}; seconds")
    print(f"{'':16}{'':10}" + "".join(f"{share:>10.0%}" for share in SHARES))
    failed = 0
    for kind in KINDS:
        for library, python in pythons.items():
            cells = []
            for share in SHARES:
                runs = [run(python, library, folders, kind, share) for _ in range(options.repeats)]
                times = [one for one in runs if isinstance(one, float)]
                failed += len(runs) - len(times)
                cells.append(f"{statistics.median(times):10.3f}" if times else f" {runs[0]}")
            print(f"{kind:16}{library:10}" + "".join(cells), flush=True)
    shutil.rmtree(options.folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
