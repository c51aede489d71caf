"""Whoever is killed, wherever the inputs come from, wherever the output goes.

Each cell runs a job with ``use_checkpoint`` in an interpreter of its own, kills when the job says
that it is in the middle of the inputs, and looks: no success, no ``index.json``. Then the same call
again gives the same objects as a run that nobody interrupted.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import boto3
import psutil
import pytest

from aiolit.format.index import parse_index
from aiolit.format.loader import PyTreeLoader
from aiolit.format.serializers import SerializerRegistry
from aiolit.processing.functions import optimize
from aiolit.processing.sentinel import ALL_DONE

ROOT = Path(__file__).parents[2]
INPUTS = 60
# The input over which the job stops and says so.
MIDDLE = 37

VICTIMS = ("one worker", "all workers", "parent", "producer")
SOURCES = ("ordered", "shared queue", "mp.Queue", "async source")
IMPOSSIBLE = [("producer", source) for source in SOURCES if source != "mp.Queue"]

JOB = """
    import asyncio, json, multiprocessing, os, signal, sys
    import aiolit
    from aiolit.processing.async_functions import optimize as async_optimize
    from aiolit.processing.data_processor import ALL_DONE

    url, source, victim, inputs, middle, options = sys.argv[1:]
    inputs, middle = int(inputs), int(middle)

    def say_and_wait():
        os.write(1, f"{os.getpid()}\\n".encode())
        while True:
            signal.pause()

    def sample(index):
        if index == middle and victim != "producer":
            say_and_wait()
        return {"i": index, "text": "x" * (index % 7)}

    def produce(queue):
        for index in range(inputs):
            if index == middle and victim == "producer":
                say_and_wait()
            queue.put(index)
        queue.put(ALL_DONE)

    async def several():
        for index in range(inputs):
            yield index

    job = dict(
        fn=sample,
        output_dir=url,
        chunk_size=8,
        num_workers=2,
        use_checkpoint=True,
        storage_options=json.loads(options),
        verbose=False,
    )
    if source == "mp.Queue":
        queue = multiprocessing.Queue(maxsize=10)
        # A daemon, as Python waits at its end for any other child: this one puts for ever.
        producer = multiprocessing.Process(target=produce, args=(queue,), daemon=True)
        producer.start()
        aiolit.optimize(queue=queue, **job)
    elif source == "async source":
        asyncio.run(async_optimize(inputs=several(), **job))
    else:
        ordered = source == "ordered"
        aiolit.optimize(inputs=list(range(inputs)), keep_data_ordered=ordered, **job)
"""


class Place(Protocol):
    """Where a job writes."""

    url: str
    options: dict[str, Any]

    def objects(self) -> dict[str, bytes]:
        """Return everything that is there."""


class Folder:
    def __init__(self, path: Path) -> None:
        self.url = str(path)
        self.options: dict[str, Any] = {}
        self._path = path

    def objects(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self._path)): path.read_bytes()
            for path in self._path.rglob("*")
            if path.is_file()
        }


class Prefix:
    def __init__(self, client: Any, bucket: str, options: dict[str, Any]) -> None:
        self._client, self._bucket, self._prefix = client, bucket, uuid.uuid4().hex[:8]
        self.url = f"s3://{bucket}/{self._prefix}"
        self.options = options

    def objects(self) -> dict[str, bytes]:
        listed = self._client.list_objects_v2(Bucket=self._bucket, Prefix=f"{self._prefix}/")
        return {
            entry["Key"].partition("/")[2]: self._body(entry["Key"])
            for entry in listed.get("Contents", ())
        }

    def _body(self, key: str) -> bytes:
        with self._client.get_object(Bucket=self._bucket, Key=key)["Body"] as body:
            data: bytes = body.read()
        return data


@pytest.fixture(scope="module")
def s3_options(moto_url: str) -> dict[str, Any]:
    return {
        "endpoint_url": moto_url,
        "region_name": "us-east-1",
        "aws_access_key_id": "someone",
        "aws_secret_access_key": "secret",
    }


@pytest.fixture
def local_place(tmp_path: Path) -> Place:
    return Folder(tmp_path / "out")


@pytest.fixture
def s3_place(s3_options: dict[str, Any]) -> Iterator[Place]:
    client: Any = boto3.client("s3", **s3_options)
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    yield Prefix(client, bucket, s3_options)
    client.close()


def sample(index: int) -> dict[str, Any]:
    return {"i": index, "text": "x" * (index % 7)}


def run_again(source: str, place: Place) -> None:
    """Make the same call as the script, in this process and undisturbed."""
    job: dict[str, Any] = {
        "fn": sample,
        "output_dir": place.url,
        "chunk_size": 8,
        "num_workers": 2,
        "use_checkpoint": True,
        "storage_options": place.options,
        "verbose": False,
    }
    if source == "mp.Queue":
        queue: Any = multiprocessing.Queue()
        for index in range(INPUTS):
            queue.put(index)
        queue.put(ALL_DONE)
        optimize(queue=queue, **job)
        queue.close()
        queue.join_thread()
    elif source == "async source":
        optimize(inputs=several(), **job)
    else:
        optimize(inputs=list(range(INPUTS)), keep_data_ordered=source == "ordered", **job)


async def several() -> AsyncIterator[int]:
    for index in range(INPUTS):
        yield index


def undated(objects: Mapping[str, bytes]) -> dict[str, Any]:
    index = json.loads(objects["index.json"])
    del index["updated_at"]
    return {**objects, "index.json": index}


def samples(objects: Mapping[str, bytes]) -> list[Any]:
    index = parse_index(objects["index.json"], source="the output")
    loader = PyTreeLoader().bind(index, registry=SerializerRegistry(), source="the output")
    found: list[Any] = []
    for chunk in index.chunks:
        reader = loader.open(memoryview(objects[chunk.filename]), chunk, chunk.filename)
        found += [reader.sample(number) for number in range(chunk.num_items)]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place = Folder(tmp_path_factory.mktemp("whole") / "out")
    run_again("ordered", place)
    return undated(place.objects())


@contextmanager
def job_in_the_middle(
    source: str, victim: str, place: Place, tmp_path: Path
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the job; yields it and the process that said it is in the middle, and waits."""
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(JOB))
    arguments = [source, victim, str(INPUTS), str(MIDDLE), json.dumps(place.options)]
    with subprocess.Popen(
        [sys.executable, str(script), place.url, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # a producer may outlive its parent


def kill(victim: str, process: subprocess.Popen[str], waiting: int) -> None:
    if victim == "all workers":
        for child in psutil.Process(process.pid).children():
            with suppress(psutil.NoSuchProcess):  # the job has ended it, for the death of another
                if child.name().startswith("aiolit-worker"):
                    child.kill()
    else:
        os.kill(process.pid if victim == "parent" else waiting, signal.SIGKILL)


@pytest.mark.keeps_open("sockets", reason="the portal keeps its connections to reuse")
@pytest.mark.parametrize("store", ["local", "s3"])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("victim", VICTIMS)
def test_killed(
    victim: str,
    source: str,
    store: str,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    if (victim, source) in IMPOSSIBLE:
        pytest.skip("only a multiprocessing.Queue has a producer process")
    place: Place = request.getfixturevalue(f"{store}_place")
    with job_in_the_middle(source, victim, place, tmp_path) as (process, waiting):
        kill(victim, process, waiting)
        process.wait(60)
        assert process.stderr is not None
        if victim == "parent":
            assert process.returncode == -signal.SIGKILL
        else:
            error = "ProducerError" if victim == "producer" else "WorkerDiedError"
            assert error in process.stderr.read()
            assert process.returncode == 1
    left = place.objects()
    assert "index.json" not in left
    assert ".checkpoints/job.json" in left
    run_again(source, place)
    objects = place.objects()
    if source == "shared queue":
        assert sorted(each["i"] for each in samples(objects)) == list(range(INPUTS))
        assert all(each == sample(each["i"]) for each in samples(objects))
        assert set(objects) == set(undisturbed)
    else:
        assert undated(objects) == undisturbed
