"""PyTorch Lightning, interrupted in mid-epoch, goes on with exactly the samples that were left.

Lightning saves and restores the state of a `StreamingDataLoader` by itself, in its checkpoints.
Run it with ``python examples/lightning_resume.py``; the data are the handwritten digits that ship
inside scikit-learn.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits
from torch import nn

import aiolit

SAVE_EVERY = 10  # batches
POWER_FAILS_AT = 23


class PowerFailure(Exception):
    """What ends the first run."""


class DigitReader(LightningModule):
    """A small network, which also writes down the samples it was trained on."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.seen: list[list[int]] = []
        self.fail_at = fail_at

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Train on a batch."""
        if self.global_step == self.fail_at:
            raise PowerFailure
        self.seen.append(batch["number"].tolist())
        return nn.functional.cross_entropy(self.model(batch["image"]), batch["label"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def to_sample(digit: tuple[int, Any, Any]) -> dict[str, Any]:
    """Turn one input into one sample."""
    number, pixels, label = digit
    return {"number": number, "image": pixels.astype(np.float32) / 16, "label": int(label)}


def write(output_dir: str) -> int:
    """Write the digits; return how many there are."""
    digits = load_digits()
    numbered = zip(range(len(digits.target)), digits.images, digits.target, strict=True)
    written = aiolit.optimize(
        to_sample, list(numbered), output_dir, chunk_bytes="32KB", num_workers=2, verbose=False
    )
    return written.samples


def fit(model: DigitReader, work: Path, resume_from: Path | None = None) -> None:
    """Train for an epoch, or for what a checkpoint leaves of it."""
    dataset = aiolit.StreamingDataset(work / "digits", shuffle=True)
    loader = aiolit.StreamingDataLoader(dataset, batch_size=32, num_workers=2)
    checkpoints = ModelCheckpoint(work / "checkpoints", "{step}", every_n_train_steps=SAVE_EVERY)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=1,
        callbacks=[checkpoints],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=work,
    )
    trainer.fit(model, loader, ckpt_path=resume_from)


def main() -> None:
    """Train, fail, go on, and see that nothing was lost or seen twice."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        samples = write(f"{folder}/digits")
        first = DigitReader(fail_at=POWER_FAILS_AT)
        try:
            fit(first, work)
        except PowerFailure:
            print(f"the power failed at batch {POWER_FAILS_AT}")
        (checkpoint,) = (work / "checkpoints").iterdir()
        print(f"going on from {checkpoint.name}")
        second = DigitReader()
        fit(second, work, checkpoint)

    # What came behind the checkpoint is trained again, since the weights know nothing of it.
    kept = POWER_FAILS_AT // SAVE_EVERY * SAVE_EVERY
    assert first.seen[kept:] == second.seen[: len(first.seen) - kept]
    numbers = [number for batch in first.seen[:kept] + second.seen for number in batch]
    assert sorted(numbers) == list(range(samples))
    print(f"{kept} batches before, {len(second.seen)} behind: each of {samples} digits once")


if __name__ == "__main__":
    main()
