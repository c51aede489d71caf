"""A replay buffer on disk or S3: episodes are appended while training reads the newest version.

An agent that does not know the physics of a pendulum learns to predict it. It plays, each round of
episodes is appended to a data set, and at the same time the model is trained on what lay there when
the round began: who has opened a data set reads that version to its end, and the next to open it
sees what was appended. Run it with ``python examples/replay_buffer.py``.
"""

from __future__ import annotations

import asyncio
import tempfile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import default_collate

from aiolit import aio

ROUNDS = 6
EPISODES = 8  # a round
STEPS = 100  # an episode

Array = NDArray[np.float32]


def step(state: Array, push: float) -> Array:
    """Return angle and speed of a pendulum a twentieth of a second after a push."""
    angle, speed = state
    speed = np.clip(speed + (15 * np.sin(angle) + 3 * push) / 20, -8, 8)
    return np.array([angle + speed / 20, speed], np.float32)


def play(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Play an episode with random pushes."""
    state = rng.uniform([-np.pi, -8], [np.pi, 8]).astype(np.float32)
    found = []
    for _ in range(STEPS):
        push = float(rng.uniform(-2, 2))
        after = step(state, push)
        found.append({"state": state, "push": push, "after": after})
        state = after
    return found


async def collect(url: str, rng: np.random.Generator) -> None:
    """Append a round of episodes; readers see all of them or, until the end, none."""
    async with aio.Writer(url, chunk_bytes="1MB", mode="append") as writer:
        for _ in range(EPISODES):
            for sample in await asyncio.to_thread(play, rng):
                await writer.put(sample)


def features(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return what the model sees of a batch."""
    angle, speed = batch["state"].unbind(1)
    return torch.stack([angle.sin(), angle.cos(), speed / 8, batch["push"].float() / 2], 1)


def learn(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]
) -> float:
    """Train on a batch; return the error of the predicted change."""
    error = nn.functional.mse_loss(model(features(batch)), batch["after"] - batch["state"])
    optimizer.zero_grad()
    error.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return error.item()


async def train(
    url: str, epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[int, float]:
    """Train on the newest version; return how many samples it has, and the mean error."""
    errors: list[float] = []
    async with aio.StreamingDataset(url, shuffle=True, seed=epoch) as buffer:
        async for batch in buffer.batches(32, collate_fn=default_collate):
            # In a thread, so that the loop goes on fetching and appending meanwhile.
            error = await asyncio.to_thread(learn, model, optimizer, batch)
            errors.append(error)
        return buffer.num_samples, sum(errors) / len(errors)


async def run(url: str) -> None:
    """Collect and train at the same time, round after round."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    await collect(url, rng)
    for number in range(ROUNDS):
        async with asyncio.TaskGroup() as group:
            group.create_task(collect(url, rng))
            trained = group.create_task(train(url, number, model, optimizer))
        samples, error = trained.result()
        print(f"round {number}: trained on {samples} samples, mean error {error:.4f}")


def main() -> None:
    """Run in a temporary folder."""
    with tempfile.TemporaryDirectory() as work:
        asyncio.run(run(f"{work}/buffer"))


if __name__ == "__main__":
    main()
