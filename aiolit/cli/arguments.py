"""Arguments that several commands share, and how their values are parsed."""

from __future__ import annotations

import argparse
import json
import os
import re
import textwrap
from typing import Any

from aiolit.store.options import CONNECTION_NAMES, RETRY_NAMES

_WIDTH = 88  # of the text of a help; argparse wraps the rest itself
_ALMOST_URL = re.compile(r"(s3|r2|gs|azure|https?|hf):/?(?!/)")
_WORDS = {"true": True, "false": False, "null": None}


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
    if value[:1] in ("{", "[", '"') or key in (*CONNECTION_NAMES, *RETRY_NAMES):
        try:
            return key, json.loads(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r}: the value is no JSON: {error}") from None
    return key, value


def whole(least: int) -> Any:
    """Return what parses whole numbers of at least ``least``."""

    def parse(text: str) -> int:
        try:
            number = int(text.replace("_", ""))
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return number

    return parse


def place(text: str) -> str:
    """Parse a path or URL: refuse what would be taken for a folder and is a URL misspelt."""
    if not text:
        raise argparse.ArgumentTypeError("a path or a URL is needed, not an empty text")
    match = _ALMOST_URL.match(text)
    if match is not None:
        raise argparse.ArgumentTypeError(
            f"{text!r}: write {match[1]}://{text[match.end() :]} (or ./{text} for a folder)"
        )
    return text


def target(text: str) -> str:
    """Parse a path or URL to write a data set to: a file is none."""
    folder = place(text)
    if "://" not in folder and os.path.isfile(os.path.expanduser(folder)):
        raise argparse.ArgumentTypeError(f"{text} is a file, and a data set is a folder")
    return folder


def words(text: str) -> list[str]:
    """Parse ``a,b,c``."""
    found = [part.strip() for part in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of names with commas between them")
    return found


def add_command(
    commands: Any, name: str, module: str, text: str, *, examples: str = ""
) -> argparse.ArgumentParser:
    """Add a command.

    Args:
        commands: What ``add_subparsers`` returned.
        name: What the user writes.
        module: The module of ``aiolit.cli`` whose ``run`` runs it.
        text: What it does; its first sentence is shown in the list of commands.
        examples: Lines of a shell, shown at the end of its help.
    """
    first = text.partition(". ")[0].rstrip(".")
    lines = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=first[0].lower() + first[1:],
        description=textwrap.fill(text, _WIDTH),
        epilog=f"examples:\n{lines}" if lines else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="write the result as JSON")
    parser.set_defaults(module=module)
    return parser


def add_store(parser: argparse.ArgumentParser) -> None:
    """Add the options of a store."""
    for which, what in (("storage", "client"), ("session", "session")):
        parser.add_argument(
            f"--{which}-option",
            action="append",
            type=parse_option,
            metavar="KEY=VALUE",
            help=f"an option of the store's {what}, such as those of boto3; may be repeated",
        )


def add_target_store(parser: argparse.ArgumentParser, source: str, target: str) -> None:
    """Add the options of a second store, and those of the first."""
    add_store(parser)
    parser.add_argument(
        "--to-storage-option",
        action="append",
        type=parse_option,
        metavar="KEY=VALUE",
        help=f"an option of {target}'s client, where it needs others than {source}",
    )


def add_concurrency(parser: argparse.ArgumentParser) -> None:
    """Add how many chunks are worked on at once."""
    parser.add_argument(
        "--concurrency",
        type=whole(1),
        default=8,
        metavar="N",
        help="chunks worked on at once (8); fewer where chunks are so large that they would "
        "take more than 1 GiB of memory",
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add how samples are read."""
    parser.add_argument("--block-size", type=whole(1), metavar="N", help="tokens in a sample")
    parser.add_argument(
        "--allow-pickle",
        action="store_true",
        help="load pickled leaves from a URL, which can run any code that is in the data",
    )
