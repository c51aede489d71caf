"""Preparing the data, running the contenders in turn, and the table of what they did."""

from __future__ import annotations

__all__ = ["Bench", "ContenderError", "Measured", "table"]

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import Sizes, make_source
from benchmarks.process_tree import run
from benchmarks.rows import CONTENDERS, NETWORK, Contender, Row
from benchmarks.s3_server import S3Server

_HERE = Path(__file__).parent
_BUCKET = "bench"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One run of one contender."""

    samples: int
    seconds: float
    """From the first line of the contender's own code, imports done, to the last batch."""
    first_batch_s: float
    cpu_s: float
    """Of all its processes, in that time."""
    peak_bytes: int
    fetched_bytes: int | None
    """What the server sent; None where the data is on the disk."""
    requests: int | None
    median_ms: float | None = None
    p95_ms: float | None = None

    @property
    def rate(self) -> float:
        """Samples per second."""
        return self.samples / self.seconds


class ContenderError(RuntimeError):
    """A contender ended with an error, or did not give every sample once."""


class Bench:
    """The data sets of all contenders in one folder, and a server over them.

    Args:
        folder: Where the data is kept between runs.
        sizes: How much data.
        say: Gets a line of progress now and then.
    """

    def __init__(self, folder: Path, sizes: Sizes, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.sizes = sizes
        self.failures: list[str] = []
        self._say = say
        self._bucket = folder / "buckets" / _BUCKET
        self._source = self._bucket / "source"

    def measure(self, rows: Sequence[Row], repeats: int) -> dict[str, dict[str, list[Measured]]]:
        """Run each row: every contender once, then every contender again, `repeats` times.

        Returns, by row and contender, the runs. A contender that fails is out of that row, and is
        named in `failures`; one whose environment is not built is left out.
        """
        self._say(f"data in {self.folder}")
        make_source(self._source, self.sizes)
        results: dict[str, dict[str, list[Measured]]] = {}
        with S3Server(self.folder / "buckets", NETWORK) as server:
            for row in rows:
                results[row.name] = self._measure_row(row, repeats, server)
        return results

    def _measure_row(self, row: Row, repeats: int, server: S3Server) -> dict[str, list[Measured]]:
        present = [CONTENDERS[label] for label in row.contenders]
        present = [contender for contender in present if self._interpreter(contender)]
        runs: dict[str, list[Measured]] = {contender.label: [] for contender in present}
        for nth in range(repeats):
            for contender in present:
                if contender.label not in runs:
                    continue
                try:
                    self._prepare(contender, row.kind)
                    measured = self._run(row, contender, server)
                except ContenderError as error:
                    del runs[contender.label]
                    self.failures.append(f"{row.name}: {error}")
                    self._say(self.failures[-1])
                    continue
                runs[contender.label].append(measured)
                rate = f"{measured.rate:,.0f} samples/s"
                self._say(f"{row.name} {nth + 1}/{repeats} {contender.label}: {rate}")
        return runs

    def _interpreter(self, contender: Contender) -> str | None:
        if contender.peer is None:
            return sys.executable
        script = str(_HERE.parent / "scripts" / "peers.sh")
        command = ["bash", script, "--path", contender.peer]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        if found.returncode:
            self._say(f"{contender.label} is left out: {found.stderr.strip()}")
            return None
        return found.stdout.strip()

    def _data(self, contender: Contender, kind: str) -> Path:
        if contender.data == "source":
            return self._source
        return self._bucket / contender.data / kind

    def _prepare(self, contender: Contender, kind: str) -> None:
        """Let the contender write its data set, unless it has."""
        data = self._data(contender, kind)
        stamp = data.with_name(f"{data.name}.complete")
        about = json.dumps(dataclasses.asdict(self.sizes))
        if contender.data == "source" or (stamp.exists() and stamp.read_text() == about):
            return
        self._say(f"{contender.label} writes {kind}")
        shutil.rmtree(data, ignore_errors=True)
        data.parent.mkdir(parents=True, exist_ok=True)
        job = {"task": "prepare", "kind": kind, "data": str(data), "source": str(self._source)}
        self._call(contender, job)
        os.sync()
        stamp.write_text(about)

    def _run(self, row: Row, contender: Contender, server: S3Server) -> Measured:
        data = self._data(contender, row.kind)
        if row.cold:
            for path in (data, self._source):
                _forget(path)
        where = str(data)
        if row.remote:
            where = f"s3://{data.relative_to(self._bucket.parent)}"
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="cache-") as cache:
            job = {
                "task": row.task,
                "kind": row.kind,
                "source": str(self._source),
                "data": where,
                "cache": cache,
                "storage_options": server.storage_options,
                "mode": contender.mode,
                **row.job,
            }
            server.reset()
            result, peak = self._call(contender, job)
            counters = server.counters()
        self._check(row, contender, result)
        result.pop("sum_of_ids", None)
        return Measured(
            **result,
            peak_bytes=peak,
            fetched_bytes=counters.bytes_out if row.remote else None,
            requests=counters.requests if row.remote else None,
        )

    def _check(self, row: Row, contender: Contender, result: Mapping[str, Any]) -> None:
        """Refuse a result that is not every sample once."""
        if (
            row.task != "epoch"
            or not contender.exact
            or row.kind == "tokens"
            or contender.mode == "gets"
        ):
            return
        count = self.sizes.jpegs if row.kind == "jpegs" else self.sizes.records
        expected = count, count * (count - 1) // 2
        if (result["samples"], result["sum_of_ids"]) != expected:
            raise ContenderError(
                f"{contender.label} did not give every sample once: {result['samples']:,} of "
                f"{count:,}, numbers off by {result['sum_of_ids'] - expected[1]:,}"
            )

    def _call(self, contender: Contender, job: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        interpreter = self._interpreter(contender)
        assert interpreter is not None
        with tempfile.TemporaryDirectory(prefix="bench-") as own:
            path = Path(own, "job.json")
            path.write_text(json.dumps(job))
            script = str(_HERE / "contenders" / contender.script)
            finished = run(
                [interpreter, script, str(path)], env=_environment(own, job), timeout_s=900
            )
        if finished.returncode:
            raise ContenderError(
                f"{contender.label} failed ({finished.returncode}):\n{finished.errors[-4000:]}"
            )
        result: dict[str, Any] = json.loads(finished.output.splitlines()[-1])
        return result, finished.peak_bytes


def _environment(own: str, job: Mapping[str, Any]) -> dict[str, str]:
    environment = {**os.environ, "TMPDIR": own, "PYTHONWARNINGS": "ignore"}
    for key, value in job.get("storage_options", {}).items():
        name = "AWS_ENDPOINT_URL" if key == "endpoint_url" else key.upper()
        environment[name if name.startswith("AWS_") else f"AWS_{name}"] = value
    environment["S3_ENDPOINT_URL"] = environment.get("AWS_ENDPOINT_URL", "")  # MosaicML's name
    return environment


def _forget(folder: Path) -> None:
    """Let the kernel drop what it holds of the files in a folder."""
    os.sync()  # what is not written yet cannot be dropped
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def table(row: Row, runs: Mapping[str, Sequence[Measured]]) -> str:
    """The row as text: one line a contender, medians, with the slowest and the fastest run."""
    header = ["", "samples/s", "(min-max)", "of limit", "of litdata", "first batch s"]
    header += ["median ms", "p95 ms"] if row.task == "random" else []
    header += ["MB fetched", "GETs"] if row.remote else []
    header += ["CPU s", "peak MB"]
    limit = next(
        (label for label in ("limit", "limit, together", "bare GETs") if label in runs), ""
    )
    lines = [header]
    for label, measured in runs.items():
        rates = [one.rate for one in measured]
        line = [label, f"{statistics.median(rates):,.0f}", f"({min(rates):,.0f}-{max(rates):,.0f})"]
        line += [_ratio(runs, label, limit), _ratio(runs, label, "litdata")]
        line.append(_median(measured, "first_batch_s", "{:.3f}"))
        if row.task == "random":
            line += [_median(measured, name, "{:.2f}") for name in ("median_ms", "p95_ms")]
        if row.remote:
            line.append(_median(measured, "fetched_bytes", "{:,.1f}", 1e6))
            line.append(_median(measured, "requests", "{:,.0f}"))
        line.append(_median(measured, "cpu_s", "{:.2f}"))
        line.append(_median(measured, "peak_bytes", "{:,.0f}", 1e6))
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = [f"{row.title}  [{row.name}]"]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        text.append("  " + "  ".join([line[0].ljust(widths[0]), *cells[1:]]))
    return "\n".join(text)


def _ratio(runs: Mapping[str, Sequence[Measured]], label: str, other: str) -> str:
    """The median over the rounds of how much faster `label` was than `other` in the same round."""
    if other not in runs or other == label:
        return "-"
    pairs = zip(runs[label], runs[other], strict=True)
    return f"{np.median([one.rate / two.rate for one, two in pairs]):.2f}"


def _median(measured: Sequence[Measured], name: str, form: str, unit: float = 1) -> str:
    return form.format(statistics.median(getattr(one, name) for one in measured) / unit)
