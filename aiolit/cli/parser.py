"""The arguments of the commands. Nothing here loads what a command needs."""

from __future__ import annotations

import argparse
from typing import Any

from aiolit.cli.arguments import (
    add_command,
    add_concurrency,
    add_reading,
    add_store,
    add_target_store,
    place,
    target,
    whole,
)
from aiolit.cli.writing_parser import add_convert, add_index, add_map, add_optimize

EPILOG = """\
exit codes:
  0    all is well
  1    something failed, or damage was found
  2    the arguments cannot work; nothing was done
  130  ended by Ctrl-C

With --json the result is one JSON object on stdout; notes and errors go to stderr.
`aiolit COMMAND --help` shows examples of each command.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; what it parses names the ``module`` of the command."""
    parser = argparse.ArgumentParser(
        prog="aiolit",
        description="Make data sets, look at them, check, copy, merge and time them, wherever they "
        "lie.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_optimize(commands)
    add_map(commands)
    add_convert(commands)
    add_index(commands)
    _add_inspect(commands)
    _add_view(commands)
    _add_verify(commands)
    _add_copy(commands)
    _add_merge(commands)
    _add_bench(commands)
    _add_cache(commands)
    return parser


def _add_inspect(commands: Any) -> None:
    parser = add_command(
        commands,
        "inspect",
        "inspection",
        "Say what is in a data set. Only the index and one sample are read.",
        examples="""
aiolit inspect s3://my-bucket/my-data
aiolit inspect my-data --sample 1000 --json
""",
    )
    parser.add_argument("url", type=place, metavar="URL", help="a folder or a URL")
    parser.add_argument("--sample", type=whole(0), default=0, metavar="N", help="show this one")
    parser.add_argument("--no-sample", action="store_true", help="show no sample")
    add_reading(parser)
    add_store(parser)


def _add_view(commands: Any) -> None:
    parser = add_command(
        commands,
        "view",
        "viewing",
        "Browse a data set in the web browser. Samples are read by range, as they are looked at.",
        examples="""
aiolit view s3://my-bucket/my-data --open
aiolit view ./photos --raw
""",
    )
    parser.add_argument("url", type=place, metavar="URL", help="a folder or a URL")
    parser.add_argument("--raw", action="store_true", help="show the files themselves")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=whole(0), default=0, help="by default a free one")
    parser.add_argument("--block-size", type=whole(1), metavar="N", help="tokens in a sample")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load pickled leaves, which can run any code that is in the data",
    )
    parser.add_argument(
        "--cache-dir",
        metavar="D",
        help="use, and fill, this chunk cache; by default nothing is written",
    )
    add_store(parser)


def _add_verify(commands: Any) -> None:
    parser = add_command(
        commands,
        "verify",
        "verification",
        "Read every chunk and check it by its checksums.",
        examples="""
aiolit verify my-data
aiolit verify s3://my-bucket/my-data --concurrency 32 --resume verify.journal
""",
    )
    parser.add_argument("url", type=place, metavar="URL", help="a folder or a URL")
    parser.add_argument(
        "--resume",
        metavar="FILE",
        help="note in this file which chunks are in order, and leave those out that it names",
    )
    add_concurrency(parser)
    add_store(parser)


def _add_copy(commands: Any) -> None:
    parser = add_command(
        commands,
        "copy",
        "copying",
        "Copy a data set from any store to any other, checking every chunk on the way.",
        examples="""
aiolit copy my-data s3://my-bucket/my-data
aiolit copy s3://my-bucket/my-data gs://other/my-data --overwrite
""",
    )
    parser.add_argument("source", type=place, metavar="SRC", help="a folder or a URL")
    parser.add_argument("target", type=target, metavar="DST", help="a folder or a URL")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a data set at DST; from the start of the copy it cannot be read any more",
    )
    add_concurrency(parser)
    add_target_store(parser, "SRC", "DST")


def _add_merge(commands: Any) -> None:
    parser = add_command(
        commands,
        "merge",
        "merging",
        "Copy several data sets into one new one.",
        examples="aiolit merge part-0 part-1 s3://my-bucket/whole",
    )
    parser.add_argument(
        "sources", nargs="+", type=place, metavar="SRC", help="folders or URLs, in order"
    )
    parser.add_argument("target", type=target, metavar="DST", help="a folder or a URL")
    parser.add_argument("--concurrency", type=whole(1), metavar="N", help="chunks copied at once")
    add_store(parser)


def _add_bench(commands: Any) -> None:
    parser = add_command(
        commands,
        "bench",
        "benching",
        "Time what this machine gets from a data set's store.",
        examples="""
aiolit bench s3://my-bucket/my-data --num-workers 4 --shuffle
aiolit bench my-data --batch-size 256 --batches 1000 --json
""",
    )
    parser.add_argument("url", type=place, metavar="URL", help="a folder or a URL")
    parser.add_argument("--batches", type=whole(1), default=100, metavar="N", help="at most (100)")
    parser.add_argument("--batch-size", type=whole(1), default=64, metavar="B", help="(64)")
    parser.add_argument("--num-workers", type=whole(0), default=0, metavar="W", help="(0)")
    parser.add_argument("--shuffle", action="store_true", help="read in random order")
    parser.add_argument(
        "--no-collate", action="store_true", help="hand out lists of samples, of any shapes"
    )
    parser.add_argument(
        "--cache-dir",
        metavar="D",
        help="a cache folder, with what is in it; by default an empty one that is removed again",
    )
    add_reading(parser)
    add_store(parser)


def _add_cache(commands: Any) -> None:
    parser = commands.add_parser(
        "cache",
        help="look at the chunk cache of this host, and clear it",
        description="Look at the chunk cache of this host, and clear it.",
        allow_abbrev=False,
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    for name, text, example in (
        ("path", "Say where the cache lies.", "aiolit cache path"),
        ("ls", "List what is cached, by data set.", "aiolit cache ls --cache-dir /fast-disk/cache"),
        (
            "clear",
            "Remove the cached files that nobody reads just now.",
            "aiolit cache clear\naiolit cache clear s3://my-bucket/my-data",
        ),
        (
            "verify",
            "Check cached files, and remove damaged ones: they are fetched again.",
            "aiolit cache verify",
        ),
    ):
        action = add_command(actions, name, "cache_folder", text, examples=example)
        action.set_defaults(action=name)
        action.add_argument("--cache-dir", metavar="D", help="another folder than the default")
        if name != "path":
            action.add_argument(
                "url", nargs="?", type=place, metavar="URL", help="of this data set only"
            )
