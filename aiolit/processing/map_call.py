"""In the worker: the user's function of `map`, called with a folder of its own for each input."""

from __future__ import annotations

import inspect
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiolit.errors import ConfigError
from aiolit.format.encryption import Encryption
from aiolit.format.index import Index
from aiolit.format.loader import BoundLoader, EncodedItem, ItemLoader, SampleEncoder
from aiolit.format.serializers import SerializerRegistry

__all__ = ["AsyncMapCall", "FilesLoader", "MapCall", "Wants", "inspect_map_function"]


@dataclass(frozen=True, slots=True)
class Wants:
    """Which of the optional arguments a function of `map` takes."""

    device: bool = False
    is_last: bool = False


def inspect_map_function(fn: Callable[..., Any]) -> Wants:
    """Look at the arguments of a function of `map`.

    Raises:
        ConfigError: It is not callable with an input and an ``output_dir``.
    """
    if not callable(fn):
        raise ConfigError(f"fn must be a function or a callable object, not {fn!r}")
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):
        return Wants()
    named = {
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    wants = Wants("device" in named, "is_last" in named)
    optional = {"device": None} if wants.device else {}
    optional |= {"is_last": None} if wants.is_last else {}
    try:
        signature.bind(None, None, **optional)
    except TypeError as error:
        raise ConfigError(
            "fn is called with an input and an output_dir (and device=, is_last= where it has "
            f"them), but its signature is {signature}: {error}"
        ) from error
    return wants


@dataclass(slots=True)
class MapCall:
    """Calls ``fn(input, folder)`` and returns which files it wrote.

    Attributes:
        fn: The user's function.
        wants: Which optional arguments it takes.
        work_folder: Where the folders of the inputs are made.
        worker: The number of this worker.
    """

    fn: Callable[..., Any]
    wants: Wants
    work_folder: str
    worker: int = 0
    _device: str | None = field(default=None, repr=False)

    def _aiolit_start(self, worker: int) -> None:
        """Take note of which worker this is."""
        self.worker = worker

    def __call__(self, value: Any, is_last: bool) -> dict[str, Any]:
        """Call the function; what it returns is not kept."""
        folder = tempfile.mkdtemp(dir=self.work_folder)
        try:
            self.fn(value, folder, **self._optional(is_last))
            return _found(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _optional(self, is_last: bool) -> dict[str, Any]:
        optional: dict[str, Any] = {}
        if self.wants.device:
            optional["device"] = self._device = self._device or choose_device(self.worker)
        if self.wants.is_last:
            optional["is_last"] = is_last
        return optional


class AsyncMapCall(MapCall):
    """The same for an async function."""

    __slots__ = ()

    async def __call__(self, value: Any, is_last: bool) -> dict[str, Any]:  # type: ignore[override]
        """Call the function; what it returns is not kept."""
        folder = tempfile.mkdtemp(dir=self.work_folder)
        try:
            await self.fn(value, folder, **self._optional(is_last))
            return _found(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _found(folder: str) -> dict[str, Any]:
    """List the files, links first: what a link leads to may be moved away with the others."""
    root = Path(folder)
    paths = sorted(root.rglob("*"), key=lambda path: (not path.is_symlink(), path))
    files = [
        (path.relative_to(root).as_posix(), path.stat().st_size) for path in paths if path.is_file()
    ]
    if not files:
        shutil.rmtree(folder, ignore_errors=True)
    return {"folder": folder, "files": files}


def choose_device(worker: int) -> str:
    """Return ``"cuda:N"``, a GPU for each worker in turn, or ``"cpu"``."""
    # Only functions that ask for a device pay for torch.
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{worker % count}" if count else "cpu"


class FilesLoader(ItemLoader):
    """What `map` sends back for each input, as JSON; never written anywhere."""

    def bind(
        self,
        index: Index,
        *,
        registry: SerializerRegistry,
        source: str,
        encryption: Encryption | None = None,
    ) -> BoundLoader:
        """Refuse: there is nothing to read."""
        raise ConfigError("the files of map are no data set")

    def encoder(
        self, registry: SerializerRegistry, encryption: Encryption | None = None
    ) -> SampleEncoder:
        """Make an encoder for one worker."""
        return _FilesEncoder()


class _FilesEncoder(SampleEncoder):
    @property
    def data_format(self) -> list[str]:
        """The format of each leaf: none."""
        return []

    @property
    def data_spec(self) -> str:
        """The tree of a sample: none."""
        return ""

    @property
    def pickled_leaves(self) -> tuple[str, ...]:
        """Leaves stored by pickle: none."""
        return ()

    def encode(self, sample: Any) -> EncodedItem:
        """Encode one sample."""
        data = json.dumps(sample).encode()
        return EncodedItem([data], len(data), None)
