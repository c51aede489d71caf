"""Train one model on several ranks, each of which reads its own share of the data.

Run it with ``torchrun --standalone --nproc-per-node=2 examples/multi_rank_torchrun.py``, on several
machines with torchrun's own options for that. Ranks get disjoint samples and the same number of
batches, so that none waits for another at the end of an epoch. The data are the handwritten digits
that ship inside scikit-learn; the ranks are CPU processes here, with gloo in place of NCCL.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import aiolit

EPOCHS = 6
BATCH = 32  # of each rank


def to_sample(digit: tuple[Any, Any]) -> dict[str, Any]:
    """Turn one input into one sample."""
    pixels, label = digit
    return {"image": pixels.astype(np.float32) / 16, "label": int(label)}


def write(output_dir: str) -> None:
    """Write the data set; in real life that is done once, by another program."""
    digits = load_digits()
    inputs = list(zip(digits.images, digits.target, strict=True))
    aiolit.optimize(to_sample, inputs, output_dir, chunk_bytes="32KB", num_workers=1, verbose=False)


def open_loader(input_dir: str) -> aiolit.StreamingDataLoader:
    """Open this rank's share; the rank is found out by itself, from torch.distributed.

    Not fork, which is what torch does by default: gloo's and NCCL's threads hold locks that a
    forked child would wait for.
    """
    dataset = aiolit.StreamingDataset(input_dir, shuffle=True, drop_last=True)
    return aiolit.StreamingDataLoader(
        dataset,
        batch_size=BATCH,
        num_workers=1,
        persistent_workers=True,
        multiprocessing_context="forkserver",
    )


def train(loader: aiolit.StreamingDataLoader) -> None:
    """Train; the gradients are averaged over the ranks at each step."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(EPOCHS):
        seen = torch.zeros(2)  # samples, and how many of them were told right
        for batch in loader:
            scores = model(batch["image"])
            seen += torch.tensor([len(scores), (scores.argmax(1) == batch["label"]).sum()])
            optimizer.zero_grad()
            nn.functional.cross_entropy(scores, batch["label"]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        print(
            f"rank {dist.get_rank()}: epoch {epoch}, {len(loader)} batches, {int(seen[0])} samples"
        )
        dist.all_reduce(seen)
        if dist.get_rank() == 0:
            print(f"all ranks: {int(seen[0])} samples, accuracy {seen[1] / seen[0]:.3f}")


def main() -> None:
    """Write on rank 0, train on all."""
    dist.init_process_group("gloo")
    with tempfile.TemporaryDirectory() as work:
        places = [f"{work}/digits"]
        dist.broadcast_object_list(places)  # rank 0's
        if dist.get_rank() == 0:
            write(places[0])
        dist.barrier()
        train(open_loader(places[0]))
        dist.barrier()  # nobody reads any more: rank 0 may remove the folder
    dist.destroy_process_group()


if __name__ == "__main__":
    if not dist.is_torchelastic_launched():
        sys.exit("run it with torchrun; the first lines of this file say how")
    main()
