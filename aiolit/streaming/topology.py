"""Which of how many processes this is, found out when iteration starts."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import get_spawning_popen
from typing import Any

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a user says about who reads the same data and who reads different data.

    Attributes:
        rank: This process's place among those that read different data; None is found out.
        world_size: How many read different data; given together with ``rank``.
        replicate: So many consecutive processes read the same data, as the ranks of one
            tensor-parallel group must.
        device_mesh: A ``torch.distributed.DeviceMesh``; processes that differ in ``data_dims``
            read different data, all others the same.
        data_dims: The names of the mesh's dimensions of data parallelism; None is allowed where
            the mesh has one dimension.

    Raises:
        ConfigError: They do not go together.
    """

    rank: int | None = None
    world_size: int | None = None
    replicate: int = 1
    device_mesh: Any = None
    data_dims: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if (self.rank is None) != (self.world_size is None):
            raise ConfigError("give rank and world_size together, or neither")
        if self.rank is not None and self.world_size is not None:
            Topology(self.rank, self.world_size)
        if isinstance(self.replicate, bool) or not isinstance(self.replicate, int):
            raise ConfigError(f"replicate must be a whole number, not {self.replicate!r}")
        if self.replicate < 1:
            raise ConfigError(f"replicate must be at least 1, not {self.replicate}")
        if self.device_mesh is None:
            if self.data_dims is not None:
                raise ConfigError("data_dims names dimensions of a device_mesh: give that too")
            return
        if self.rank is not None or self.replicate != 1:
            raise ConfigError("device_mesh says who reads what: give no rank or replicate with it")
        _mesh_dims(self.device_mesh, self.data_dims)

    def find(self) -> Topology:
        """Return this process's place, found out now."""
        if self.device_mesh is not None:
            return _from_mesh(self.device_mesh, _mesh_dims(self.device_mesh, self.data_dims))
        found = find_topology(self.rank, self.world_size)
        ranks, left = divmod(found.world_size, self.replicate)
        if left:
            raise ConfigError(
                f"replicate={self.replicate} does not divide the {found.world_size} processes"
            )
        return Topology(found.rank // self.replicate, ranks)

    def for_child(self) -> Place:
        """Return what a process that is spawned now has to know: there, torch.distributed and the
        mesh are not what they are here."""
        known = self.rank is not None and self.replicate == 1
        if known or get_spawning_popen() is None:
            return self
        if self.device_mesh is None and _from_torch() is None:
            return self
        here = self.find()
        return replace(
            self,
            rank=here.rank,
            world_size=here.world_size,
            replicate=1,
            device_mesh=None,
            data_dims=None,
        )


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


def agreed(topologies: Iterable[Topology]) -> Topology:
    """Return the one place that all members of a composed data set are read at.

    Raises:
        ConfigError: They differ; ranks would not end together.
    """
    found = list(dict.fromkeys(topologies))
    if len(found) > 1:
        raise ConfigError(
            "the members are read as "
            + " and as ".join(f"rank {one.rank} of {one.world_size}" for one in found)
            + ": give all of them the same rank, world_size, replicate or device_mesh"
        )
    return found[0]


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


def _mesh_dims(mesh: Any, dims: str | Sequence[str] | None) -> list[str | int]:
    names = tuple(mesh.mesh_dim_names or ())
    if dims is None:
        if mesh.ndim != 1:
            raise ConfigError(
                f"the device_mesh has {mesh.ndim} dimensions {names}: name those of data "
                "parallelism in data_dims"
            )
        return [0]
    wanted: list[str | int] = [dims] if isinstance(dims, str) else list(dims)
    unknown = [name for name in wanted if name not in names]
    if unknown or not wanted:
        raise ConfigError(f"the device_mesh has the dimensions {names}, not {unknown or wanted}")
    return wanted


def _from_mesh(mesh: Any, dims: Sequence[str | int]) -> Topology:
    rank, world = 0, 1
    for dim in dims:
        size = mesh.size(dim if isinstance(dim, int) else mesh.mesh_dim_names.index(dim))
        rank, world = rank * size + mesh.get_local_rank(dim), world * size
    return Topology(rank, world)
