"""Several nodes by hand: each process is told its share, and whoever ends last merges."""

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
import pytest

from aiolit.errors import ConfigError, OptimizeError, SchemaError
from aiolit.format.index import parse_index
from aiolit.format.loader import PyTreeLoader
from aiolit.format.serializers import SerializerRegistry
from aiolit.processing.functions import map as map_files
from aiolit.processing.functions import optimize
from aiolit.processing.shares import NODE_RANK, NUM_NODES, Share, find_share

ROOT = Path(__file__).parents[2]
OPTIONS: dict[str, Any] = {"chunk_size": 7, "num_workers": 1, "verbose": False}

BeNode = Callable[[int], None]


@pytest.fixture
def be_node(monkeypatch: pytest.MonkeyPatch) -> BeNode:
    """Give a function that makes this process one of three nodes."""
    monkeypatch.setenv(NUM_NODES, "3")
    return lambda rank: monkeypatch.setenv(NODE_RANK, str(rank))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def samples(get: Callable[[str], bytes]) -> list[Any]:
    index = parse_index(get("index.json"), source="the data set")
    loader = PyTreeLoader().bind(index, registry=SerializerRegistry(), source="the data set")
    found: list[Any] = []
    for chunk in index.chunks:
        reader = loader.open(memoryview(get(chunk.filename)), chunk, chunk.filename)
        found += [reader.sample(number) for number in range(chunk.num_items)]
    return found


def read(folder: Path) -> list[Any]:
    """Return all samples; there is nothing but the index and its chunks."""
    index = parse_index((folder / "index.json").read_bytes(), source=str(folder))
    wanted = {"index.json", *(chunk.filename for chunk in index.chunks)}
    assert set(os.listdir(folder)) == wanted
    return samples(lambda name: (folder / name).read_bytes())


def test_whoever_ends_last_merges(out: Path, be_node: BeNode) -> None:
    shares = []
    for rank in (2, 0, 1):
        assert not (out / "index.json").exists()
        be_node(rank)
        shares.append(optimize(abs, range(100), f"local:{out}", **OPTIONS))
    assert read(out) == list(range(100))
    assert [(share.inputs, share.samples) for share in shares] == [(34, 34), (33, 33), (33, 33)]


def test_a_share_that_is_finished_is_not_done_again(out: Path, be_node: BeNode) -> None:
    log = out.with_name("log")

    def fn(index: int) -> int:
        if index == 40 and not log.with_name("go").exists():
            raise ZeroDivisionError
        with log.open("a") as file:
            file.write(f"{index}\n")
        return index

    def call(rank: int) -> None:
        be_node(rank)
        optimize(fn, range(100), f"local:{out}", **OPTIONS)

    call(0)
    with pytest.raises(ZeroDivisionError):
        call(1)
    call(2)
    assert not (out / "index.json").exists()
    log.with_name("go").touch()
    for rank in (0, 1):
        call(rank)
    assert read(out) == list(range(100))
    done = [int(line) for line in log.read_text().split()]
    assert [index for index in done if not 33 <= index < 66] == [*range(33), *range(66, 100)]


def test_a_merge_that_was_cut_short_is_done_by_any_call(out: Path, be_node: BeNode) -> None:
    for rank in range(3):
        be_node(rank)
        optimize(abs, range(100), f"local:{out}", **OPTIONS)
        if rank == 1:
            kept = {path.name: path.read_bytes() for path in out.glob("*-index.json")}
    parts = kept | {"2-index.json": b""}
    assert set(parts) == {"0-index.json", "1-index.json", "2-index.json"}
    # As it is when the last node ends between its share and the merge.
    (out / "index.json").unlink()
    for name, data in kept.items():
        (out / name).write_bytes(data)
    be_node(2)
    optimize(abs, range(100), f"local:{out}", **OPTIONS)
    be_node(0)
    with pytest.raises(ConfigError, match="holds a data set already"):
        optimize(abs, range(100), f"local:{out}", **OPTIONS)
    assert samples(lambda name: (out / name).read_bytes()) == list(range(100))


@pytest.mark.parametrize("use_checkpoint", [True, False], ids=["checkpoint", "none"])
def test_what_was_merged_is_not_appended_again(
    use_checkpoint: bool, out: Path, be_node: BeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OPTIONS | {"mode": "append", "use_checkpoint": use_checkpoint}
    monkeypatch.delenv(NUM_NODES)
    optimize(abs, range(50), out, **OPTIONS)
    monkeypatch.setenv(NUM_NODES, "3")
    kept: dict[Path, bytes] = {}
    for rank in range(3):
        be_node(rank)
        optimize(abs, range(50, 99), f"local:{out}", **options)
        if rank == 1:
            left = [*out.glob("*-index.json"), *out.glob(".checkpoints/*")]
            kept = {path: path.read_bytes() for path in left}
    assert len(kept) >= (6 if use_checkpoint else 2)
    # As it is when the last node ends while it removes these.
    for path, data in kept.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    be_node(0)
    with pytest.raises(ConfigError, match=r"-index.json is of a job with inputs=49, not 50"):
        optimize(abs, range(50, 100), f"local:{out}", **options)
    (out / "0-index.json").unlink()
    summary = optimize(abs, range(50, 99), f"local:{out}", **options)
    assert summary.inputs == summary.samples == 16
    assert read(out) == list(range(99))


def test_what_was_replaced_goes_with_a_merge_that_was_cut_short(
    out: Path, be_node: BeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NUM_NODES)
    optimize(abs, range(50), out, **OPTIONS)
    before = {path: path.read_bytes() for path in out.glob("chunk-*")}
    monkeypatch.setenv(NUM_NODES, "3")
    for rank in range(3):
        be_node(rank)
        if rank == 2:
            before |= {path: path.read_bytes() for path in out.glob("*-index.json")}
        optimize(abs, range(50, 99), f"local:{out}", mode="overwrite", **OPTIONS)
    for path, data in before.items():
        path.write_bytes(data)
    optimize(abs, range(50, 99), f"local:{out}", mode="overwrite", **OPTIONS)
    assert read(out) == list(range(50, 99))


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_modes(mode: str, out: Path, be_node: BeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(NUM_NODES)
    optimize(abs, range(50), out, **OPTIONS)
    monkeypatch.setenv(NUM_NODES, "3")
    for rank in (1, 2, 0):
        be_node(rank)
        optimize(abs, range(50, 99), f"local:{out}", mode=mode, **OPTIONS)
    assert read(out) == list(range(0 if mode == "append" else 50, 99))


def test_inputs_in_another_order_are_found(out: Path, be_node: BeNode) -> None:
    be_node(0)
    optimize(abs, list(range(100)), f"local:{out}", **OPTIONS)
    be_node(1)
    with pytest.raises(ConfigError, match=r"0-index.json is of a job with digest_of_inputs="):
        optimize(abs, list(range(99, -1, -1)), f"local:{out}", **OPTIONS)
    assert not (out / "index.json").exists()


def test_other_leaves_are_found(out: Path, be_node: BeNode) -> None:
    for rank in (0, 1):
        be_node(rank)
        optimize(lambda i: {"a": i}, range(100), f"local:{out}", **OPTIONS)
    be_node(2)
    with pytest.raises(SchemaError, match="in the share of node 0"):
        optimize(lambda i: {"b": i}, range(100), f"local:{out}", **OPTIONS)
    assert not (out / "index.json").exists()


def test_no_sample_at_all(out: Path, be_node: BeNode) -> None:
    for rank in (0, 1):
        be_node(rank)
        optimize(lambda i: None, range(100), f"local:{out}", **OPTIONS)
    be_node(2)
    with pytest.raises(OptimizeError, match="not a single sample"):
        optimize(lambda i: None, range(100), f"local:{out}", **OPTIONS)


def test_map_does_its_share(out: Path, be_node: BeNode) -> None:
    def write(index: int, output_dir: str) -> None:
        (Path(output_dir) / f"{index}.txt").write_text("x")

    for rank in range(3):
        be_node(rank)
        map_files(write, range(10), f"local:{out}", num_workers=1, verbose=False)
    assert set(os.listdir(out)) == {f"{index}.txt" for index in range(10)}


# Is killed when it has written down so many chunks.
JOB = """
import os, signal, sys
from aiolit.processing.functions import optimize

out, ordered, num_workers, deadly = sys.argv[1:]
left = int(deadly)

def end(name, arguments):
    global left
    if name == "os.rename" and ".checkpoints" in str(arguments[1]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def fn(index):
    for part in range(index % 6):
        yield index, part

sys.addaudithook(end)
optimize(
    fn, range(300), f"local:{out}", chunk_size=7, num_workers=int(num_workers),
    keep_data_ordered=ordered == "True", use_checkpoint=True, verbose=False,
)
"""


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "as they come"])
def test_a_killed_share_goes_on(ordered: bool, out: Path) -> None:
    def call(folder: Path, rank: int, num_workers: int, deadly: int) -> int:
        told = {NUM_NODES: "3", NODE_RANK: str(rank), "PYTHONPATH": str(ROOT)}
        arguments = [str(each) for each in (folder, ordered, num_workers, deadly)]
        command = [sys.executable, "-c", JOB, *arguments]
        return subprocess.run(command, env=os.environ | told, timeout=60, check=False).returncode

    for rank, deadly in ((0, 20), (1, 12), (1, 9), (2, 2)):
        assert call(out, rank, 2, deadly) == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in out.glob("chunk-*.bin")}
    for rank in (2, 0, 1):
        assert not (out / "index.json").exists()
        assert call(out, rank, 3, -1) == 0
    found = read(out)
    expected = [(index, part) for index in range(300) for part in range(index % 6)]
    assert (found if ordered else sorted(found)) == expected
    # What is written again is what had no record: a few chunks of each attempt at most.
    again = [path for path, time in kept.items() if path.stat().st_mtime_ns != time]
    assert len(again) < len(kept) / 2
    if ordered:
        whole = out.with_name("whole")
        for rank in range(3):
            assert call(whole, rank, 1, -1) == 0
        for path in whole.glob("chunk-*"):
            assert (out / path.name).read_bytes() == path.read_bytes()


class FailsAt:
    """Returns its input, or writes a file of it; fails over one of them, and writes down all."""

    def __init__(self, folder: Path, index: int | None) -> None:
        self.log = folder / f"log-{index}"
        self.index = index

    def __call__(self, index: int, output_dir: str | None = None) -> int:
        if index == self.index:
            raise LookupError("once")
        if output_dir is not None:
            (Path(output_dir) / f"{index}.txt").write_text("x")
        with self.log.open("a") as log:
            log.write(f"{index}\n")
        return index


def test_an_interrupted_share_is_gone_on_with_only(
    out: Path, be_node: BeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OPTIONS | {"output_dir": f"local:{out}", "use_checkpoint": True}
    be_node(1)
    with pytest.raises(LookupError, match="once"):
        optimize(FailsAt(out.parent, 65), range(100), **options)
    assert (out / ".checkpoints" / "share-1-job.json").exists()
    for changed, said in (
        ({"use_checkpoint": False}, "use_checkpoint=True goes on with it"),
        ({"inputs": range(101)}, "inputs=100, not 101"),
        ({"keep_data_ordered": False}, "keep_data_ordered=True, not False"),
        ({"weights": [9] * 50 + [1] * 50}, r"shares_begin_at=\[0, 33, 66\], not "),
    ):
        with pytest.raises(ConfigError, match=said):
            optimize(FailsAt(out.parent, None), **({"inputs": range(100)} | options | changed))
    monkeypatch.delenv(NUM_NODES)
    with pytest.raises(ConfigError, match="an interrupted job of several nodes"):
        optimize(FailsAt(out.parent, None), range(100), **options)
    with pytest.raises(ConfigError, match="holds an interrupted job"):
        map_files(FailsAt(out.parent, None), range(100), f"local:{out}", verbose=False)
    monkeypatch.setenv(NUM_NODES, "3")
    for rank in range(3):
        be_node(rank)
        optimize(FailsAt(out.parent, None), range(100), **options)
    assert read(out) == list(range(100))


def test_an_interrupted_job_of_one_process_is_not_taken_for_a_share(
    out: Path, be_node: BeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = OPTIONS | {"output_dir": f"local:{out}", "use_checkpoint": True}
    monkeypatch.delenv(NUM_NODES)
    with pytest.raises(LookupError, match="once"):
        optimize(FailsAt(out.parent, 65), range(100), **options)
    monkeypatch.setenv(NUM_NODES, "3")
    be_node(0)
    with pytest.raises(ConfigError, match="an interrupted job of one process"):
        optimize(FailsAt(out.parent, None), range(100), **options)


def test_what_a_killed_share_left_is_removed(out: Path, be_node: BeNode) -> None:
    for rank in range(3):
        be_node(rank)
        out.mkdir(exist_ok=True)
        (out / f"chunk-{rank}-5.bin").write_bytes(b"of an attempt that cut its chunks otherwise")
        optimize(abs, range(100), f"local:{out}", **OPTIONS)
    assert read(out) == list(range(100))


def test_a_map_share_goes_on(out: Path, be_node: BeNode) -> None:
    options: dict[str, Any] = {"num_workers": 1, "use_checkpoint": True, "verbose": False}
    for rank, deadly in ((0, None), (1, 58)):
        be_node(rank)
        fn = FailsAt(out.parent, deadly)
        if deadly is None:
            map_files(fn, range(100), f"local:{out}", **options)
        else:
            with pytest.raises(LookupError, match="once"):
                map_files(fn, range(100), f"local:{out}", **options)
    done = {int(each) for each in fn.log.read_text().split()}
    for record in out.glob(".checkpoints/share-1-map-*"):
        written_down = [index for index, _ in json.loads(record.read_text())["made"]]
        done.difference_update(33 + index for index in written_down)
    again = FailsAt(out.parent, None)
    again.log.write_text("")
    for rank in (0, 1, 2):
        be_node(rank)
        map_files(again, range(100), f"local:{out}", **options)
    assert set(os.listdir(out)) == {f"{index}.txt" for index in range(100)}
    # The first share was finished; of the second, what was written down.
    seen = [int(each) for each in again.log.read_text().split()]
    assert seen == sorted({*done, *range(58, 100)})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "the nodes' chunks would not come together"),
        ({"inputs": iter([1])}, "inputs must be one"),
    ],
    ids=["a folder of one machine", "an iterator"],
)
def test_what_cannot_work_is_refused_at_once(
    arguments: dict[str, Any], said: str, out: Path, be_node: BeNode
) -> None:
    be_node(0)
    place = str(out) if not arguments else f"local:{out}"
    with pytest.raises(ConfigError, match=said):
        optimize(abs, **({"inputs": [1], "output_dir": place} | arguments | OPTIONS))
    assert not out.exists()


def test_launchers_say_which_node_it_is() -> None:
    three = {NUM_NODES: "3"}
    assert find_share({}) is None
    assert find_share({NUM_NODES: "1"}) is None
    assert find_share(three | {NODE_RANK: "2", "RANK": "0"}) == Share(rank=2, num_nodes=3)
    torchrun = {"WORLD_SIZE": "3", "RANK": "1"}
    assert find_share(three | torchrun) == Share(rank=1, num_nodes=3)
    slurm = {"SLURM_NTASKS": "3", "SLURM_PROCID": "2"}
    assert find_share(three | slurm) == Share(rank=2, num_nodes=3)
    # Two processes on each of three machines are no three nodes.
    with pytest.raises(ConfigError, match=f"set {NODE_RANK}"):
        find_share(three | {"WORLD_SIZE": "6", "RANK": "1"})
    for wrong in ({NODE_RANK: "3"}, {NODE_RANK: "-1"}, {NODE_RANK: "x"}, {NUM_NODES: "0"}):
        with pytest.raises(ConfigError, match="whole number"):
            find_share(three | wrong)


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


SCRIPT = """
import sys
from aiolit import optimize

optimize(
    abs, range(100), "s3://nodes/out", chunk_size=7, num_workers=1, verbose=False,
    storage_options={
        "endpoint_url": sys.argv[1], "region_name": "us-east-1",
        "aws_access_key_id": "nodes", "aws_secret_access_key": "nodes",
    },
)
"""


@pytest.mark.keeps_open("sockets", reason="connections to the module's server")
def test_processes_of_a_launcher_that_end_together_on_s3(s3: Any) -> None:
    command = [sys.executable, "-c", SCRIPT, s3.meta.endpoint_url]
    launcher = {NUM_NODES: "3", "WORLD_SIZE": "3", "PYTHONPATH": str(ROOT)}
    environments = [os.environ | launcher | {"RANK": str(rank)} for rank in range(3)]
    nodes = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE) for env in environments]
    said = [node.communicate()[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0, 0], said

    def get(name: str) -> bytes:
        data: bytes = s3.get_object(Bucket="nodes", Key=f"out/{name}")["Body"].read()
        return data

    assert samples(get) == list(range(100))
    listed = s3.list_objects_v2(Bucket="nodes", Prefix="out/")["Contents"]
    assert not [each["Key"] for each in listed if "-index.json" in each["Key"]]
