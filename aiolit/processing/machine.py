"""What one machine of a cluster has to offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from aiolit.errors import ConfigError
from aiolit.options import positive
from aiolit.units import parse_size

__all__ = ["Machine"]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What ``optimize`` and ``map`` reserve for a node on each machine of a Ray cluster.

    The named ones are plain values, which ``dataclasses.replace(Machine.DATA_PREP, cpus=16)``
    changes: ``CPU`` has 4 CPUs, ``DATA_PREP`` 32, ``DATA_PREP_MAX`` 64, ``DATA_PREP_ULTRA`` 96;
    ``T4``, ``L4``, ``A10G``, ``L40S``, ``A100``, ``H100`` and ``H200`` have 8 CPUs and one GPU of
    that kind. They reserve no memory.

    Args:
        cpus: CPUs; also the number of worker processes, where ``num_workers`` does not say.
        memory: Bytes, or a size such as ``"64GB"``; None reserves none.
        gpus: GPUs.
        accelerator: The kind of GPU as Ray calls it, such as ``"A100"``; None takes any.
        resources: Resources that the cluster has under names of its own, and how much of each.

    Raises:
        ConfigError: A value cannot be.
    """

    cpus: int = 1
    memory: int | str | None = None
    gpus: int = 0
    accelerator: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)

    CPU: ClassVar[Machine]
    DATA_PREP: ClassVar[Machine]
    DATA_PREP_MAX: ClassVar[Machine]
    DATA_PREP_ULTRA: ClassVar[Machine]
    T4: ClassVar[Machine]
    L4: ClassVar[Machine]
    A10G: ClassVar[Machine]
    L40S: ClassVar[Machine]
    A100: ClassVar[Machine]
    H100: ClassVar[Machine]
    H200: ClassVar[Machine]

    def __post_init__(self) -> None:
        positive(self.cpus, name="cpus")
        positive(self.gpus, name="gpus", least=0)
        if self.memory is not None:
            try:
                nbytes = parse_size(self.memory, name="memory")
            except (TypeError, ValueError) as error:
                raise ConfigError(str(error)) from error
            object.__setattr__(self, "memory", positive(nbytes, name="memory"))
        if self.accelerator is not None and not self.gpus:
            raise ConfigError(f"accelerator={self.accelerator!r} needs gpus of at least 1")
        for name, amount in self.resources.items():
            if isinstance(amount, bool | str) or not amount > 0:
                raise ConfigError(f"resources[{name!r}] must be a positive number, not {amount!r}")

    def needs(self) -> dict[str, float]:
        """Return what it takes of a machine, under Ray's names."""
        needs: dict[str, float] = {"CPU": self.cpus, **self.resources}
        if self.gpus:
            needs["GPU"] = self.gpus
        if isinstance(self.memory, int):
            needs["memory"] = self.memory
        if self.accelerator is not None:
            needs[f"accelerator_type:{self.accelerator}"] = 0.001
        return needs


Machine.CPU = Machine(cpus=4)
Machine.DATA_PREP = Machine(cpus=32)
Machine.DATA_PREP_MAX = Machine(cpus=64)
Machine.DATA_PREP_ULTRA = Machine(cpus=96)
Machine.T4 = Machine(cpus=8, gpus=1, accelerator="T4")
Machine.L4 = Machine(cpus=8, gpus=1, accelerator="L4")
Machine.A10G = Machine(cpus=8, gpus=1, accelerator="A10G")
Machine.L40S = Machine(cpus=8, gpus=1, accelerator="L40S")
Machine.A100 = Machine(cpus=8, gpus=1, accelerator="A100")
Machine.H100 = Machine(cpus=8, gpus=1, accelerator="H100")
Machine.H200 = Machine(cpus=8, gpus=1, accelerator="H200")
