"""The inputs of ``aiolit optimize`` and ``map``: files below a folder, or lines of a list."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from aiolit.cli.arguments import storage_options
from aiolit.errors import ConfigError, ObjectNotFoundError
from aiolit.runtime.portal import portal
from aiolit.store.connect import is_remote, join, local_path, open_store

_LISTS = (".txt", ".jsonl", ".ndjson")
_COUNTED = 1_000_000  # lines that are counted ahead, for the progress bar


def find_inputs(args: argparse.Namespace) -> Any:
    """Return what the command line names as inputs: a list, or an iterator over a long list.

    Raises:
        ConfigError: There are none, or SOURCE is not what ``--inputs`` says.
        StoreError: SOURCE cannot be read.
    """
    source, kind = args.source, args.inputs or _kind(args.source)
    if kind == "files":
        return _files(args)
    if args.ext:
        raise ConfigError("--ext chooses files of a folder, and SOURCE gives lines")
    if source == "-":
        return _parsed(_decoded(sys.stdin.buffer, "stdin"), kind, "stdin")
    lines = _parsed(_lines(args), kind, source)
    counted = list(islice(lines, _COUNTED))
    if not counted:
        raise ConfigError(f"there are no lines in {source}")
    return counted if len(counted) < _COUNTED else chain(counted, lines)


def _kind(source: str) -> str:
    if source.endswith((".jsonl", ".ndjson")):
        return "jsonl"
    if source == "-" or source.endswith(_LISTS):
        return "lines"
    return "lines" if not is_remote(source) and local_path(source).is_file() else "files"


def _files(args: argparse.Namespace) -> list[str]:
    source, ends = args.source, tuple(end.lower() for end in args.ext or ())
    if source == "-":
        raise ConfigError("--inputs files needs a folder, not stdin")
    root = source.rstrip("/") if is_remote(source) else os.path.abspath(local_path(source))
    if not is_remote(source) and not os.path.isdir(root):
        what = "a file, not a folder" if os.path.exists(root) else "not there"
        raise ConfigError(f"{root} is {what}")
    keys = portal().call(list_keys, root, args)
    found = [join(root, key) for key in keys if key.lower().endswith(ends or "")]
    if not found:
        suffix = f" that end in {' or '.join(ends)}" if ends else ""
        raise ConfigError(f"there are no files in {root}{suffix}")
    return found


async def list_keys(root: str, args: argparse.Namespace) -> list[str]:
    """List what lies below a folder of any store, sorted."""
    async with open_store(root, **_options(args)) as store:
        return [info.key async for info in store.list()]


def _options(args: argparse.Namespace) -> Mapping[str, Any]:
    return {
        "storage_options": storage_options(args.storage_option),
        "session_options": storage_options(args.session_option),
    }


def _lines(args: argparse.Namespace) -> Iterator[str]:
    source = args.source
    if is_remote(source):
        data = portal().call(_fetch, source, args)
        yield from _decoded(data.splitlines(), source)
        return
    try:
        with local_path(source).open("rb") as file:
            yield from _decoded(file, source)
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {source}") from error
    except IsADirectoryError as error:
        raise ConfigError(f"{source} is a folder, not a list of inputs") from error


async def _fetch(url: str, args: argparse.Namespace) -> bytes:
    root, _, name = url.rpartition("/")
    async with open_store(root, **_options(args)) as store:
        try:
            return await store.get(name)
        except ObjectNotFoundError as error:
            raise ConfigError(f"there is no list of inputs at {url}") from error


def _decoded(lines: Iterable[bytes], source: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"{source}, line {number}: no UTF-8 text; SOURCE is a folder of files, or a text "
                "with one input in each line"
            ) from error
        if text:
            yield text


def _parsed(lines: Iterator[str], kind: str, source: str) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line) if kind == "jsonl" else line
        except ValueError as error:
            raise ConfigError(f"{source}, input {number}: no JSON: {error}") from error
