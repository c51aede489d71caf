"""``aiolit verify``: every chunk, by its checksums."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from aiolit.cli.arguments import storage_options
from aiolit.cli.checking import Finding, check_chunk
from aiolit.cli.console import Console
from aiolit.cli.progress import byte_bar
from aiolit.cli.reading import each, fitting, load_index, read_chunk
from aiolit.errors import (
    ChunkFormatError,
    ConfigError,
    ObjectNotFoundError,
    RangeError,
    ShortBodyError,
)
from aiolit.format.dataset_info import ChunkInfo, Index, stored_name
from aiolit.runtime.blocking import in_thread
from aiolit.runtime.portal import portal
from aiolit.store.base import Store
from aiolit.store.connect import open_store
from aiolit.streaming.resolver import resolve
from aiolit.units import format_size

_FORMAT = "aiolit-verify-1"
_HOW = {
    "checksums": "{} agree with their checksums",
    "structure": "{} checked by structure and length alone: they were written without checksums",
    "length": "{} checked by length alone: they are encrypted as a whole",
    "before": "{} were in order before, says the journal",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What was found.

    Attributes:
        index: The data set.
        findings: One for each chunk that was read, as they came.
        before: Chunks that the journal named.
    """

    index: Index
    findings: list[Finding]
    before: int


class Journal:
    """A file that names the chunks of one version of a data set that are in order.

    Args:
        path: The file.
        raw_index: The data set's ``index.json``.

    Raises:
        ConfigError: It is the journal of another data set, or none at all.
    """

    def __init__(self, path: Path, raw_index: bytes) -> None:
        self.done: set[str] = set()
        try:
            self._open(path, raw_index)
        except OSError as error:
            raise ConfigError(
                f"the journal {path} cannot be opened: {error.strerror}; give another --resume"
            ) from error

    def _open(self, path: Path, raw_index: bytes) -> None:
        head = {"format": _FORMAT, "index": hashlib.sha256(raw_index).hexdigest()}
        whole = self._load(path, head) if path.exists() else 0
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._file.truncate(whole)  # a line that a killed process has not finished
        if not whole:
            self._write(head)

    def _load(self, path: Path, head: dict[str, str]) -> int:
        """Read the names, and return the length of the whole lines."""
        whole, _, _ = path.read_bytes().rpartition(b"\n")
        if not whole:
            if path.stat().st_size:
                raise ConfigError(f"{path} is no journal of verify; give another --resume")
            return 0
        try:
            first, *lines = [json.loads(line) for line in whole.split(b"\n")]
            self.done = {line["chunk"] for line in lines}
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} is no journal of verify; give another --resume") from error
        if first != head:
            raise ConfigError(
                f"{path} is the journal of another data set, or of another version of it; give "
                "another --resume"
            )
        return len(whole) + 1

    def add(self, filename: str) -> None:
        """Note that a chunk is in order."""
        self._write({"chunk": filename})

    def _write(self, line: dict[str, str]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class VerifyJob:
    """What to verify, and how."""

    url: str
    journal: Path | None
    concurrency: int
    storage_options: Mapping[str, Any] | None
    session_options: Mapping[str, Any] | None
    shows_progress: bool


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command; see ``parser``."""
    job = VerifyJob(
        url=resolve(args.url).url,
        journal=None if args.resume is None else Path(args.resume),
        concurrency=args.concurrency,
        storage_options=storage_options(args.storage_option),
        session_options=storage_options(args.session_option),
        shows_progress=console.shows_progress,
    )
    report = portal().call(verify, job)
    damaged = sorted(
        (found for found in report.findings if found.outcome == "damaged"),
        key=lambda found: found.filename,
    )
    counts: Counter[str] = Counter(found.outcome for found in report.findings)
    console.result(
        {
            "url": job.url,
            "chunks": len(report.index.chunks),
            "bytes": sum(chunk.nbytes for chunk in report.index.chunks),
            "by_checksums": counts["checksums"],
            "by_structure": counts["structure"],
            "by_length": counts["length"],
            "verified_before": report.before,
            "damaged": [{"chunk": one.filename, "problems": one.problems} for one in damaged],
        },
        _lines(job.url, report, counts, damaged),
    )
    return 1 if damaged else 0


def _lines(
    url: str, report: Report, counts: Mapping[str, int], damaged: list[Finding]
) -> list[str]:
    chunks = report.index.chunks
    size = format_size(sum(chunk.nbytes for chunk in chunks))
    lines = [f"{url}: {len(chunks):,} chunks, {size}"]
    found = {**counts, "before": report.before}
    lines += [
        f"  {text.format(format(found[how], ','))}" for how, text in _HOW.items() if found.get(how)
    ]
    for one in damaged:
        lines += [f"  {problem}" for problem in one.problems]
    if damaged:
        lines.append(f"damaged: {len(damaged):,} of {len(chunks):,} chunks")
    else:
        lines.append("nothing is damaged")
    return lines


async def verify(job: VerifyJob) -> Report:
    """Read and check every chunk.

    Raises:
        DatasetNotFoundError: There is no data set.
        StoreError: The store failed; what it holds was not judged by that.

    A cancellation leaves nothing behind but the journal, with the chunks checked so far.
    """
    store = open_store(
        job.url, storage_options=job.storage_options, session_options=job.session_options
    )
    findings: list[Finding] = []
    with ExitStack() as stack:
        async with store:
            raw, index = await load_index(store)
            journal = None
            if job.journal is not None:
                opened = await in_thread(partial(Journal, job.journal, raw), _close_journal)
                journal = stack.enter_context(opened)
            done = set() if journal is None else journal.done
            todo = [chunk for chunk in index.chunks if chunk.filename not in done]
            total = sum(chunk.nbytes for chunk in todo)
            advance = stack.enter_context(byte_bar("verify", total, shown=job.shows_progress))

            async def check(chunk: ChunkInfo) -> None:
                found = await _check(store, index, chunk)
                findings.append(found)
                if journal is not None and found.outcome != "damaged":
                    journal.add(chunk.filename)
                advance(chunk.nbytes)

            await each(todo, check, fitting(job.concurrency, todo))
    return Report(index, findings, len(index.chunks) - len(todo))


def _close_journal(journal: Journal) -> None:
    journal.__exit__(None, None, None)


async def _check(store: Store, index: Index, chunk: ChunkInfo) -> Finding:
    url = store.object_url(stored_name(chunk, index.config))
    try:
        name, data = await read_chunk(store, chunk, index.config)
    except ObjectNotFoundError:
        return Finding(chunk.filename, "damaged", (f"{url}: is missing",))
    except (ChunkFormatError, RangeError, ShortBodyError) as error:
        return Finding(chunk.filename, "damaged", (str(error),))
    return await in_thread(partial(check_chunk, name, data, chunk, index.config, url))
