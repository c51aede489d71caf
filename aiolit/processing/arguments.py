"""The arguments of `optimize`, gathered in one value and checked before any work starts."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiolit.errors import ConfigError
from aiolit.format.encryption import Encryption
from aiolit.format.loader import ItemLoader, PyTreeLoader, TokensLoader
from aiolit.format.serializers import Serializer
from aiolit.options import (
    Compression,
    OutputOptions,
    WorkOptions,
    choose_num_workers,
    parse_compression,
    parse_fast_dev_run,
    parse_limits,
    parse_mode,
    parse_on_error,
    parse_place,
    parse_start_method,
    positive,
)
from aiolit.processing.machine import Machine
from aiolit.processing.map_call import Wants, inspect_map_function
from aiolit.processing.nodes import Downloads, Nodes
from aiolit.processing.writer import Layout
from aiolit.store.connections import expand

__all__ = ["MapArguments", "OptimizeArguments", "OutputArguments", "WorkArguments"]

_DOWNLOADERS = 16


_FLAGS = (
    "align_chunking",
    "broadcast_paths",
    "error_when_not_empty",
    "keep_data_ordered",
    "optimize_dns",
    "reorder_files",
    "use_checkpoint",
    "verbose",
)


@dataclass(frozen=True, kw_only=True)
class OutputArguments:
    """What a user says about the data set that is written."""

    output_dir: Any
    chunk_size: int | None
    chunk_bytes: int | str | None
    compression: str | None
    compression_level: str | None
    compression_batch_size: int | None
    encryption: Encryption | None
    num_uploaders: int | None
    mode: str | None
    item_loader: ItemLoader | None
    storage_options: Mapping[str, Any] | None
    session_options: Mapping[str, Any] | None
    serializers: Mapping[str, Serializer] | None
    use_checkpoint: bool = False

    def check_serializers(self) -> None:
        """Refuse what is no serializer.

        Raises:
            ConfigError: A method is missing, or the name is no text.
        """
        for name, serializer in (self.serializers or {}).items():
            check_serializer(name, serializer)

    def layout(self) -> Layout:
        """Return how samples become chunks."""
        limits = parse_limits(self.chunk_size, self.chunk_bytes)
        compression = parse_compression(
            self.compression, self.compression_level, self.compression_batch_size
        )
        loader = PyTreeLoader() if self.item_loader is None else self.item_loader
        if not isinstance(loader, ItemLoader):
            raise ConfigError(f"item_loader must be an item loader object, not {loader!r}")
        if self.encryption is not None and not isinstance(self.encryption, Encryption):
            raise ConfigError(f"encryption must be an Encryption object, not {self.encryption!r}")
        _check_frames(compression, self.encryption, loader)
        return Layout(
            limits=limits, loader=loader, compression=compression, encryption=self.encryption
        )

    def output(self) -> OutputOptions:
        """Return where the data set goes."""
        mode = parse_mode(self.mode)
        uploaders = 4 if self.num_uploaders is None else self.num_uploaders
        return OutputOptions(
            url=expand(parse_place(self.output_dir, name="output_dir")),
            mode=mode,
            use_checkpoint=bool(self.use_checkpoint),
            num_uploaders=positive(uploaders, name="num_uploaders"),
            storage_options=self.storage_options,
            session_options=self.session_options,
        )


@dataclass(frozen=True, kw_only=True)
class WorkArguments:
    """What a user says about inputs and workers, for `optimize` and `map`."""

    fn: Callable[..., Any]
    inputs: Any
    queue: Any
    input_dir: Any
    weights: Any
    num_workers: int | None
    fast_dev_run: bool | int
    num_nodes: int | None
    machine: Any
    num_downloaders: int | None
    reorder_files: bool
    reader: Any
    batch_size: int | None
    start_method: str | None
    optimize_dns: bool | None
    broadcast_paths: bool
    keep_data_ordered: bool | None
    verbose: bool
    on_error: Any
    max_retries: int
    concurrency: int
    timeout: float | None
    storage_options: Mapping[str, Any] | None
    session_options: Mapping[str, Any] | None

    def check_work(self) -> None:
        """Check what is checked nowhere else.

        Raises:
            ConfigError: An argument cannot work; the message is one sentence that says why.
        """
        if (self.inputs is None) == (self.queue is None):
            raise ConfigError("pass either inputs or queue: exactly one of them is needed")
        check_nodes(self.num_nodes, self.machine)
        parse_start_method(self.start_method)
        if self.optimize_dns:
            raise ConfigError(
                "optimize_dns=True would rewrite this machine's resolver settings, which aiolit "
                "never does; leave it out"
            )
        for name in _FLAGS:
            value = getattr(self, name, None)
            if value is not None and not isinstance(value, bool):
                raise ConfigError(f"{name} must be True or False, not {value!r}")
        if self.batch_size is not None:
            positive(self.batch_size, name="batch_size")
        if self.num_downloaders is not None:
            positive(self.num_downloaders, name="num_downloaders")

    def work(self) -> WorkOptions:
        """Return how the inputs are worked on."""
        return WorkOptions(
            num_workers=choose_num_workers(self.num_workers, cpus=usable_cpus()),
            ordered=self.keep_data_ordered is not False,
            concurrency=positive(self.concurrency, name="concurrency"),
            max_retries=positive(self.max_retries, name="max_retries", least=0),
            on_error=parse_on_error(self.on_error),
            timeout_s=check_timeout(self.timeout),
            verbose=bool(self.verbose),
        )

    def nodes(self) -> Nodes | None:
        """Return how the job is spread over the machines of a cluster; None: it is not."""
        count = check_nodes(self.num_nodes, self.machine)
        if count is None:
            return None
        num_workers = None
        if self.num_workers is not None:
            num_workers = choose_num_workers(self.num_workers, cpus=1)
        return Nodes(
            num_nodes=count,
            machine=self.machine or Machine(cpus=num_workers or 1),
            num_workers=num_workers,
            most_workers=None if self.machine is None else self.machine.cpus,
            downloads=self.downloads(),
        )

    def downloads(self) -> Downloads:
        """Return how remote files that inputs name are downloaded."""
        place = self.input_dir
        return Downloads(
            input_dir=None if place is None else expand(parse_place(place, name="input_dir")),
            num_downloaders=self.num_downloaders or _DOWNLOADERS,
            storage_options=self.storage_options,
            session_options=self.session_options,
        )

    def limit(self) -> int | None:
        """Return how many inputs are taken, or None for all."""
        return parse_fast_dev_run(self.fast_dev_run)

    def read(self) -> Callable[[Any], Any] | None:
        """Return the reader's function, or None."""
        return None if self.reader is None else self.reader.read


@dataclass(frozen=True, kw_only=True)
class OptimizeArguments(OutputArguments, WorkArguments):
    """What the user passed; `optimize` says what each means."""

    align_chunking: bool

    def check(self) -> None:
        """Check what is checked nowhere else.

        Raises:
            ConfigError: An argument cannot work; the message is one sentence that says why.
        """
        check_function(self.fn, "fn", 1)
        self.check_work()
        self.check_serializers()


@dataclass(frozen=True, kw_only=True)
class MapArguments(WorkArguments):
    """What the user passed; `map` says what each means."""

    output_dir: Any
    error_when_not_empty: bool
    num_uploaders: int | None
    use_checkpoint: bool
    manifest: str | None

    def check(self) -> Wants:
        """Check what is checked nowhere else, and look at the function.

        Raises:
            ConfigError: An argument cannot work; the message is one sentence that says why.
        """
        wants = inspect_map_function(self.fn)
        self.check_work()
        check_manifest(self.manifest)
        return wants

    def output(self) -> OutputOptions:
        """Return where the files go."""
        uploaders = 4 if self.num_uploaders is None else self.num_uploaders
        return OutputOptions(
            url=expand(parse_place(self.output_dir, name="output_dir")),
            num_uploaders=positive(uploaders, name="num_uploaders"),
            use_checkpoint=bool(self.use_checkpoint),
            storage_options=self.storage_options,
            session_options=self.session_options,
        )


def check_function(fn: object, name: str, num_arguments: int) -> None:
    """Refuse what cannot be called with so many arguments.

    Raises:
        ConfigError: It is not callable, or takes another number of arguments.
    """
    if not callable(fn):
        raise ConfigError(f"{name} must be a function or a callable object, not {fn!r}")
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return  # some builtins do not say
    try:
        signature.bind(*[None] * num_arguments)
    except TypeError as error:
        arguments = "one argument" if num_arguments == 1 else f"{num_arguments} arguments"
        raise ConfigError(
            f"{name} is called with {arguments}, but its signature is {signature}: {error}"
        ) from error


def check_nodes(num_nodes: object, machine: object) -> int | None:
    """Return the number of nodes of a cluster, or None for this machine alone.

    Raises:
        ConfigError: ``num_nodes`` is no number, or ``machine`` no `Machine`.
    """
    count = 1 if num_nodes is None else positive(num_nodes, name="num_nodes")
    if machine is not None and not isinstance(machine, Machine):
        raise ConfigError(
            f"machine must be a Machine, such as Machine.DATA_PREP or Machine(cpus=8), not "
            f"{machine!r}"
        )
    return None if count == 1 and machine is None else count


def check_manifest(manifest: object) -> None:
    """Refuse what is no name of a file.

    Raises:
        ConfigError: It is not.
    """
    if manifest is None:
        return
    if not isinstance(manifest, str) or {"", ".", ".."} & set(manifest.split("/")):
        raise ConfigError(f"manifest must be the name of a file in output_dir, not {manifest!r}")


def check_serializer(name: object, serializer: object) -> None:
    """Refuse what is no serializer.

    Raises:
        ConfigError: A method is missing, or the name is no text.
    """
    methods = ("can_serialize", "serialize", "deserialize")
    if not isinstance(name, str) or not all(
        callable(getattr(serializer, m, None)) for m in methods
    ):
        raise ConfigError(
            f"serializers[{name!r}] must map a name to an object with the methods "
            f"{', '.join(methods)}, not {serializer!r}"
        )


def check_timeout(timeout: object) -> float | None:
    """Return ``timeout`` in seconds.

    Raises:
        ConfigError: It is not a positive number.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
        raise ConfigError(f"timeout must be a positive number of seconds, not {timeout!r}")
    return float(timeout)


def usable_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_frames(
    compression: Compression, encryption: Encryption | None, loader: ItemLoader
) -> None:
    if compression.granularity != "batch":
        return
    if encryption is not None or isinstance(loader, TokensLoader):
        raise ConfigError("compression_level='batch' goes with neither encryption nor tokens")
