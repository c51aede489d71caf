"""``aiolit merge``: several data sets as one."""

from __future__ import annotations

import argparse

from aiolit.cli.arguments import storage_options
from aiolit.cli.console import Console
from aiolit.processing.functions import merge_datasets


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command; see ``parser``."""
    summary = merge_datasets(
        args.sources,
        args.target,
        args.concurrency,
        storage_options(args.storage_option),
        session_options=storage_options(args.session_option),
    )
    console.result(
        {
            "target": summary.output_dir,
            "sources": summary.inputs,
            "samples": summary.samples,
            "chunks": summary.chunks,
            "bytes": summary.nbytes,
            "seconds": summary.seconds,
        },
        [str(summary).replace(" inputs ", " data sets ")],
    )
    return 0
