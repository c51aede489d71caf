"""The arguments of the commands. Nothing here loads what a command needs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from aiolit.store.options import CONNECTION_NAMES

_WORDS = {"true": True, "false": False, "null": None}

EPILOG = """\
exit codes: 0 all is well; 1 something failed, or damage was found; 2 the arguments cannot work;
130 ended by Ctrl-C. With --json the result is one JSON object on stdout.
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser; what it parses names the ``module`` of the command."""
    parser = argparse.ArgumentParser(
        prog="aiolit",
        description="Look at data sets, check, copy, merge and time them, wherever they lie.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_inspect(commands)
    _add_verify(commands)
    _add_copy(commands)
    _add_merge(commands)
    _add_bench(commands)
    _add_cache(commands)
    return parser


def storage_options(given: list[tuple[str, Any]] | None) -> dict[str, Any] | None:
    """Return the options of a store from those on the command line."""
    return dict(given) if given else None


def parse_option(text: str) -> tuple[str, Any]:
    """Parse ``KEY=VALUE``.

    Values are text, but for ``true``, ``false``, ``null``, the numbers of limits and times, and
    JSON in brackets or quotes.
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=VALUE")
    if value in _WORDS:
        return key, _WORDS[value]
    if value[:1] in ("{", "[", '"') or key in CONNECTION_NAMES:
        try:
            return key, json.loads(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: the value is no JSON: {error}") from None
    return key, value


def _whole(least: int) -> Any:
    def parse(text: str) -> int:
        try:
            number = int(text.replace("_", ""))
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return number

    return parse


def _command(commands: Any, name: str, module: str, text: str) -> argparse.ArgumentParser:
    summary = text[0].lower() + text[1:].rstrip(".")
    parser: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=text)
    parser.add_argument("--json", action="store_true", help="write the result as JSON")
    parser.set_defaults(module=module)
    return parser


def _add_store(parser: argparse.ArgumentParser) -> None:
    for which, what in (("storage", "client"), ("session", "session")):
        parser.add_argument(
            f"--{which}-option",
            action="append",
            type=parse_option,
            metavar="KEY=VALUE",
            help=f"an option of the store's {what}, such as those of boto3; may be repeated",
        )


def _add_concurrency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--concurrency",
        type=_whole(1),
        default=8,
        metavar="N",
        help="chunks worked on at once (8); fewer where chunks are so large that they would "
        "take more than 1 GiB of memory",
    )


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--block-size", type=_whole(1), metavar="N", help="tokens in a sample")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load pickled leaves from a URL, which can run any code that is in the data",
    )


def _add_inspect(commands: Any) -> None:
    parser = _command(commands, "inspect", "inspection", "Say what is in a data set.")
    parser.add_argument("url", metavar="URL", help="a folder or a URL")
    parser.add_argument("--sample", type=_whole(0), default=0, metavar="N", help="show this one")
    parser.add_argument("--no-sample", action="store_true", help="show no sample")
    _add_reading(parser)
    _add_store(parser)


def _add_verify(commands: Any) -> None:
    parser = _command(
        commands, "verify", "verification", "Read every chunk and check it by its checksums."
    )
    parser.add_argument("url", metavar="URL", help="a folder or a URL")
    parser.add_argument(
        "--resume",
        metavar="FILE",
        help="note in this file which chunks are in order, and leave those out that it names",
    )
    _add_concurrency(parser)
    _add_store(parser)


def _add_copy(commands: Any) -> None:
    parser = _command(
        commands,
        "copy",
        "copying",
        "Copy a data set from any store to any other, checking every chunk on the way.",
    )
    parser.add_argument("source", metavar="SRC", help="a folder or a URL")
    parser.add_argument("target", metavar="DST", help="a folder or a URL")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a data set at DST; from the start of the copy it cannot be read any more",
    )
    _add_concurrency(parser)
    _add_store(parser)
    parser.add_argument(
        "--to-storage-option",
        action="append",
        type=parse_option,
        metavar="KEY=VALUE",
        help="an option of DST's client, where it needs others than SRC",
    )


def _add_merge(commands: Any) -> None:
    parser = _command(commands, "merge", "merging", "Copy several data sets into one new one.")
    parser.add_argument("sources", nargs="+", metavar="SRC", help="folders or URLs, in order")
    parser.add_argument("target", metavar="DST", help="a folder or a URL")
    parser.add_argument("--concurrency", type=_whole(1), metavar="N", help="chunks copied at once")
    _add_store(parser)


def _add_bench(commands: Any) -> None:
    parser = _command(
        commands, "bench", "benching", "Time what this machine gets from a data set's store."
    )
    parser.add_argument("url", metavar="URL", help="a folder or a URL")
    parser.add_argument("--batches", type=_whole(1), default=100, metavar="N", help="at most (100)")
    parser.add_argument("--batch-size", type=_whole(1), default=64, metavar="B", help="(64)")
    parser.add_argument("--num-workers", type=_whole(0), default=0, metavar="W", help="(0)")
    parser.add_argument("--shuffle", action="store_true", help="read in random order")
    parser.add_argument(
        "--no-collate", action="store_true", help="hand out lists of samples, of any shapes"
    )
    parser.add_argument(
        "--cache-dir",
        metavar="D",
        help="a cache folder, with what is in it; by default an empty one that is removed again",
    )
    _add_reading(parser)
    _add_store(parser)


def _add_cache(commands: Any) -> None:
    parser = commands.add_parser(
        "cache",
        help="look at the chunk cache of this host, and clear it",
        description="Look at the chunk cache of this host, and clear it.",
    )
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    for name, text in (
        ("path", "Say where the cache lies."),
        ("ls", "List what is cached, by data set."),
        ("clear", "Remove the cached files that nobody reads just now."),
        ("verify", "Check cached files, and remove damaged ones: they are fetched again."),
    ):
        action = _command(actions, name, "cache_folder", text)
        action.set_defaults(action=name)
        action.add_argument("--cache-dir", metavar="D", help="another folder than the default")
        if name != "path":
            action.add_argument("url", nargs="?", metavar="URL", help="of this data set only")
