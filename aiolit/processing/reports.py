"""What a node of a cluster tells the head, and what it was told once."""

from __future__ import annotations

from dataclasses import dataclass

from aiolit.format.dataset_info import ChunkInfo
from aiolit.processing.job import OptimizeJob
from aiolit.processing.journal import Covered
from aiolit.processing.map_journal import Made
from aiolit.processing.mapping import MapJob
from aiolit.processing.nodes import Nodes
from aiolit.processing.protocol import Failure, Schema
from aiolit.processing.summary import SkippedInput
from aiolit.runtime.remote_error import RemoteError

__all__ = [
    "ChunkStored",
    "Drained",
    "Ended",
    "Failed",
    "FilesStored",
    "Hungry",
    "NodeReport",
    "NodeSetup",
    "SchemaSeen",
    "Skipped",
]


@dataclass(frozen=True, slots=True)
class Hungry:
    """The node can take a run of up to ``most`` inputs."""

    most: int


@dataclass(frozen=True, slots=True)
class SchemaSeen:
    """The tree of the node's first sample; it waits to hear what the data set's is."""

    schema: Schema


@dataclass(frozen=True, slots=True)
class ChunkStored:
    """A chunk is in the store, or in the node's own folder to be fetched."""

    chunk: ChunkInfo
    covered: Covered
    nbytes: int


@dataclass(frozen=True, slots=True)
class FilesStored:
    """So are the files that ``fn`` of `map` wrote for some inputs."""

    made: tuple[Made, ...]

    @property
    def nbytes(self) -> int:
        """How many bytes they have."""
        return sum(nbytes for each in self.made for _, nbytes in each.files)


@dataclass(frozen=True, slots=True)
class Drained:
    """Inputs are complete of which the node has no samples that are not stored."""

    covered: Covered


@dataclass(frozen=True, slots=True)
class Skipped:
    """``fn`` failed on an input, and the job goes on; the error where the user wants to see it."""

    skipped: SkippedInput
    error: RemoteError | None


@dataclass(frozen=True, slots=True)
class Failed:
    """The node has ended with an error: of the function on an input, or another one."""

    error: Failure | RemoteError


@dataclass(frozen=True, slots=True)
class Ended:
    """The node has ended as it was told."""


NodeReport = Hungry | SchemaSeen | ChunkStored | FilesStored | Drained | Skipped | Failed | Ended


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSetup:
    """What a node is told once.

    Attributes:
        job: The job, without inputs: they come from the head.
        nodes: How the job is spread.
        share: About how many inputs the node will get, where that matters.
        rank: Its number; no other node of the job has, or had, the same.
        first_number: The number of its first chunk.
        is_fetched: Whether the head fetches the files, because nobody else reaches the output.
        wants_errors: Whether the head wants to see the errors of skipped inputs.
    """

    job: OptimizeJob | MapJob
    nodes: Nodes
    share: int | None
    rank: int
    first_number: int
    is_fetched: bool
    wants_errors: bool
