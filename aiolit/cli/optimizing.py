"""``aiolit optimize``: a data set of what a function returns."""

from __future__ import annotations

import argparse
from typing import Any

from aiolit.cli.arguments import storage_options
from aiolit.cli.console import Console
from aiolit.cli.functions import function_errors, loaded_function
from aiolit.cli.inputs import find_inputs
from aiolit.format.loader import TokensLoader
from aiolit.processing.functions import optimize
from aiolit.processing.summary import SkippedInput, Summary

CHUNK_BYTES = "64MB"


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command; see ``writing_parser``."""
    with loaded_function(args.fn) as fn:
        inputs = find_inputs(args)
        with function_errors(console):
            summary = optimize(
                fn,
                inputs,
                args.output,
                **chunk_options(args),
                num_workers=args.num_workers,
                max_retries=args.max_retries,
                fast_dev_run=args.first or False,
                item_loader=TokensLoader() if args.tokens else None,
                keep_data_ordered=not args.unordered,
                on_error=args.on_error,
                verbose=console.shows_progress,
                storage_options=storage_options(args.storage_option),
                session_options=storage_options(args.session_option),
            )
    report(summary, console)
    return 0


def chunk_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return how the data set is laid out, as ``optimize`` calls it."""
    nbytes = args.chunk_bytes
    if nbytes is None and args.chunk_size is None:
        nbytes = CHUNK_BYTES
    return {
        "chunk_bytes": nbytes,
        "chunk_size": args.chunk_size,
        "compression": args.compression,
        "compression_level": args.compression_level,
        "mode": args.mode,
        "use_checkpoint": args.use_checkpoint,
    }


def report(summary: Summary, console: Console, **more: Any) -> None:
    """Write what was made."""
    console.result(
        {
            "output": summary.output_dir,
            **more,
            "inputs": summary.inputs,
            "samples": summary.samples,
            "chunks": summary.chunks,
            "bytes": summary.nbytes,
            "seconds": summary.seconds,
            "skipped": skipped_inputs(summary.skipped),
        },
        [str(summary), *skipped_lines(summary.skipped)],
    )


def skipped_inputs(skipped: tuple[SkippedInput, ...]) -> list[dict[str, Any]]:
    """Return the inputs on which the function failed, for programs."""
    return [{"index": one.index, "input": one.input, "error": one.error} for one in skipped]


def skipped_lines(skipped: tuple[SkippedInput, ...]) -> list[str]:
    """Return the inputs on which the function failed, for people."""
    return [f"  skipped input {one.index}: {one.input}: {one.error}" for one in skipped]
