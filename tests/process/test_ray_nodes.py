"""`optimize` and `map` on a real Ray cluster whose machines, nodes and head are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from aiolit.format.index import parse_index
from aiolit.format.loader import PyTreeLoader
from aiolit.format.serializers import SerializerRegistry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

ROOT = Path(__file__).parents[2]
TIME_LIMIT_S = 400
# What `losing` in the driver gives for inputs.
SAMPLES = [(index, part) for index in range(200) for part in range(3)]


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """Run an S3 server with a bucket ``nodes`` and give a client of it."""
    command = [sys.executable, str(ROOT / "examples" / "local_s3.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        client = boto3.client(
            "s3",
            endpoint_url=server.stdout.readline().strip(),
            region_name="us-east-1",
            aws_access_key_id="nodes",
            aws_secret_access_key="nodes",
        )
        client.create_bucket(Bucket="nodes")
        yield client
        client.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3: Any) -> Path:
    """Run all cases on one cluster and give the folder of what came of them."""
    folder = tmp_path_factory.mktemp("nodes")
    driver = subprocess.Popen(
        [
            sys.executable,
            str(Path(__file__).with_name("ray_driver.py")),
            folder,
            s3.meta.endpoint_url,
        ],
        # Ray keeps a token there.
        env={**os.environ, "HOME": str(folder), "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = driver.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(driver.pid, signal.SIGKILL)
        pytest.fail(f"no end in {TIME_LIMIT_S} s: {driver.communicate()[0][-4000:]}")
    assert driver.returncode == 0, output[-4000:]
    return folder


@pytest.fixture
def outcome(cluster: Path) -> Callable[[str], Any]:
    """Give a function that returns the outcome of a case."""
    outcomes = json.loads((cluster / "outcomes.json").read_text())
    return lambda name: outcomes[name]


def samples(get: Callable[[str], bytes]) -> list[Any]:
    """Return all samples of a data set, by its index, in its order."""
    index = parse_index(get("index.json"), source="the data set")
    loader = PyTreeLoader().bind(index, registry=SerializerRegistry(), source="the data set")
    found: list[Any] = []
    for chunk in index.chunks:
        reader = loader.open(memoryview(get(chunk.filename)), chunk, chunk.filename)
        found += [reader.sample(number) for number in range(chunk.num_items)]
    return found


def in_folder(folder: Path) -> Callable[[str], bytes]:
    return lambda name: (folder / name).read_bytes()


def strays(names: list[str], get: Callable[[str], bytes]) -> set[str]:
    """Return the names that are not of the data set."""
    index = parse_index(get("index.json"), source="the data set")
    return set(names) - {"index.json", *(chunk.filename for chunk in index.chunks)}


def test_a_lost_machine_costs_nothing_and_the_order_stays(
    cluster: Path, outcome: Callable[[str], Any]
) -> None:
    assert "600 samples of 200 inputs" in outcome("lost_machine_ordered")
    assert (cluster / "ordered.lost").exists()
    get = in_folder(cluster / "ordered")
    assert samples(get) == SAMPLES
    assert strays(os.listdir(cluster / "ordered"), get) == set()


def test_nor_where_inputs_come_from_an_iterator(
    cluster: Path, outcome: Callable[[str], Any]
) -> None:
    assert "600 samples of 200 inputs" in outcome("lost_machine_as_they_come")
    assert (cluster / "unordered.lost").exists()
    get = in_folder(cluster / "unordered")
    assert sorted(samples(get)) == SAMPLES
    assert strays(os.listdir(cluster / "unordered"), get) == set()


def test_nor_on_s3_where_the_nodes_write_themselves(
    cluster: Path, s3: Any, outcome: Callable[[str], Any]
) -> None:
    assert "600 samples of 200 inputs" in outcome("lost_machine_s3")
    assert (cluster / "s3.lost").exists()

    def get(name: str) -> bytes:
        data: bytes = s3.get_object(Bucket="nodes", Key=f"data/{name}")["Body"].read()
        return data

    assert samples(get) == SAMPLES
    listed = s3.list_objects_v2(Bucket="nodes", Prefix="data/")["Contents"]
    assert strays([each["Key"].removeprefix("data/") for each in listed], get) == set()


def test_a_killed_node_in_a_shared_folder(cluster: Path, outcome: Callable[[str], Any]) -> None:
    assert "300 samples of 100 inputs" in outcome("lost_node_shared_folder")
    assert (cluster / "shared.lost").exists()
    assert samples(in_folder(cluster / "shared")) == SAMPLES[:300]


def test_map_loses_no_file(cluster: Path, outcome: Callable[[str], Any]) -> None:
    assert "50 files of 50 inputs" in outcome("lost_machine_map")
    assert (cluster / "map.lost").exists()
    sizes = {path.name: path.stat().st_size for path in (cluster / "map").iterdir()}
    assert sizes == {f"{index}.txt": index for index in range(50)}


def test_an_exception_in_the_function_reaches_the_caller(
    cluster: Path, outcome: Callable[[str], Any]
) -> None:
    failed = outcome("function_failed")
    assert (failed["error"], failed["message"]) == ("ZeroDivisionError", "of mine")
    assert any("while working on input 60: 60" in note for note in failed["notes"])
    assert list(cluster.glob("failed/*")) == []


def test_a_machine_that_is_nowhere_is_not_waited_for(outcome: Callable[[str], Any]) -> None:
    message = outcome("no_such_machine")["message"]
    assert "no machine of the Ray cluster has 4 CPU, 1 ssd" in message


def test_ctrl_c_at_the_head_leaves_nothing(outcome: Callable[[str], Any]) -> None:
    interrupted = outcome("interrupted_head")
    assert interrupted.get("said", "").splitlines()[-1:] == ["KeyboardInterrupt"], interrupted
    assert (interrupted["left"], interrupted["alive"]) == ([], 0)


def test_a_killed_head_leaves_no_index_and_its_job_can_be_gone_on_with(
    cluster: Path, outcome: Callable[[str], Any]
) -> None:
    killed = outcome("killed_head")
    assert killed.get("alive") == 0, killed
    assert "index.json" not in killed["left"]
    assert killed["again"].splitlines()[-1] == "200", killed["error"]
    assert samples(in_folder(cluster / "killed" / "out")) == list(range(200))
    # What was recorded is not done again, and no record is left.
    recorded = sum(name.startswith("chunk") for name in killed["left"])
    assert recorded > 0
    assert killed["inputs"] <= 200 - 7 * (recorded - 2)
    get = in_folder(cluster / "killed" / "out")
    assert strays(os.listdir(cluster / "killed" / "out"), get) == set()


def test_no_process_is_left(cluster: Path) -> None:
    names = [
        process.info["name"]
        for process in psutil.process_iter(["name", "environ"])
        if (process.info["environ"] or {}).get("HOME") == str(cluster)
    ]
    assert names == []
