"""MosaicML streaming, in its own environment."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from benchmarks.contenders.common import Job, Source, decode, main
else:
    sys.path.insert(0, str(Path(__file__).parent))
    from common import Job, Source, decode, main


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Empty modules for what MosaicML imports and none of this needs (and has no CPU build)."""

    NAMES = ("torchvision", "transformers")

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.split(".")[0] not in self.NAMES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = self._make  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing in it."""

    @staticmethod
    def _make(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


sys.meta_path.append(Absent())
from streaming import MDSWriter, StreamingDataset  # noqa: E402
from streaming.base.util import clean_stale_shared_memory  # noqa: E402

COLUMNS = {
    "jpegs": {"image": "bytes", "id": "int"},
    "records": {"id": "int", "value": "float64"},
    "tokens": {"tokens": "ndarray:int32"},
}


def prepare(job: Job) -> None:
    source = Source(job)
    with MDSWriter(out=job.data, columns=COLUMNS[job.kind], size_limit=job.chunk_bytes) as out:
        if job.kind != "tokens":
            for index in range(len(source)):
                out.write(source(index))
            return
        tokens = np.memmap(Path(job.source, "tokens.bin"), dtype=np.int32, mode="r")
        for at in range(0, len(tokens) - job.block_size + 1, job.block_size):
            out.write({"tokens": np.array(tokens[at : at + job.block_size])})


class Decoded(StreamingDataset):  # type: ignore[misc]
    """Pictures decoded where they are read."""

    def __getitem__(self, index: int) -> Any:
        return decode(super().__getitem__(index))


class Blocks(StreamingDataset):  # type: ignore[misc]
    """Blocks of tokens, without the dict around them."""

    def __getitem__(self, index: int) -> Any:
        return super().__getitem__(index)["tokens"]


def dataset(job: Job) -> Any:
    clean_stale_shared_memory()
    kind = Decoded if job.decode else Blocks if job.kind == "tokens" else StreamingDataset
    remote = job.data.startswith("s3://")
    return kind(
        remote=job.data if remote else None,
        local=job.cache if remote else job.data,
        shuffle=True,
        batch_size=job.batch_size,
    )


def loader(job: Job) -> Iterable[Any]:
    made: Iterable[Any] = DataLoader(
        dataset(job), batch_size=job.batch_size, num_workers=job.num_workers
    )
    return made


def picker(job: Job) -> Callable[[Sequence[int]], Sequence[Any]]:
    data = dataset(job)
    return lambda indices: [data[index] for index in indices]


if __name__ == "__main__":
    main(prepare=prepare, loader=loader, picker=picker)
