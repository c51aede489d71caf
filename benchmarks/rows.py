"""What is measured, and who takes part."""

from __future__ import annotations

__all__ = ["CONTENDERS", "NETWORK", "ROWS", "Contender", "Row"]

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.s3_server import Shape

NETWORK = Shape(first_byte_ms=15, sigma=0.35, connect_ms=8, bytes_per_second=80_000_000)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Someone who does the work of a row."""

    label: str
    script: str
    """A file in contenders/."""
    peer: str | None = None
    """Its environment, as scripts/peers.sh names it; None for aiolit's own."""
    exact: bool = True
    """Whether an epoch that is not every sample once is an error."""
    data: str
    """Whose data set it reads; "source" for the packed source files."""
    mode: str = ""


def _limit(label: str, mode: str = "") -> Contender:
    return Contender(label=label, script="run_limit.py", data="source", mode=mode)


def _aiolit(label: str, mode: str = "") -> Contender:
    return Contender(label=label, script="run_aiolit.py", data="aiolit", mode=mode)


CONTENDERS: Mapping[str, Contender] = {
    contender.label: contender
    for contender in (
        _limit("limit"),
        _limit("bare GETs", "gets"),
        _limit("limit, together", "together"),
        _aiolit("aiolit"),
        _aiolit("aiolit, together", "together"),
        Contender(label="litdata", script="run_litdata.py", peer="litdata-0.2.76", data="litdata"),
        Contender(
            label="mosaicml",
            script="run_mosaicml.py",
            peer="mosaicml-streaming",
            data="mosaicml",
            exact=False,  # one run from S3 with two workers was seen that had other samples
        ),
        Contender(
            label="webdataset", script="run_webdataset.py", peer="webdataset", data="webdataset"
        ),
    )
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the issue of speed: some work, done by each contender in turn."""

    name: str
    title: str
    kind: str
    task: str = "epoch"
    remote: bool = False
    cold: bool = False
    """Whether the kernel forgets the files before each run."""
    contenders: tuple[str, ...] = ("limit", "aiolit", "litdata")
    job: Mapping[str, Any] = dataclasses.field(default_factory=dict)


_PEERS = ("aiolit", "litdata", "mosaicml", "webdataset")
ROWS: Mapping[str, Row] = {
    row.name: row
    for row in (
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
            contenders=("bare GETs", "limit", *_PEERS),
            job={"num_workers": 2},
        ),
        Row(
            name="jpeg-s3-0w",
            title="JPEG bytes, S3, nothing cached, 0 workers",
            kind="jpegs",
            remote=True,
            contenders=("limit", *_PEERS),
        ),
        Row(
            name="first-batch-s3",
            title="First batch of 64 JPEG from S3, 64 MB chunks, 0 workers",
            kind="jpegs",
            task="first",
            remote=True,
            contenders=("bare GETs", "aiolit", "litdata"),
        ),
        Row(
            name="jpeg-decoded",
            title="JPEG decoded and cropped, local disk, warm, 2 workers",
            kind="jpegs",
            job={"num_workers": 2, "decode": True},
        ),
        Row(
            name="records-disk",
            title="Records of two numbers, local disk, warm, 0 workers, batches of 256",
            kind="records",
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
            job={"batch_size": 16},
        ),
        Row(
            name="random-disk",
            title="Random ds[i], JPEG bytes, local disk, warm",
            kind="jpegs",
            task="random",
            job={"picks": 1000},
        ),
        Row(
            name="random-s3",
            title="Random ds[i], JPEG bytes, S3, nothing cached",
            kind="jpegs",
            task="random",
            remote=True,
            contenders=("limit", "aiolit", "litdata"),
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
}
