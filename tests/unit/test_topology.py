"""Which of how many processes this is."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch.distributed as dist

from aiolit.errors import ConfigError
from aiolit.streaming.topology import Topology, find_topology

NAMES = (
    "RANK",
    "WORLD_SIZE",
    "GLOBAL_RANK",
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_STEP_NUM_TASKS",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_RANK",
    "PMI_SIZE",
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, (3, 8)),
        ({"GLOBAL_RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6"}, (5, 6)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, (0, 1)),  # a batch script is no task
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"}, (2, 4)),
        ({"PMI_RANK": "1", "PMI_SIZE": "3"}, (1, 3)),
        # torchrun started by srun: what torchrun says is nearer.
        (
            {"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"},
            (3, 8),
        ),
        ({"WORLD_SIZE": "8"}, (0, 1)),
    ],
)
def test_what_launchers_set(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: tuple[int, int]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_topology() == Topology(*expected)
    assert find_topology(1, 4) == Topology(1, 4)  # told


@pytest.mark.parametrize(("rank", "size"), [("x", "2"), ("2", "2"), ("-1", "2"), ("0", "0")])
def test_an_environment_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, rank: str, size: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ConfigError, match=r"rank \S+ of|RANK"):
        find_topology()


@pytest.mark.parametrize(("rank", "size"), [(0, None), (None, 2), (2, 2), (-1, 1)])
def test_arguments_that_cannot_be(rank: int | None, size: int | None) -> None:
    with pytest.raises(ConfigError):
        find_topology(rank, size)


@pytest.fixture
def joined() -> Iterator[None]:
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.keeps_open("threads", "sockets", "files", reason="gloo's own")
def test_torch_is_followed_and_a_difference_is_said(
    joined: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_topology() == Topology(0, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.warns(UserWarning, match=r"says rank 1 of 2.*rank 0 of 1.*is followed"):
        assert find_topology() == Topology(0, 1)
    assert "RANK" in os.environ
