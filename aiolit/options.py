"""Option values of the writing functions: checked once at the door, frozen, passed down whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from aiolit.errors import ConfigError
from aiolit.units import parse_size

__all__ = [
    "MAX_CHUNK_BYTES",
    "ChunkLimits",
    "Compression",
    "ErrorAction",
    "Mode",
    "OnError",
    "OutputOptions",
    "WorkOptions",
    "choose_num_workers",
    "parse_compression",
    "parse_limits",
    "parse_mode",
    "parse_on_error",
    "parse_place",
    "positive",
]

# Offsets inside a chunk are 32-bit unsigned.
MAX_CHUNK_BYTES = 2**32 - 1
_FAST_DEV_RUN_INPUTS = 10
_COMPRESSION = re.compile(r"zstd(?::(\d+))?")
_START_METHODS = ("fork", "spawn", "forkserver", None)

Mode = Literal["append", "overwrite"]
ErrorAction = Literal["raise", "skip"]
OnError = ErrorAction | Callable[[int, Any, BaseException], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLimits:
    """When a chunk is full: one of the two is set.

    Attributes:
        chunk_bytes: Most bytes of encoded samples in a chunk.
        chunk_size: Most samples in a chunk (tokens, for a token data set).
    """

    chunk_bytes: int | None
    chunk_size: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """How chunks are compressed.

    Attributes:
        name: ``"zstd"`` or ``"zstd:N"`` as it is written in the index, or None.
        granularity: None for the whole file, ``"batch"`` for frames of ``batch_size`` samples.
        batch_size: Samples in a frame, or None.
    """

    name: str | None = None
    granularity: Literal["batch"] | None = None
    batch_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """Where the data set goes and what may be there already."""

    url: str
    mode: Mode | None = None
    use_checkpoint: bool = False
    num_uploaders: int = 4
    storage_options: Mapping[str, Any] | None = None
    session_options: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkOptions:
    """How the inputs are worked on.

    Attributes:
        num_workers: Worker processes.
        ordered: Whether samples lie in the order of the inputs.
        concurrency: Items each worker keeps in flight when ``fn`` is async.
        max_retries: How often an input may be begun again after its worker died.
        on_error: What an exception in ``fn`` does.
        timeout_s: Longest silence of the source of inputs, in seconds, or None for no limit.
        memory_bytes: Bytes of results held in memory while they wait for their turn.
        spool_bytes: Bytes of results held on disk before no further inputs are handed out.
        verbose: Whether a progress bar is shown.
    """

    num_workers: int
    ordered: bool = True
    concurrency: int = 64
    max_retries: int = 0
    on_error: OnError = "raise"
    timeout_s: float | None = None
    memory_bytes: int = 256 << 20
    spool_bytes: int = 4 << 30
    verbose: bool = True


def positive(value: object, *, name: str, least: int = 1) -> int:
    """Return ``value`` if it is an int of at least ``least``.

    Raises:
        ConfigError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return value


def parse_limits(chunk_size: object, chunk_bytes: int | str | None) -> ChunkLimits:
    """Check that exactly one limit is given and that it can work.

    Raises:
        ConfigError: Both or neither are given, or the value is no size a chunk can have.
    """
    if chunk_size is None and chunk_bytes is None:
        raise ConfigError(
            "say how large a chunk may be: chunk_bytes='64MB' (bytes of samples) or "
            "chunk_size=1000 (number of samples)"
        )
    if chunk_size is not None and chunk_bytes is not None:
        raise ConfigError("chunk_size and chunk_bytes are both given; a chunk has only one limit")
    if chunk_size is not None:
        return ChunkLimits(chunk_bytes=None, chunk_size=positive(chunk_size, name="chunk_size"))
    try:
        nbytes = parse_size(cast(int | str, chunk_bytes), name="chunk_bytes")
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error
    if not 0 < nbytes <= MAX_CHUNK_BYTES:
        raise ConfigError(
            f"chunk_bytes={chunk_bytes!r} is out of range; a chunk holds 1 byte to 4 GiB"
        )
    return ChunkLimits(chunk_bytes=nbytes, chunk_size=None)


def parse_compression(
    compression: object, compression_level: object, compression_batch_size: object
) -> Compression:
    """Check the three compression arguments together.

    Raises:
        ConfigError: An unknown name or granularity, a level out of 1 to 22, or a detail of
            compression without compression.
    """
    if compression is None:
        if compression_level is not None or compression_batch_size is not None:
            raise ConfigError(
                "compression_level and compression_batch_size need compression='zstd'"
            )
        return Compression()
    match = _COMPRESSION.fullmatch(compression) if isinstance(compression, str) else None
    if match is None or (match[1] is not None and not 1 <= int(match[1]) <= 22):
        raise ConfigError(
            f"compression={compression!r} is unknown; use 'zstd' or 'zstd:1' to 'zstd:22'"
        )
    name = cast(str, compression)
    if compression_level in (None, "chunk"):
        if compression_batch_size is not None:
            raise ConfigError("compression_batch_size needs compression_level='batch'")
        return Compression(name=name)
    if compression_level != "batch":
        raise ConfigError(
            f"compression_level={compression_level!r} is unknown; use 'batch' for frames that can "
            "be read alone, or leave it out for whole chunks (how hard zstd works is set by "
            "compression='zstd:7')"
        )
    size = 256 if compression_batch_size is None else compression_batch_size
    return Compression(
        name=name,
        granularity="batch",
        batch_size=positive(size, name="compression_batch_size"),
    )


def parse_mode(mode: object) -> Mode | None:
    """Check ``mode``.

    Raises:
        ConfigError: It is not None, ``"append"`` or ``"overwrite"``.
    """
    if mode is None:
        return None
    if mode == "append":
        return "append"
    if mode == "overwrite":
        return "overwrite"
    raise ConfigError(f"mode={mode!r} is unknown; use None, 'append' or 'overwrite'")


def parse_on_error(on_error: object) -> OnError:
    """Check ``on_error``.

    Raises:
        ConfigError: It is not ``"raise"``, ``"skip"`` or a callable.
    """
    if on_error not in ("raise", "skip") and not callable(on_error):
        raise ConfigError(f"on_error={on_error!r} is unknown; use 'raise', 'skip' or a function")
    return cast(OnError, on_error)


def parse_start_method(start_method: object) -> None:
    """Check ``start_method``; workers are fresh interpreters whichever it is.

    Raises:
        ConfigError: It is no start method of ``multiprocessing``.
    """
    if start_method not in _START_METHODS:
        raise ConfigError(
            f"start_method={start_method!r} is unknown; use 'fork', 'spawn' or 'forkserver'"
        )


def parse_place(value: object, *, name: str) -> str:
    """Return the path or URL that an argument stands for.

    It is a str, a path, or an object with ``url`` and ``path`` (a ``Dir``).

    Raises:
        ConfigError: It is none of these, or empty; the message begins with ``name``.
    """
    place: object = value
    if not isinstance(place, str | os.PathLike):
        place = getattr(value, "url", None) or getattr(value, "path", None)
    if not isinstance(place, str | os.PathLike) or not os.fspath(place):
        raise ConfigError(f"{name} must be a path or a URL, not {value!r}")
    text = str(os.fspath(place))
    if "\0" in text:
        raise ConfigError(f"{name} must be a path or a URL, and {text!r} has a NUL in it")
    return text


def parse_fast_dev_run(fast_dev_run: object) -> int | None:
    """Return how many inputs are taken, or None for all.

    Raises:
        ConfigError: It is neither a bool nor a number of inputs.
    """
    if isinstance(fast_dev_run, bool):
        return _FAST_DEV_RUN_INPUTS if fast_dev_run else None
    return positive(fast_dev_run, name="fast_dev_run")


def choose_num_workers(num_workers: object, *, cpus: int) -> int:
    """Return the number of worker processes: as asked, else one for every usable CPU.

    Raises:
        ConfigError: It is negative or no whole number.
    """
    if num_workers is None:
        return max(1, cpus)
    return max(1, positive(num_workers, name="num_workers", least=0))
