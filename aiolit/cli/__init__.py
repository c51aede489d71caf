"""The command ``aiolit``: look at data sets, check, copy, merge and time them."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from aiolit.cli.console import Console
from aiolit.cli.parser import build_parser
from aiolit.errors import AiolitError, ConfigError

__all__ = ["main"]

INTERRUPTED = 130  # what a shell says of a program that Ctrl-C has ended
# What messages of the library advise, as it is written here.
_ADVICE = {
    "choose another output_dir": "choose another place",
    "mode='append'": "--mode append",
    "mode='overwrite'": "--mode overwrite",
    "allow_pickle=True": "--allow-pickle",
    "max_retries=": "--max-retries",
    "session_options={'profile_name': ...}": "--session-option profile_name=...",
    "storage_options={'anon': True}": "--storage-option anon=true",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The arguments; by default those of the process.

    Returns:
        The exit code: 0 where all is well, 1 where something failed or damage was found, 2 where
        the arguments cannot work, 130 after Ctrl-C.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        if not given:
            build_parser().print_help(sys.stderr)
            return 2
        args = build_parser().parse_args(given)
    except SystemExit as ended:  # argparse has said why
        return ended.code if isinstance(ended.code, int) else 2
    console = Console(as_json=args.json)
    try:
        return _run(args.module, args, console)
    except KeyboardInterrupt:
        console.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; what is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ConfigError as error:
        console.error(_worded(str(error)))
        return 2
    except AiolitError as error:
        console.error(_worded(str(error)))
        return 1
    except OSError as error:  # of a local file that is none of a store's
        place = "" if error.filename is None else f"{error.filename}: "
        console.error(f"{place}{error.strerror or error}")
        return 1
    except ExceptionGroup as group:
        known, others = group.split((AiolitError, OSError))
        if known is None or others is not None:
            raise
        console.error(_first(known))
        return 1


def _run(module: str, args: object, console: Console) -> int:
    with warnings.catch_warnings():
        warnings.showwarning = console.show_warning
        # Commands are imported when they are run: --help does not wait for torch.
        code: int = import_module(f"aiolit.cli.{module}").run(args, console)
    return code


def _worded(message: str) -> str:
    for theirs, ours in _ADVICE.items():
        message = message.replace(theirs, ours)
    return message


def _first(group: BaseExceptionGroup[BaseException]) -> str:
    errors: list[BaseException] = [group]
    while any(isinstance(error, BaseExceptionGroup) for error in errors):
        errors = [
            part
            for error in errors
            for part in (error.exceptions if isinstance(error, BaseExceptionGroup) else [error])
        ]
    return f"{errors[0]} (and {len(errors) - 1} more failures)"
