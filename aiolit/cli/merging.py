"""``aiolit merge``: several data sets as one."""

from __future__ import annotations

import argparse

from aiolit.cli.arguments import storage_options
from aiolit.cli.console import Console
from aiolit.cli.progress import chunk_bar
from aiolit.processing.merge import check_merge, merge
from aiolit.runtime.portal import portal


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command; see ``parser``."""
    job = check_merge(
        args.sources,
        args.target,
        args.concurrency,
        storage_options(args.storage_option),
        storage_options(args.session_option),
    )
    with chunk_bar("merge", shown=console.shows_progress) as show:
        summary = portal().call(merge, job, show)
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
