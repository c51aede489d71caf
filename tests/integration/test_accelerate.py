"""Accelerate: the loader's state is saved by ``register_for_checkpointing``.

aiolit deals the samples to the ranks by itself, so ``accelerator.prepare`` must not do it again.
Two ways are right, and shown here:

- Do not prepare the loader: ``loader = StreamingDataLoader(...)``,
  ``accelerator.register_for_checkpointing(loader)``, and put batches on ``accelerator.device``
  yourself. Each rank reads its own share, the loader saves and resumes exactly, on any number of
  ranks. This is the one to take.
- Or let Accelerate deal: build the data set with ``rank=0, world_size=1`` and prepare a plain torch
  ``DataLoader`` of it, with ``DataLoaderConfiguration(dispatch_batches=True)`` (rank 0 reads and
  sends the batches to the others) or ``False`` (all read everything and keep their part). It is not
  resumed in the middle of an epoch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("accelerate", reason="pip install accelerate to run this")

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

SAMPLES = 50

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from accelerate import Accelerator, DataLoaderConfiguration
from aiolit import StreamingDataLoader, StreamingDataset

folder, out, task, workers = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

def write(accelerator, name, value):
    with open(f"{out}/{name}.{accelerator.process_index}.json", "w") as file:
        json.dump(value, file)

def read(accelerator, loader, stop=None):
    seen = []
    for number, batch in enumerate(loader, 1):
        batch = batch.to(accelerator.device)
        accelerator.reduce(batch.sum(), reduction="sum")  # a rank with fewer batches would hang
        seen.append(batch.tolist())
        if number == stop:
            accelerator.save_state(f"{out}/checkpoint", safe_serialization=False)
            break
    return seen

if task == "prepare":
    for dispatch in (True, False):
        configured = DataLoaderConfiguration(dispatch_batches=dispatch)
        accelerator = Accelerator(cpu=True, dataloader_config=configured)
        dataset = StreamingDataset(folder, shuffle=True, rank=0, world_size=1)
        loader = accelerator.prepare(torch.utils.data.DataLoader(dataset, batch_size=3))
        write(accelerator, f"dispatch{dispatch}", [batch.tolist() for batch in loader])
else:
    accelerator = Accelerator(cpu=True)
    model = accelerator.prepare(torch.nn.Linear(1, 1))
    def make():
        dataset = StreamingDataset(folder, shuffle=True, drop_last=False)
        return StreamingDataLoader(dataset, batch_size=3, num_workers=workers)
    if task == "begin":
        write(accelerator, "whole", read(accelerator, make()))
    loader = make()
    accelerator.register_for_checkpointing(loader)
    if task == "resume":
        accelerator.load_state(f"{out}/checkpoint")
    write(accelerator, task, read(accelerator, loader, 4 if task == "begin" else None))
accelerator.end_training()
"""


def launch(run_python: Any, ranks: int, *arguments: str) -> None:
    flags: Sequence[str] = ()
    if ranks > 1:
        flags = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}")
    finished = run_python(SCRIPT, *arguments, flags=flags, timeout_s=120)
    assert finished.returncode == 0, finished.stderr


def seen(folder: Path, name: str, rank: int) -> list[list[int]]:
    found: list[list[int]] = json.loads((folder / f"{name}.{rank}.json").read_text())
    return found


def flat(*parts: list[list[int]]) -> list[int]:
    return sorted(value for part in parts for batch in part for value in batch)


def test_a_registered_loader_is_saved_and_resumed(
    run_python: Any, write_dataset: Any, tmp_path: Path
) -> None:
    """The same sequence on as many ranks and workers, and what was left on one rank without."""
    folder = write_dataset(range(SAMPLES), chunk_size=6)
    launch(run_python, 2, str(folder), str(tmp_path), "begin", "2")
    launch(run_python, 2, str(folder), str(tmp_path), "resume", "2")
    begun = [seen(tmp_path, "begin", rank) for rank in range(2)]
    whole = [seen(tmp_path, "whole", rank) for rank in range(2)]
    assert [begun[rank] + seen(tmp_path, "resume", rank) for rank in range(2)] == whole
    assert flat(*whole) == list(range(SAMPLES))
    launch(run_python, 1, str(folder), str(tmp_path), "resume", "0")
    assert flat(*begun, seen(tmp_path, "resume", 0)) == list(range(SAMPLES))


def test_accelerate_deals_where_the_data_set_does_not(
    run_python: Any, write_dataset: Any, tmp_path: Path
) -> None:
    folder = write_dataset(range(48), chunk_size=6)
    launch(run_python, 2, str(folder), str(tmp_path), "prepare", "0")
    for dispatch in (True, False):
        parts = [seen(tmp_path, f"dispatch{dispatch}", rank) for rank in range(2)]
        assert flat(*parts) == list(range(48))
        if not dispatch:
            assert len(parts[0]) == len(parts[1]) == 8
