"""``aiolit convert``: data in another form, as a data set."""

from __future__ import annotations

import argparse

from aiolit.cli.arguments import storage_options
from aiolit.cli.console import Console
from aiolit.cli.convert.leaves import StoredSerializer
from aiolit.cli.convert.plan import Wanted, plan
from aiolit.cli.optimizing import chunk_options, report
from aiolit.errors import ConfigError
from aiolit.processing.functions import optimize


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command; see ``writing_parser``."""
    if args.source.rstrip("/") == args.output.rstrip("/"):
        raise ConfigError(f"{args.source} cannot be converted onto itself; choose another OUTPUT")
    source_options = storage_options(args.storage_option)
    session = storage_options(args.session_option)
    conversion = plan(
        Wanted(
            source=args.source,
            kind=args.kind,
            columns=args.columns,
            undecoded=args.undecoded,
            checks=args.check_images,
            storage_options=source_options,
            session_options=session,
        )
    )
    if conversion.note:
        console.details(conversion.note)
    summary = optimize(
        conversion.fn,
        conversion.inputs,
        args.output,
        **chunk_options(args),
        num_workers=args.num_workers,
        max_retries=args.max_retries,
        on_error=args.on_error,
        serializers={"stored": StoredSerializer()},
        verbose=console.shows_progress,
        storage_options=storage_options(args.to_storage_option) or source_options,
        session_options=session,
    )
    report(summary, console, source=args.source, kind=conversion.kind)
    return 0
