"""``aiolit inspect``: what is in a data set."""

from __future__ import annotations

import argparse
import reprlib
from collections.abc import Mapping
from typing import Any

from aiolit.cli.arguments import storage_options
from aiolit.cli.console import Console, columns
from aiolit.cli.reading import fetch_index
from aiolit.errors import ConfigError, DatasetError, MissingDependencyError
from aiolit.format.dataset_info import Index, loader_name
from aiolit.format.description import describe_index
from aiolit.format.loader import TokensLoader
from aiolit.format.tree import flatten
from aiolit.runtime.portal import portal
from aiolit.streaming.dataset import StreamingDataset
from aiolit.streaming.resolver import resolve
from aiolit.units import format_size

_SHOWN = 80  # characters of a value
_BLOCK = 16  # tokens shown of a token data set


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command; see ``parser``."""
    location = resolve(args.url)
    options = storage_options(args.storage_option)
    session = storage_options(args.session_option)
    index = portal().call(fetch_index, location, options, session)
    url = location.url
    figures = describe_index(url, index)
    if not args.no_sample and index.chunks:
        count = figures["samples"]
        if count is not None and args.sample >= count:
            raise ConfigError(f"there is no sample {args.sample}: {url} has {count:,}")
        try:
            figures["sample"] = {"index": args.sample, "leaves": _sample(args, index)}
        except (ConfigError, DatasetError, MissingDependencyError) as error:
            figures["sample"] = {"index": args.sample, "not_shown": str(error)}
    console.result(figures, _lines(figures))
    return 0


def _sample(args: argparse.Namespace, index: Index) -> list[dict[str, Any]]:
    loader = None
    if loader_name(index.config) == "TokensLoader":
        loader = TokensLoader(args.block_size or _shortest(index))
    dataset = StreamingDataset(
        args.url,
        item_loader=loader,
        storage_options=storage_options(args.storage_option),
        session_options=storage_options(args.session_option),
        allow_pickle=args.allow_pickle or None,
        cache="memory",
    )
    if args.sample >= dataset.num_samples:
        raise ConfigError(f"there are {dataset.num_samples:,} samples")
    leaves, spec = flatten(dataset[args.sample])
    return [
        {"path": path, **describe_leaf(leaf)}
        for path, leaf in zip(spec.leaf_paths(), leaves, strict=True)
    ]


def _shortest(index: Index) -> int:
    return max(1, min(_BLOCK, *(chunk.dim or _BLOCK for chunk in index.chunks)))


def describe_leaf(leaf: Any) -> dict[str, Any]:
    """Say what a leaf of a sample is: its kind, its shape and dtype, its value shortened."""
    kind = type(leaf)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    name = {"torch.Tensor": "tensor", "numpy.ndarray": "array"}.get(name, name)
    found: dict[str, Any] = {"kind": name}
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        found["shape"] = [int(size) for size in leaf.shape]
        found["dtype"] = str(leaf.dtype).removeprefix("torch.")
        if leaf.ndim <= 1:
            found["value"] = _short(leaf[:_BLOCK].tolist() if leaf.ndim else leaf.item())
    elif hasattr(leaf, "size") and hasattr(leaf, "mode"):  # an image of PIL
        found["shape"], found["dtype"] = list(leaf.size), str(leaf.mode)
    else:
        if isinstance(leaf, str | bytes):
            found["shape"] = [len(leaf)]
        found["value"] = _short(leaf)
    return found


def _short(value: Any) -> str:
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = _SHOWN
    shortener.maxlist = _BLOCK
    text = repr(value[:_SHOWN]) if isinstance(value, bytes) else shortener.repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _lines(found: Mapping[str, Any]) -> list[str]:
    level, encryption = found["compression_level"], found["encryption"]
    compression = found["compression"] or "none"
    if found["compression"]:
        compression += f", {'whole chunks' if level is None else f'by {level}'}"
    chunks, checked = found["chunks"], found["chunks_with_checksums"]
    samples = found["samples"]
    rows = [
        ("samples", f"{samples:,}" if samples is not None else "depends on how they are read"),
        ("chunks", f"{chunks:,}, {format_size(found['bytes'])}"),
        ("loader", found["loader"]),
        ("compression", compression),
        (
            "encryption",
            f"{encryption['algorithm']}, by {encryption['level']}" if encryption else "none",
        ),
        (
            "checksums",
            "in every chunk" if checked == chunks else f"in {checked:,} of {chunks:,} chunks",
        ),
    ]
    if "tokens" in found:
        rows.insert(1, ("tokens", f"{found['tokens']:,}"))
    leaves = [(leaf["path"], leaf["format"], leaf["means"]) for leaf in found["leaves"]]
    lines = [found["url"], *columns(rows, indent="  "), "leaves", *columns(leaves, indent="  ")]
    if "sample" in found:
        lines += _sample_lines(found["sample"])
    return lines


def _sample_lines(sample: Mapping[str, Any]) -> list[str]:
    if "not_shown" in sample:
        return [f"sample {sample['index']} is not shown: {sample['not_shown']}"]
    rows = []
    for leaf in sample["leaves"]:
        shape = " x ".join(str(size) for size in leaf.get("shape", ()))
        what = " ".join(part for part in (leaf["kind"], leaf.get("dtype", "")) if part)
        rows.append((leaf["path"], what, shape, leaf.get("value", "")))
    return [f"sample {sample['index']}", *columns(rows, indent="  ")]
