"""Quick start: optimize real images, stream them from disk and from S3, train a model each time.

The data are the 1,797 handwritten digits (8 x 8 pixels) that ship inside scikit-learn. Run it with
``make demo``, or with ``python examples/quickstart.py`` where aiolit[s3], scikit-learn, boto3 and
moto[s3] are installed.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import numpy as np
import torch
from local_s3 import local_s3
from sklearn.datasets import load_digits
from torch import nn

import aiolit

EPOCHS = 12
HELD_OUT = 360

Digit = tuple[np.ndarray[Any, Any], int]


def load() -> list[Digit]:
    """Load the digits as (pixels, label), mixed once and for all."""
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return [(digits.images[i], digits.target[i]) for i in order]


def to_sample(digit: Digit) -> dict[str, Any]:
    """Turn one input into one sample; the worker processes of `optimize` run this."""
    pixels, label = digit
    return {"image": pixels.astype(np.uint8), "label": int(label)}


def write(digits: list[Digit], output_dir: str, **storage: Any) -> None:
    """Write a data set in chunks of 16 KB, with two worker processes."""
    written = aiolit.optimize(
        to_sample,
        digits,
        output_dir,
        chunk_bytes="16KB",
        num_workers=2,
        verbose=False,
        **storage,
    )
    print(
        f"  optimized {written.samples:,} digits into {written.chunks} chunks, "
        f"{written.nbytes:,} bytes, in {written.seconds:.1f} s"
    )


def stream(url: str, *, shuffle: bool, **where: Any) -> aiolit.StreamingDataLoader:
    """Open a data set, wherever it lies, as batches that two worker processes load."""
    dataset = aiolit.StreamingDataset(url, shuffle=shuffle, **where)
    return aiolit.StreamingDataLoader(
        dataset, batch_size=64, num_workers=2, persistent_workers=True
    )


def as_input(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Scale a batch of images to 0..1, as one channel."""
    return batch["image"].unsqueeze(1).float() / 16


def train(loader: aiolit.StreamingDataLoader) -> nn.Module:
    """Train a small convolutional network on a few epochs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    samples = 0
    start = time.perf_counter()
    for _ in range(EPOCHS):
        for batch in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(as_input(batch)), batch["label"])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            samples += len(batch["label"])
    seconds = time.perf_counter() - start
    print(f"  trained on {samples:,} samples at {samples / seconds:,.0f} samples/s")
    return model


@torch.inference_mode()
def measure(model: nn.Module, loader: aiolit.StreamingDataLoader) -> float:
    """Measure the share of the digits that the model reads right."""
    right = [model(as_input(batch)).argmax(1) == batch["label"] for batch in loader]
    accuracy = torch.cat(right).float().mean().item()
    print(f"  accuracy on {HELD_OUT} held-out digits: {accuracy:.3f}")
    return accuracy


def run(root: str, cache_dir: str | None = None, **storage: Any) -> float:
    """Write both parts below `root`, train on the one, return the accuracy on the other."""
    print(f"{root}:")
    digits = load()
    write(digits[HELD_OUT:], f"{root}/train", **storage)
    write(digits[:HELD_OUT], f"{root}/held-out", **storage)
    model = train(stream(f"{root}/train", shuffle=True, cache_dir=cache_dir, **storage))
    return measure(model, stream(f"{root}/held-out", shuffle=False, cache_dir=cache_dir, **storage))


def main() -> None:
    """Do it all on the local disk, then on an S3 server."""
    with tempfile.TemporaryDirectory() as work, local_s3("demo") as storage_options:
        on_disk = run(f"{work}/digits")
        on_s3 = run("s3://demo/digits", f"{work}/cache", storage_options=storage_options)
    if min(on_disk, on_s3) <= 0.95:
        raise SystemExit("the model should read more than 95 % of the held-out digits")


if __name__ == "__main__":
    main()
