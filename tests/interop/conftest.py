"""Runs the peers once for all interoperability tests, and prints the matrix at the end."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.interop.aiolit_side import write
from tests.interop.interop_cases import AIOLIT, ARROW, CASES, NEW, OLD, PEERS

ROOT = Path(__file__).parents[2]
ENVIRONMENTS = {
    OLD: "litdata-0.2.58",
    NEW: "litdata-0.2.76",
    ARROW: "litdata-0.2.76-pyarrow",
}
APPENDED = ("dict", "list", "arrays-whole-zstd", "image")
"""Cases of aiolit's to which each peer appends."""
IN_PLACE = "record-whole-zstd"
"""A case of aiolit's that each peer reads where it lies, which changes the files."""


@dataclasses.dataclass(frozen=True, slots=True)
class Exchange:
    """What everyone wrote, and what the peers made of it."""

    folder: Path
    outcomes: dict[str, dict[str, dict[str, Any]]]
    """By peer, then by "written", "read" or "appended", then by key."""
    ours: dict[str, str | None]
    """What kept aiolit from writing a case; None where it did write it."""

    @property
    def files(self) -> Path:
        """Where the samples' own files lie."""
        return self.folder / "files"

    def dataset(self, writer: str, key: str) -> Path:
        """A data set that `writer` wrote."""
        return self.folder / writer / key

    def outcome(self, peer: str, task: str, key: str) -> dict[str, Any]:
        """What a peer got: `samples` or `error`."""
        outcome: dict[str, Any] = self.outcomes[peer][task][key]
        return outcome


@pytest.fixture(scope="session")
def exchange(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Exchange:
    """Everything written and read, once for all tests, also where several processes run them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "interop"
    folder.mkdir(exist_ok=True)
    done = folder / "done.json"
    with _locked(folder / "lock"):
        if not done.exists():
            ours = _write_ours(folder)
            outcomes = _run_peers(folder, [name for name, error in ours.items() if error is None])
            done.write_text(json.dumps({"ours": ours, "outcomes": outcomes}))
    return Exchange(folder=folder, **json.loads(done.read_text()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write_ours(folder: Path) -> dict[str, str | None]:
    """Write every case with aiolit; an error is the result of the tests of that case."""
    ours: dict[str, str | None] = {}
    for name, case in CASES.items():
        if AIOLIT in case.writers:
            try:
                write(case, folder / AIOLIT / name, folder / "files")
                ours[name] = None
            except Exception as error:  # noqa: BLE001
                ours[name] = f"{type(error).__name__}: {error}"
    return ours


def _run_peers(folder: Path, ours: list[str]) -> dict[str, Any]:
    for peer in PEERS:
        for name in set(APPENDED) & set(ours):
            copy = folder / "appended" / peer / name
            shutil.copytree(folder / AIOLIT / name, copy)
            if peer != OLD:
                _add_newer_keys(copy / "index.json")
        if IN_PLACE in ours:
            shutil.copytree(folder / AIOLIT / IN_PLACE, folder / "in-place" / peer)
    jobs = {peer: _job(folder, peer, ours) for peer in PEERS}
    processes = {peer: _start(peer, job) for peer, job in jobs.items()}
    outcomes = {}
    for peer, process in processes.items():
        output, _ = process.communicate()
        if process.returncode:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what it may have left of its workers
            raise RuntimeError(f"litdata {peer} ended with {process.returncode}:\n{output}")
        outcomes[peer] = json.loads((folder / f"{peer}.out.json").read_text())
    return outcomes


def _start(peer: str, job: Path) -> subprocess.Popen[str]:
    # LitData empties $TMPDIR/chunks whenever it writes: together they would hang.
    own = {"TMPDIR": job.with_suffix(".tmp"), "LITDATA_CACHE_DIR": job.with_suffix(".cache")}
    for folder in own.values():
        folder.mkdir()
    return subprocess.Popen(
        [_interpreter(peer), "-I", str(Path(__file__).with_name("peer_side.py")), str(job)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {name: str(folder) for name, folder in own.items()},
        start_new_session=True,
    )


def _job(folder: Path, peer: str, ours: list[str]) -> Path:
    job = {
        "peer": peer,
        "out": str(folder / f"{peer}.out.json"),
        "files": str(folder / "files"),
        "write": str(folder / peer),
        "read": _entries(folder / AIOLIT, [name for name in ours if peer in CASES[name].readers]),
        "appended": _entries(folder / "appended" / peer, sorted(set(APPENDED) & set(ours))),
        "in_place": {IN_PLACE: str(folder / "in-place" / peer)} if IN_PLACE in ours else {},
    }
    path = folder / f"{peer}.job.json"
    path.write_text(json.dumps(job))
    return path


def _add_newer_keys(path: Path) -> None:
    """Give the index the config of 0.2.76: it appends to no other, though it reads it."""
    index = json.loads(path.read_text())
    index["config"] |= dict.fromkeys(
        ("compression_level", "compression_batch_size", "ipc_compression", "types")
    )
    path.write_text(json.dumps(index))


def _entries(folder: Path, names: list[str]) -> dict[str, dict[str, str]]:
    return {name: {"case": name, "path": str(folder / name)} for name in names}


def _interpreter(peer: str) -> str:
    command = ["bash", str(ROOT / "scripts" / "peers.sh"), "--path", ENVIRONMENTS[peer]]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(found.stderr)
    return found.stdout.strip()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print who reads what of whom."""
    cells: dict[str, dict[str, str]] = {}
    for status, mark in (("passed", "yes"), ("failed", "NO"), ("error", "NO")):
        for report in terminalreporter.getreports(status):
            for name, value in getattr(report, "user_properties", ()):
                if name == "interop":
                    case, column = value
                    cells.setdefault(case, {})[column] = mark
    if not cells:
        return
    columns = [f"{peer} > aiolit" for peer in PEERS] + [f"aiolit > {peer}" for peer in PEERS]
    columns += ["aiolit > aiolit"]
    width = max(map(len, cells)) + 2
    terminalreporter.section(
        "interoperability: written by > read by ('-': not written or not read)"
    )
    terminalreporter.write_line(" " * width + "  ".join(columns))
    for case in dict.fromkeys(name for name in (*CASES, *sorted(cells)) if name in cells):
        marks = [cells[case].get(column, "-").center(len(column)) for column in columns]
        terminalreporter.write_line(case.ljust(width) + "  ".join(marks))
