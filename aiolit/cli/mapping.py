"""``aiolit map``: a function that writes files, run on every input."""

from __future__ import annotations

import argparse

from aiolit.cli.arguments import storage_options
from aiolit.cli.console import Console
from aiolit.cli.functions import function_errors, loaded_function
from aiolit.cli.inputs import find_inputs
from aiolit.cli.optimizing import skipped_inputs, skipped_lines
from aiolit.processing.functions import map as run_map


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command; see ``writing_parser``."""
    with loaded_function(args.fn) as fn:
        inputs = find_inputs(args)
        with function_errors(console):
            summary = run_map(
                fn,
                inputs,
                args.output,
                num_workers=args.num_workers,
                max_retries=args.max_retries,
                fast_dev_run=args.first or False,
                error_when_not_empty=args.error_when_not_empty,
                on_error=args.on_error,
                verbose=console.shows_progress,
                storage_options=storage_options(args.storage_option),
                session_options=storage_options(args.session_option),
            )
    console.result(
        {
            "output": summary.output_dir,
            "inputs": summary.inputs,
            "files": len(summary.files),
            "bytes": summary.nbytes,
            "seconds": summary.seconds,
            "skipped": skipped_inputs(summary.skipped),
        },
        [str(summary), *skipped_lines(summary.skipped)],
    )
    return 0
