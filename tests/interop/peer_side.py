"""What a peer does in the interoperability tests, in one process of its own environment.

    python -I peer_side.py JOB.json

JOB: `{"peer": NAME, "out": FILE, "files": FOLDER, "write": FOLDER,
"read": {KEY: {"case": NAME, "path": FOLDER}}, "appended": {...}, "in_place": {NAME: FOLDER}}`.

It writes every case it can below "write" and reads it back, reads what aiolit wrote, appends to
what aiolit wrote, and leaves in "out" `{"written" | "read" | "appended": {KEY: {"samples": [...]} |
{"error": TEXT}}}` with the samples in canonical form.
"""

from __future__ import annotations

import faulthandler
import inspect
import json
import shutil
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from tests.interop.interop_cases import CASES, CHUNK_ITEMS, PASSWORD, Case, canonical, decoded
else:
    # Isolated mode leaves this folder out; the repository's root stays out, so aiolit does too.
    sys.path.insert(0, str(Path(__file__).parent))
    from interop_cases import CASES, CHUNK_ITEMS, PASSWORD, Case, canonical, decoded

Outcome = dict[str, Any]
MOST_SECONDS = 400


def install_decoder() -> None:
    """Put Pillow where LitData imports torchvision's decoders, for which there is no CPU build."""

    class ImageReadMode(Enum):
        UNCHANGED = 0
        RGB = 3

    def decode(data: torch.Tensor, mode: ImageReadMode = ImageReadMode.UNCHANGED) -> torch.Tensor:
        return decoded(data.numpy().tobytes(), rgb=mode is ImageReadMode.RGB)

    package, module = types.ModuleType("torchvision"), types.ModuleType("torchvision.io")
    for name, value in {
        "ImageReadMode": ImageReadMode,
        "decode_image": decode,
        "decode_jpeg": decode,
    }.items():
        setattr(module, name, value)
    package.io = module  # type: ignore[attr-defined]
    sys.modules |= {"torchvision": package, "torchvision.io": module}


def stay_offline() -> None:
    """Keep 0.2.58 from asking PyPI for its newest version at each data set."""
    from litdata import helpers

    if hasattr(helpers, "_get_newer_version"):
        helpers._get_newer_version = lambda current: None


class Samples:
    """A function of the index, as `optimize` wants it."""

    def __init__(self, samples: Sequence[Any]) -> None:
        self._samples = samples

    def __call__(self, index: int) -> Any:
        return self._samples[index]


def attempt(action: Callable[[], list[Any]]) -> Outcome:
    """The samples in canonical form, or what went wrong."""
    try:
        return {"samples": [canonical(sample) for sample in action()]}
    # Whatever a peer raises is a result of the test.
    except BaseException as error:  # noqa: BLE001
        return {"error": f"{type(error).__name__}: {error}"[:2000]}


def key_file(dataset: Path) -> Path:
    return dataset.with_name(dataset.name + ".fernet.json")


def write(case: Case, dataset: Path, files: Path, **extra: Any) -> list[Any]:
    """Write the case, or append to it."""
    from litdata import TokensLoader, optimize
    from litdata.utilities.encryption import FernetEncryption

    options: dict[str, Any] = {
        "chunk_size": CHUNK_ITEMS,
        "num_workers": 1,
        **case.options,
        **extra,
    }
    if case.block_size:
        options["item_loader"] = TokensLoader()
    if case.encryption:
        encryption = FernetEncryption(password=PASSWORD, level=case.encryption)
        encryption.save(str(key_file(dataset)))
        options["encryption"] = encryption
    samples = case.make(files)
    optimize(
        fn=Samples(samples),
        inputs=list(range(len(samples))),
        output_dir=str(dataset),
        start_method="fork",  # spawning costs seconds a data set
        verbose=False,
        **options,
    )
    return []


def read(case: Case, dataset: Path, files: Path) -> list[Any]:
    """The samples, from a copy: LitData replaces compressed chunks where they lie."""
    copy = Path(tempfile.mkdtemp(dir=files)) / "copy"
    shutil.copytree(dataset, copy)
    return read_in_place(case, copy, key_file(dataset))


def read_in_place(case: Case, dataset: Path, key: Path) -> list[Any]:
    """The samples, in order and by index."""
    from litdata import StreamingDataset, TokensLoader
    from litdata.utilities.encryption import FernetEncryption

    options: dict[str, Any] = {}
    if case.block_size:
        options["item_loader"] = TokensLoader(block_size=case.block_size)
    if case.encryption:
        options["encryption"] = FernetEncryption.load(str(key), PASSWORD)
    stream = StreamingDataset(str(dataset), shuffle=False, **options)
    count = len(stream)
    samples = list(take(iter(stream), count))
    by_index = [stream[i] for i in range(count)] if count <= 50 else samples
    if [canonical(s) for s in by_index] != [canonical(s) for s in samples]:
        raise AssertionError("this reader gives one thing by iteration and another by index")
    return samples


def take(samples: Iterator[Any], count: int) -> Iterator[Any]:
    """As many samples as the data set says it has; each is copied out of the chunk's mapping."""
    for _ in range(count):
        sample = next(samples)
        if isinstance(sample, np.ndarray | torch.Tensor):
            sample = sample.copy() if isinstance(sample, np.ndarray) else sample.clone()
        yield sample


def append(case: Case, dataset: Path, files: Path) -> list[Any]:
    """Append the case's samples once more."""
    from litdata import optimize

    extra = {"mode": "append"}
    newer = "compression_level" in inspect.signature(optimize).parameters
    if newer and "compression" in case.options:
        extra["compression_level"] = "chunk"  # what the older ones do: the file as one
    return write(case, dataset, files, **extra)


def main(job: dict[str, Any]) -> None:
    warnings.simplefilter("ignore")
    faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
    install_decoder()
    stay_offline()
    files, peer = Path(job["files"]), job["peer"]
    entries: dict[str, dict[str, Any]] = {"read": job["read"], "appended": job["appended"]}
    entries["written"] = {
        name: {"case": name, "path": str(Path(job["write"], name))}
        for name, case in CASES.items()
        if peer in case.writers
    }
    results: dict[str, dict[str, Outcome]] = {task: {} for task in entries}
    # All that forks comes first: reading leaves threads behind, and a fork among threads may hang.
    for tasks, actions in (
        (("written", "appended"), {"written": write, "appended": append}),
        (("written", "appended", "read"), dict.fromkeys(entries, read)),
    ):
        for task in tasks:
            for key, entry in entries[task].items():
                if "error" not in results[task].get(key, {}):
                    case, dataset = CASES[entry["case"]], Path(entry["path"])
                    results[task][key] = attempt(partial(actions[task], case, dataset, files))
    for name, path in job["in_place"].items():
        results.setdefault("in_place", {})[name] = attempt(
            partial(read_in_place, CASES[name], Path(path), Path())
        )
    Path(job["out"]).write_text(json.dumps(results))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
