"""What aiolit does in the interoperability tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiolit import FernetEncryption, StreamingDataset, TokensLoader, optimize
from tests.interop.format_side import write_format
from tests.interop.interop_cases import CHUNK_ITEMS, PASSWORD, Case

THROUGH_OPTIMIZE = (
    "dict",
    "record",
    "jpeg",
    "tokens-tensor-int64",
    "record-whole-zstd",
    "record-fernet-sample",
)
"""Cases that are written as a user would, worker processes and all."""


def write(case: Case, dataset: Path, files: Path) -> None:
    """Write a case."""
    options: dict[str, Any] = {"chunk_size": CHUNK_ITEMS, **case.options}
    encryption = None
    if case.encryption:
        encryption = FernetEncryption(PASSWORD, level=case.encryption)
        dataset.parent.mkdir(parents=True, exist_ok=True)
        encryption.save(str(key_file(dataset)))
    with warnings.catch_warnings():
        if case.pickles:
            warnings.filterwarnings("ignore", message=".*pickled")
        if case.name not in THROUGH_OPTIMIZE:
            write_format(case, dataset, files, options, encryption)
            return
        optimize(
            maker(case.make, files),
            inputs=range(len(case.make(files))),
            output_dir=str(dataset),
            num_workers=1,
            verbose=False,
            encryption=encryption,
            item_loader=TokensLoader() if case.block_size else None,
            **options,
        )


def maker(make: Callable[[Path], list[Any]], files: Path) -> Callable[[int], Any]:
    """A function of the index; the samples are made once, in the worker."""
    made: list[Any] = []

    def one(index: int) -> Any:
        if not made:
            made.extend(make(files))
        return made[index]

    return one


def read(case: Case, dataset: Path) -> list[Any]:
    """Read a data set in order, and once more by index."""
    options: dict[str, Any] = {"cache_dir": str(dataset.with_name(dataset.name + ".cache"))}
    if case.block_size:
        options["item_loader"] = TokensLoader(block_size=case.block_size)
    if case.encryption:
        options["encryption"] = FernetEncryption.load(str(key_file(dataset)), PASSWORD)
    with warnings.catch_warnings():
        # Of rows that LitData should have encrypted and did not.
        warnings.filterwarnings("ignore", message=".*plain text")
        data = StreamingDataset(str(dataset), shuffle=False, drop_last=False, **options)
        samples = list(data)
        assert len(samples) == len(data)
        return [data[index] if index % 3 == 0 else sample for index, sample in enumerate(samples)]


def key_file(dataset: Path) -> Path:
    """Where the key of a data set lies, whoever wrote it."""
    return dataset.with_name(dataset.name + ".fernet.json")
