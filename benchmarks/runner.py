"""Preparing the data and running the contenders in turn."""

from __future__ import annotations

__all__ = ["Bench", "ContenderError"]

import dataclasses
import functools
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.job import Job, nbytes_of
from benchmarks.data import Inputs, Sizes, make_raw, make_source
from benchmarks.process_tree import run
from benchmarks.rows import CONTENDERS, Contender, Row
from benchmarks.s3_server import Counters, S3Server
from benchmarks.table import Measured

_HERE = Path(__file__).parent
_BUCKET = "bench"
_CHUNK_BYTES = 64_000_000
_WARM_BYTES = 2 << 30  # more than any contender and the server need together
_SCRIPTS = {"write": "write", "fetch": "fetch"}  # what is not one of these reads


class ContenderError(RuntimeError):
    """A contender ended with an error, or did not give or write every sample once."""


class Bench:
    """The data sets of all contenders in one folder, and a server over them.

    Args:
        folder: Where the data is kept between runs.
        sizes: How much data there is to read.
        inputs: How many inputs there are to write.
        say: Gets a line of progress now and then.
        only: Labels of contenders; the others are left out of every row.
    """

    def __init__(
        self,
        folder: Path,
        sizes: Sizes,
        inputs: Inputs,
        say: Callable[[str], None],
        only: Collection[str] = (),
    ) -> None:
        self.folder = folder
        self.sizes = sizes
        self.inputs = inputs
        self.failures: list[str] = []
        self._say = say
        self._only = only
        self._buckets = folder / "buckets"
        self._bucket = self._buckets / _BUCKET
        self._source = self._bucket / "source"

    def measure(self, rows: Sequence[Row], repeats: int) -> dict[str, dict[str, list[Measured]]]:
        """Run each row: every contender once, then every contender again, `repeats` times.

        Returns, by row and contender, the runs. A contender that fails is out of that row, and is
        named in `failures`; one whose environment is not built is left out.
        """
        self._say(f"data in {self.folder}")
        make_source(self._source, self.sizes)
        results: dict[str, dict[str, list[Measured]]] = {}
        with S3Server(self._buckets) as server:
            for row in rows:
                server.shape(row.network)
                results[row.name] = self._measure_row(row, repeats, server)
        return results

    def drop_extra_data(self) -> None:
        """Remove the data sets whose chunks have another size than usual."""
        for path in self._bucket.glob("*/*-*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _measure_row(self, row: Row, repeats: int, server: S3Server) -> dict[str, list[Measured]]:
        present = [
            CONTENDERS[label] for label in row.contenders if not self._only or label in self._only
        ]
        for peer in {contender.peer for contender in present if not _interpreter(contender.peer)}:
            self._say(f"{peer} is left out, since it is not built: scripts/peers.sh {peer}")
        present = [contender for contender in present if _interpreter(contender.peer)]
        runs: dict[str, list[Measured]] = {contender.label: [] for contender in present}
        for nth in range(repeats):
            for contender in present:
                if contender.label not in runs:
                    continue
                try:
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

    def _prepared(self, row: Row, contender: Contender) -> Path:
        """Return the data set that the contender reads, which it writes first unless it has."""
        if row.task == "fetch":
            return self._source
        if row.kind == "raw":
            make_raw(self._source, self._bucket / "raw", f"s3://{_BUCKET}/raw")
            return self._bucket / "raw"
        if contender.name == "limit":
            return self._source
        chunk_bytes = row.job.get("chunk_bytes", _CHUNK_BYTES)
        tail = "" if chunk_bytes == _CHUNK_BYTES else f"-{chunk_bytes}"
        data = self._bucket / contender.name / f"{row.kind}{tail}"
        stamp = data.with_name(f"{data.name}.complete")
        about = json.dumps(dataclasses.asdict(self.sizes))
        if stamp.exists() and stamp.read_text() == about:
            return data
        self._say(f"{contender.label} writes {data.name}")
        shutil.rmtree(data, ignore_errors=True)
        data.parent.mkdir(parents=True, exist_ok=True)
        # One worker: with two, LitData writes two runs of chunks, and the row's data would differ.
        job = self._job("prepare", row, str(data), num_workers=1, chunk_bytes=chunk_bytes)
        self._call("write", contender, job)
        os.sync()
        stamp.write_text(about)
        return data

    def _job(self, task: str, row: Row, data: str, **fields: Any) -> Job:
        return Job(task=task, kind=row.kind, source=str(self._source), data=data, **fields)

    def _run(self, row: Row, contender: Contender, server: S3Server) -> Measured:
        if row.task == "write":
            return self._run_write(row, contender, server)
        data = self._prepared(row, contender)
        if row.cold:
            for path in (data, self._source):
                _forget(path)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="cache-") as cache:
            job = self._job(
                row.task,
                row,
                self._where(data) if row.remote else str(data),
                cache=cache,
                storage_options=server.storage_options,
                mode=contender.mode,
                **row.job,
            )
            result, peak, counters = self._measured_call(contender, job, server)
        if row.task == "epoch":
            self._check_epoch(row, contender, result)
            result["nbytes"] = self._nbytes(job)
        result.pop("sum_of_ids", None)
        return _measured(row, result, peak, counters)

    def _run_write(self, row: Row, contender: Contender, server: S3Server) -> Measured:
        """Let it write, look at what it wrote, and remove that."""
        with (
            tempfile.TemporaryDirectory(dir=self.folder, prefix="cache-") as cache,
            tempfile.TemporaryDirectory(dir=self._bucket, prefix="written-") as written,
        ):
            data = Path(written, "data")
            job = self._job(
                "write",
                row,
                self._where(data) if row.remote else str(data),
                cache=cache,
                storage_options=server.storage_options,
                mode=contender.mode,
                count=getattr(self.inputs, row.inputs),
                **row.job,
            )
            result, peak, counters = self._measured_call(contender, job, server)
            self._check_written(row, contender, job, data)
        result["nbytes"] = nbytes_of(job, job.count)
        return _measured(row, result, peak, counters)

    def _measured_call(
        self, contender: Contender, job: Job, server: S3Server
    ) -> tuple[dict[str, Any], int, Counters]:
        _warm_memory()
        server.reset()
        result, peak = self._call(_SCRIPTS.get(job.task, "read"), contender, job)
        return result, peak, server.counters()

    def _where(self, data: Path) -> str:
        return f"s3://{data.relative_to(self._buckets)}"

    def _nbytes(self, job: Job) -> int:
        """How many bytes the samples of an epoch hold."""
        size = 4 * job.block_size if job.kind == "tokens" else None
        return job.samples() * size if size else nbytes_of(job, job.samples())

    def _check_epoch(self, row: Row, contender: Contender, result: Mapping[str, Any]) -> None:
        """Refuse a result that is not every sample once."""
        if not contender.exact or row.kind == "tokens":
            return
        count = self.sizes.records if row.kind == "records" else self.sizes.jpegs
        numbers = count * (count - 1) // 2
        if row.kind == "raw":  # bytes have no number; that all are there shows in their sum
            numbers = int(np.load(self._source / "jpegs.npy")[-1])
        if (result["samples"], result["sum_of_ids"]) != (count, numbers):
            raise ContenderError(
                f"{contender.label} did not give every sample once: {result['samples']:,} of "
                f"{count:,}, numbers off by {result['sum_of_ids'] - numbers:,}"
            )

    def _check_written(self, row: Row, contender: Contender, job: Job, data: Path) -> None:
        """Read back what was written, with the contender's own reader, and compare it."""
        if contender.name == "limit":
            found = sum(path.stat().st_size for path in data.glob("*"))
            if contender.mode in ("copy", "puts") and found != nbytes_of(job, job.count):
                raise ContenderError(f"{contender.label} wrote {found:,} bytes")
            return
        check = self._job("check", row, str(data), count=job.count, batch_size=1024)
        result, _ = self._call("read", contender, check)
        expected = job.count
        if result["samples"] != expected:
            raise ContenderError(
                f"{contender.label} wrote {result['samples']:,} samples, not {expected:,}"
            )

    def _call(self, what: str, contender: Contender, job: Job) -> tuple[dict[str, Any], int]:
        interpreter = _interpreter(contender.peer)
        assert interpreter is not None
        with tempfile.TemporaryDirectory(prefix="bench-") as own:
            path = Path(own, "job.json")
            path.write_text(json.dumps(dataclasses.asdict(job)))
            script = str(_HERE / "contenders" / f"{what}_{contender.name}.py")
            finished = run(
                [interpreter, script, str(path)], env=_environment(own, job), timeout_s=900
            )
        # A peer that has said its result is done: obstore's runtime, which LitData uses too, often
        # aborts the interpreter while that ends (PyO3/pyo3-async-runtimes, issue 40).
        done = contender.peer is not None and finished.output.endswith("}\n")
        if finished.returncode and not done:
            raise ContenderError(
                f"{contender.label} failed ({finished.returncode}):\n{finished.errors[-2000:]}"
            )
        result: dict[str, Any] = json.loads(finished.output.splitlines()[-1])
        return result, finished.peak_bytes


@functools.cache
def _interpreter(peer: str | None) -> str | None:
    """The interpreter of an environment; None where it is not built."""
    if peer is None:
        return sys.executable
    command = ["bash", str(_HERE.parent / "scripts" / "peers.sh"), "--path", peer]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if found.returncode else found.stdout.strip()


def _measured(row: Row, result: Mapping[str, Any], peak: int, counters: Counters) -> Measured:
    if not row.remote:
        return Measured(**result, peak_bytes=peak)
    return Measured(
        **result,
        peak_bytes=peak,
        fetched_bytes=counters.bytes_out,
        sent_bytes=counters.bytes_in,
        requests=counters.requests,
        connections=counters.connections,
    )


def _environment(own: str, job: Job) -> dict[str, str]:
    environment = {**os.environ, "TMPDIR": own, "PYTHONWARNINGS": "ignore"}
    for key, value in job.storage_options.items():
        name = "AWS_ENDPOINT_URL" if key == "endpoint_url" else key.upper()
        environment[name if name.startswith("AWS_") else f"AWS_{name}"] = value
    environment["S3_ENDPOINT_URL"] = environment.get("AWS_ENDPOINT_URL", "")  # MosaicML's name
    return environment


def _warm_memory() -> None:
    """Take memory and give it back, so that the next to take it need not wait for the host.

    The host of a virtual machine takes back what is free, and to get it again costs ten times what
    it costs to fill it: that would be on the bill of whoever happens to be next. By huge pages, for
    the kernel hands those out last, and the page cache asks for them.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE
    nbytes = min(_WARM_BYTES, free // 2)
    with mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        with suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, nbytes, mmap.PAGESIZE):
            memory[at] = 1


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
