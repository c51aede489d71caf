"""What is measured, and who takes part."""

from __future__ import annotations

__all__ = ["CONTENDERS", "NETWORK", "ROWS", "Contender", "Row"]

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from benchmarks.s3_server import Shape

NETWORK = Shape(first_byte_ms=15, sigma=0.35, connect_ms=8, bytes_per_second=80_000_000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Someone who does the work of a row."""

    label: str
    name: str
    """Of its scripts in contenders/ (`read_NAME.py`, ...), and of the folder of its data sets;
    "limit" reads the packed source files."""
    peer: str | None = None
    """Its environment, as scripts/peers.sh names it; None for aiolit's own."""
    exact: bool = True
    """Whether an epoch that is not every sample once is an error."""
    mode: str = ""


def _limit(label: str, mode: str = "") -> Contender:
    return Contender(label=label, name="limit", mode=mode)


CONTENDERS: Mapping[str, Contender] = {
    contender.label: contender
    for contender in (
        _limit("limit"),
        _limit("bare GETs", "gets"),
        _limit("bare GETs, one batch", "batch"),
        _limit("limit, together", "together"),
        _limit("cp", "copy"),
        _limit("fn alone", "fn"),
        _limit("bare PUTs", "puts"),
        _limit("bare interpreters", "interpreters"),
        _limit("bare GETs with aiohttp"),
        _limit("bare GETs with aiohttp, uvloop", "uvloop"),
        Contender(label="bare GETs with obstore", name="obstore", peer="obstore"),
        Contender(label="aiolit", name="aiolit"),
        Contender(label="aiolit, in memory", name="aiolit", mode="memory"),
        Contender(label="aiolit, together", name="aiolit", mode="together"),
        Contender(label="aiolit's store layer", name="aiolit"),
        Contender(label="litdata", name="litdata", peer="litdata-0.2.76"),
        Contender(label="litdata, ahead", name="litdata", peer="litdata-0.2.76", mode="ahead"),
        Contender(
            label="mosaicml",
            name="mosaicml",
            peer="mosaicml-streaming",
            exact=False,  # one run from S3 with two workers was seen that had other samples
        ),
        Contender(label="webdataset", name="webdataset", peer="webdataset"),
    )
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: some work, done by each contender in turn."""

    name: str
    title: str
    kind: str
    """Of data: `jpegs`, `raw` (the same pictures as files of their own), `records`, `tokens`."""
    task: str = "epoch"
    """See `Job.task`."""
    remote: bool = False
    network: Shape = NETWORK
    cold: bool = False
    """Whether the kernel forgets the files before each run."""
    contenders: tuple[str, ...] = ("limit", "aiolit", "litdata")
    """The first one is what the others are measured against."""
    inputs: str = ""
    """How many inputs a `write` row has: a name of `data.Inputs`."""
    job: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the contenders' `Job`."""


_PEERS = ("aiolit", "litdata", "mosaicml", "webdataset")
_CLIENTS = (
    "bare GETs with aiohttp",
    "bare GETs with aiohttp, uvloop",
    "bare GETs with obstore",
    "aiolit's store layer",
)
_CORES = os.cpu_count() or 1


def _reading() -> tuple[Row, ...]:
    return (
        Row(
            name="jpeg-disk-warm",
            title="JPEG bytes, local disk, warm, 2 workers",
            kind="jpegs",
            contenders=("limit", *_PEERS),
            job={"num_workers": 2},
        ),
        Row(
            name="jpeg-disk-cold",
            title="JPEG bytes, local disk, cold, 2 workers",
            kind="jpegs",
            cold=True,
            contenders=("limit", *_PEERS),
            job={"num_workers": 2},
        ),
        Row(
            name="jpeg-s3-2w",
            title="JPEG bytes, S3, nothing cached, 2 workers",
            kind="jpegs",
            remote=True,
            contenders=("limit", "bare GETs", "aiolit, in memory", *_PEERS, "litdata, ahead"),
            job={"num_workers": 2},
        ),
        Row(
            name="jpeg-s3-0w",
            title="JPEG bytes, S3, nothing cached, 0 workers",
            kind="jpegs",
            remote=True,
            contenders=("limit", "bare GETs", "aiolit, in memory", *_PEERS, "litdata, ahead"),
        ),
        Row(
            name="raw-s3-2w",
            title="JPEG files, one object each, S3, nothing cached, 2 workers",
            kind="raw",
            remote=True,
            contenders=("bare GETs", "aiolit", "litdata", "litdata, ahead"),
            job={"num_workers": 2, "connections": 64},
        ),
        Row(
            name="raw-s3-0w",
            title="JPEG files, one object each, S3, nothing cached, 0 workers",
            kind="raw",
            remote=True,
            contenders=("bare GETs", "aiolit", "litdata", "litdata, ahead"),
            job={"connections": 64},
        ),
        Row(
            name="first-batch-s3",
            title="First batch of 64 JPEG from S3, 64 MB chunks, 0 workers",
            kind="jpegs",
            task="first",
            remote=True,
            contenders=("bare GETs, one batch", *_PEERS),
        ),
        Row(
            name="jpeg-decoded",
            title=f"JPEG decoded and cropped, local disk, warm, {_CORES} workers (one a core)",
            kind="jpegs",
            contenders=("limit", *_PEERS),
            job={"num_workers": _CORES, "decode": True},
        ),
        Row(
            name="records-disk",
            title="Records of two numbers, local disk, warm, 0 workers, batches of 256",
            kind="records",
            contenders=("limit", "aiolit", "litdata", "mosaicml"),
            job={"batch_size": 256},
        ),
        Row(
            name="records-disk-cold",
            title="Records of two numbers, local disk, cold, 0 workers, batches of 256",
            kind="records",
            cold=True,
            job={"batch_size": 256},
        ),
        Row(
            name="tokens-disk",
            title="Blocks of 2048 tokens, local disk, warm, 0 workers, batches of 16",
            kind="tokens",
            contenders=("limit", "aiolit", "litdata", "mosaicml"),
            job={"batch_size": 16},
        ),
        Row(
            name="random-disk",
            title="Random ds[i], JPEG bytes, local disk, warm",
            kind="jpegs",
            task="random",
            contenders=("limit", "aiolit", "litdata", "mosaicml"),
            job={"picks": 1000},
        ),
        Row(
            name="random-s3",
            title="100 random ds[i], JPEG bytes, S3, nothing cached",
            kind="jpegs",
            task="random",
            remote=True,
        ),
        Row(
            name="random-s3-together",
            title="100 random samples in one call, JPEG bytes, S3, nothing cached",
            kind="jpegs",
            task="random",
            remote=True,
            contenders=("limit, together", "aiolit, together"),
        ),
    )


def _fetching() -> tuple[Row, ...]:
    return (
        Row(
            name="fetch-ranges",
            title="Ranges of 8 MiB from S3, 16 at a time",
            kind="jpegs",
            task="fetch",
            remote=True,
            contenders=_CLIENTS,
        ),
        Row(
            name="fetch-ranges-fast",
            title="Ranges of 8 MiB from a server without delay or limit, 16 at a time",
            kind="jpegs",
            task="fetch",
            remote=True,
            network=Shape(),
            contenders=_CLIENTS,
        ),
        Row(
            name="fetch-samples",
            title="One range for each JPEG from S3, 64 at a time",
            kind="jpegs",
            task="fetch",
            remote=True,
            contenders=_CLIENTS,
            job={"range_bytes": 0, "connections": 64},
        ),
    )


def _writing() -> tuple[Row, ...]:
    rows = []
    for remote, where, limit in ((False, "to a local disk", "cp"), (True, "to S3", "bare PUTs")):
        place = "s3" if remote else "disk"
        peers = _PEERS[:3] if remote else _PEERS  # WebDataset writes to a disk only
        kinds = (
            ("jpegs", "jpegs", "JPEG bytes", (limit, *peers)),
            ("records", "records", "records of two numbers", (limit, "fn alone", *peers[:3])),
            ("tokens", "tokens", "documents of tokens", (limit, *peers[:2])),
        )
        for kind, inputs, what, contenders in kinds:
            row = Row(
                name=f"write-{kind}-{place}",
                title=f"Writing {what} {where}, 2 workers",
                kind=kind,
                task="write",
                remote=remote,
                contenders=contenders,
                inputs=inputs,
                job={"num_workers": 2},
            )
            rows.append(row)
        row = Row(
            name=f"write-start-{place}",
            title=f"A job of 100 small records {where}, 2 workers",
            kind="records",
            task="write",
            remote=remote,
            contenders=("bare interpreters", *peers[:2]),
            inputs="few",
            job={"num_workers": 2},
        )
        rows.append(row)
    return tuple(rows)


ROWS: Mapping[str, Row] = {row.name: row for row in (*_reading(), *_fetching(), *_writing())}
