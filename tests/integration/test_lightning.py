"""PyTorch Lightning saves and restores a loader's state by duck typing: the real Trainer, the real
Fabric, the same samples after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aiolit import (
    CombinedStreamingDataset,
    ParallelStreamingDataset,
    StreamingDataLoader,
    StreamingDataset,
)

lightning = pytest.importorskip("lightning", reason="pip install lightning")

from lightning.fabric import Fabric  # noqa: E402
from lightning.pytorch import Callback, LightningModule, Trainer  # noqa: E402

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.keeps_open("environment", reason="torch sets its SIGCHLD handler for good"),
    # Lightning's own: what it says about its defaults, and what it uses of torch.
    pytest.mark.filterwarnings("ignore"),
]

SAMPLES, BATCH = 61, 4
Make = Callable[[], Any]
_Callback: Any = Callback
_Module: Any = LightningModule


class Model(_Module):  # type: ignore[misc]
    """Writes down what it is trained on."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, list[int]]] = []
        self.fail_at = fail_at

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.fail_at is not None and self.global_step == self.fail_at:
            raise RuntimeError("the power went out")
        values = batch[0] if isinstance(batch, (list, tuple)) else batch
        self.seen.append((self.current_epoch, values.tolist()))
        loss: torch.Tensor = self.layer(values.float().reshape(-1, 1)).mean() * 1e-6
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-9)


class SaveEveryStep(_Callback):  # type: ignore[misc]
    """Saves a checkpoint behind every batch, as ``ModelCheckpoint(every_n_train_steps=1)`` does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


class SaveEveryEpoch(_Callback):  # type: ignore[misc]
    """Saves a checkpoint at the end of every epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        trainer.save_checkpoint(self.folder / f"epoch{trainer.current_epoch}.ckpt")


def fit(
    model: Model, loader: Any, *callbacks: Any, checkpoint: Path | None = None, **options: Any
) -> list[tuple[int, list[int]]]:
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(model, loader, ckpt_path=None if checkpoint is None else str(checkpoint))
    return model.seen


@pytest.fixture
def dataset(write_dataset: Any) -> Make:
    folder = write_dataset(range(SAMPLES), chunk_size=7)
    return lambda: StreamingDataset(folder, shuffle=True)


@pytest.fixture(params=["one", "combined", "per_stream", "parallel"])
def any_dataset(request: pytest.FixtureRequest, write_dataset: Any, dataset: Make) -> Make:
    other = write_dataset(range(1000, 1030), chunk_size=4, name="other")
    return {
        "one": dataset,
        "combined": lambda: CombinedStreamingDataset(
            [dataset(), StreamingDataset(other)], weights=[2, 1], iterate_over_all=False
        ),
        "per_stream": lambda: CombinedStreamingDataset(
            [dataset(), StreamingDataset(other)], batching_method="per_stream"
        ),
        "parallel": lambda: ParallelStreamingDataset([dataset(), StreamingDataset(other)], 50),
    }[request.param]


@pytest.mark.parametrize("stop", [1, 13])
def test_trainer_resumes_mid_epoch_after_max_steps(
    any_dataset: Make, tmp_path: Path, stop: int
) -> None:
    """litdata #775: 'Lightning Trainer does not restore loader state'."""
    whole = fit(Model(), StreamingDataLoader(any_dataset(), batch_size=BATCH), max_epochs=3)
    begun = fit(
        Model(),
        StreamingDataLoader(any_dataset(), batch_size=BATCH),
        SaveEveryStep(tmp_path),
        max_steps=stop,
    )
    rest = fit(
        Model(),
        StreamingDataLoader(any_dataset(), batch_size=BATCH),
        max_epochs=3,
        checkpoint=tmp_path / f"{stop}.ckpt",
    )
    assert begun + rest == whole


@pytest.mark.parametrize("stop", [16])
def test_trainer_resumes_behind_the_last_batch_of_an_epoch(
    dataset: Make, tmp_path: Path, stop: int
) -> None:
    whole = fit(Model(), StreamingDataLoader(dataset(), batch_size=BATCH), max_epochs=3)
    begun = fit(
        Model(),
        StreamingDataLoader(dataset(), batch_size=BATCH),
        SaveEveryStep(tmp_path),
        max_steps=stop,
    )
    rest = fit(
        Model(),
        StreamingDataLoader(dataset(), batch_size=BATCH),
        max_epochs=3,
        checkpoint=tmp_path / f"{stop}.ckpt",
    )
    assert begun + rest == whole


def test_trainer_resumes_from_a_checkpoint_of_an_epochs_end(dataset: Make, tmp_path: Path) -> None:
    whole = fit(Model(), StreamingDataLoader(dataset(), batch_size=BATCH), max_epochs=3)
    begun = fit(
        Model(),
        StreamingDataLoader(dataset(), batch_size=BATCH),
        SaveEveryEpoch(tmp_path),
        max_epochs=2,
    )
    rest = fit(
        Model(),
        StreamingDataLoader(dataset(), batch_size=BATCH),
        max_epochs=3,
        checkpoint=tmp_path / "epoch1.ckpt",
    )
    assert begun + rest == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_trainer_resumes_after_an_exception(dataset: Make, tmp_path: Path, workers: int) -> None:
    def loader() -> StreamingDataLoader:
        return StreamingDataLoader(dataset(), batch_size=BATCH, num_workers=workers)

    whole = fit(Model(), loader(), max_epochs=2)
    failing = Model(fail_at=6)
    with pytest.raises(RuntimeError, match="power"):
        fit(failing, loader(), SaveEveryStep(tmp_path), max_epochs=2)
    rest = fit(Model(), loader(), max_epochs=2, checkpoint=tmp_path / "6.ckpt")
    assert failing.seen + rest == whole


def test_trainer_resumes_with_other_workers(dataset: Make, tmp_path: Path) -> None:
    begun = fit(
        Model(),
        StreamingDataLoader(dataset(), batch_size=BATCH, num_workers=2),
        SaveEveryStep(tmp_path),
        max_steps=5,
    )
    rest = fit(
        Model(),
        StreamingDataLoader(dataset(), batch_size=BATCH),
        max_epochs=1,
        checkpoint=tmp_path / "5.ckpt",
    )
    assert sorted(flat(begun + rest)) == list(range(SAMPLES))


def test_a_loader_iterated_before_training_begins_at_epoch_1(dataset: Make) -> None:
    """Trainers try ``iter(loader)`` to see whether it can be iterated; that takes no epoch."""
    loader = StreamingDataLoader(dataset(), batch_size=BATCH)
    iter(loader)
    first = [batch.tolist() for batch in StreamingDataLoader(dataset(), batch_size=BATCH)]
    assert [batch for _, batch in fit(Model(), loader, max_epochs=1)] == first


def test_validation_loaders_read_everything_each_time(dataset: Make) -> None:
    seen: list[int] = []

    class Validated(Model):
        def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
            seen.extend(batch.tolist())

    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=2,
        num_sanity_val_steps=2,
    )
    trainer.fit(
        Validated(),
        StreamingDataLoader(dataset(), batch_size=BATCH),
        StreamingDataLoader(dataset(), batch_size=BATCH),
    )
    sanity = 2 * BATCH
    assert len(seen) == sanity + 2 * SAMPLES
    assert sorted(seen[sanity : sanity + SAMPLES]) == list(range(SAMPLES))
    assert sorted(seen[sanity + SAMPLES :]) == list(range(SAMPLES))


@pytest.mark.parametrize("workers", [0, 2])
def test_fabric_saves_and_loads_a_loader(dataset: Make, tmp_path: Path, workers: int) -> None:
    def prepared() -> tuple[Any, Any]:
        fabric = Fabric(accelerator="cpu", devices=1)
        fabric.launch()
        loader = StreamingDataLoader(dataset(), batch_size=BATCH, num_workers=workers)
        return fabric, fabric.setup_dataloaders(loader)

    _, loader = prepared()
    whole = [batch.tolist() for batch in loader]
    fabric, loader = prepared()
    batches = iter(loader)
    begun = [next(batches).tolist() for _ in range(6)]
    fabric.save(tmp_path / "fabric.ckpt", {"loader": loader})
    del batches
    fabric, loader = prepared()
    fabric.load(tmp_path / "fabric.ckpt", {"loader": loader})
    assert begun + [batch.tolist() for batch in loader] == whole


def flat(seen: list[tuple[int, list[int]]]) -> Iterator[int]:
    for _, values in seen:
        yield from values
