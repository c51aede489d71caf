"""What the writing functions return."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiolit.units import format_size

__all__ = ["MapSummary", "SkippedInput", "Summary"]


@dataclass(frozen=True, slots=True)
class SkippedInput:
    """An input on which ``fn`` failed, with ``on_error`` set to go on.

    Attributes:
        index: Its position among the inputs.
        input: Its repr, shortened.
        error: Type and message of the exception.
    """

    index: int
    input: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a job has written.

    Attributes:
        output_dir: Where.
        samples: Samples written by this call (in ``append`` mode, without those there before).
        chunks: Chunks written by this call.
        nbytes: Bytes stored by this call, without the index.
        inputs: Inputs taken, skipped ones included.
        skipped: The inputs on which ``fn`` failed.
        seconds: How long it took.
    """

    output_dir: str
    samples: int
    chunks: int
    nbytes: int
    inputs: int
    seconds: float
    skipped: tuple[SkippedInput, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        text = (
            f"{self.samples:,} samples of {self.inputs:,} inputs in {self.chunks:,} chunks, "
            f"{format_size(self.nbytes)}, in {self.seconds:.1f} s, at {self.output_dir}"
        )
        if self.skipped:
            text += f"; {len(self.skipped):,} inputs were skipped"
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class MapSummary:
    """What `map` has made.

    Attributes:
        output_dir: Where.
        files: The files, relative to it, sorted.
        nbytes: Their bytes.
        inputs: Inputs taken, skipped ones included.
        skipped: The inputs on which ``fn`` failed.
        seconds: How long it took.
    """

    output_dir: str
    files: tuple[str, ...] = field(repr=False)
    nbytes: int
    inputs: int
    seconds: float
    skipped: tuple[SkippedInput, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        text = (
            f"{len(self.files):,} files of {self.inputs:,} inputs, {format_size(self.nbytes)}, "
            f"in {self.seconds:.1f} s, at {self.output_dir}"
        )
        if self.skipped:
            text += f"; {len(self.skipped):,} inputs were skipped"
        return text
