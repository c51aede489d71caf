"""Which of how many processes this is, found out when iteration starts."""

from __future__ import annotations

import os
import sys
import warnings
from dataclasses import dataclass

from aiolit.errors import ConfigError

# What launchers really set: rank and size. torchrun and Lightning; Slurm's srun (a batch script
# has SLURM_NTASKS too, but it is no task, so the step's own variable is asked); Open MPI; MPICH.
_LAUNCHERS = (
    ("RANK", "WORLD_SIZE"),
    ("GLOBAL_RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)


@dataclass(frozen=True, slots=True)
class Topology:
    """This process's place among those that read different data."""

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank {self.rank} of world size {self.world_size} cannot be")


def find_topology(rank: int | None = None, world_size: int | None = None) -> Topology:
    """Return this process's place: as given, else from torch.distributed, else from the launcher.

    Raises:
        ConfigError: Only one of ``rank`` and ``world_size`` is given, or they do not fit.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError("give rank and world_size together, or neither")
    if rank is not None and world_size is not None:
        return Topology(rank, world_size)
    told = _from_environment()
    joined = _from_torch()
    if joined is None:
        return told or Topology()
    if told is not None and told != joined:
        warnings.warn(
            f"the environment says rank {told.rank} of {told.world_size}, torch.distributed says "
            f"rank {joined.rank} of {joined.world_size}; torch.distributed is followed",
            stacklevel=2,
        )
    return joined


def _from_environment() -> Topology | None:
    for rank_name, size_name in _LAUNCHERS:
        rank, size = os.environ.get(rank_name), os.environ.get(size_name)
        if rank is not None and size is not None:
            try:
                return Topology(int(rank), int(size))
            except ValueError as error:
                raise ConfigError(
                    f"{rank_name}={rank} and {size_name}={size} in the environment give no place "
                    f"of this process: {error}"
                ) from error
    return None


def _from_torch() -> Topology | None:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return Topology(distributed.get_rank(), distributed.get_world_size())
