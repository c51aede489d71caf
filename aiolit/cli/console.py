"""What the command line writes: lines for people, or one JSON value for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO


class Console:
    """Writes results to stdout and everything else to stderr.

    Args:
        as_json: Whether results are one JSON object instead of lines.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    @property
    def shows_progress(self) -> bool:
        """Whether somebody watches."""
        return not self.as_json and sys.stderr.isatty()

    def result(self, figures: Mapping[str, Any], lines: Iterable[str]) -> None:
        """Write what a command has found, in the form that was asked for."""
        if self.as_json:
            _write(sys.stdout, json.dumps(figures))
            return
        for line in lines:
            _write(sys.stdout, line)

    def error(self, text: str) -> None:
        """Write one sentence about what went wrong."""
        _write(sys.stderr, "aiolit: " + " ".join(text.splitlines()))

    def details(self, text: str) -> None:
        """Write what helps to understand an error, such as a traceback, line by line."""
        for line in text.splitlines():
            _write(sys.stderr, line)

    def show_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Write a warning as a sentence, without the place in the code; see ``warnings``."""
        self.error(f"note: {message}")


def _write(stream: TextIO, line: str) -> None:
    stream.write(_clean(line, stream) + "\n")
    stream.flush()


def _clean(text: str, stream: TextIO) -> str:
    """Escape what could steer a terminal, and what the stream cannot write.

    Names and texts of a data set may be anybody's.
    """
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    encoding = stream.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> list[str]:
    """Return rows as lines, their cells below each other."""
    if not rows:
        return []
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        indent
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
