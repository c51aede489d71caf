"""Jobs on a real Ray cluster of several raylets; `test_ray_nodes.py` looks at what came of them.

``python ray_driver.py FOLDER ENDPOINT`` writes ``outcomes.json`` into the folder: what each case
returned, by name. It is a process of its own because Ray's threads and connections stay in the
process that used them. ENDPOINT is that of an S3 server with a bucket ``nodes``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

import aiolit
from aiolit import aio
from aiolit.processing.machine import Machine

FOLDER = Path(sys.argv[1])
S3_OPTIONS = {
    "endpoint_url": sys.argv[2],
    "region_name": "us-east-1",
    "aws_access_key_id": "nodes",
    "aws_secret_access_key": "nodes",
}
RAYLET: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}


def lose_machine(mark: Path) -> None:
    """End the machine this worker runs on as a power cut would, the first time only."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    node = psutil.Process().parent()
    raylet = node and node.parent()
    assert node
    assert raylet
    assert raylet.name() == "raylet"
    for process in (raylet, node, psutil.Process()):
        process.kill()


def lose_node(mark: Path) -> None:
    """End the process of this worker's node, but not its machine, the first time only."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def losing(lose: Callable[[Path], None], name: str, at: int) -> Callable[[int], Iterator[Any]]:
    """Return a function that gives 3 samples for an input, and loses its machine on one."""
    mark = FOLDER / f"{name}.lost"

    def fn(index: int) -> Iterator[tuple[int, int]]:
        for part in range(3):
            if (index, part) == (at, 1):
                lose(mark)
            yield index, part

    return fn


OPTIONS: dict[str, Any] = {"num_workers": 1, "num_nodes": 2, "verbose": False}


def lost_machine_ordered() -> str:
    fn = losing(lose_machine, "ordered", 150)
    return str(aiolit.optimize(fn, range(200), FOLDER / "ordered", chunk_size=7, **OPTIONS))


def lost_machine_as_they_come() -> str:
    fn = losing(lose_machine, "unordered", 77)
    source = (index for index in range(200))
    options = OPTIONS | {"keep_data_ordered": False}
    return str(aiolit.optimize(fn, source, FOLDER / "unordered", chunk_size=7, **options))


def lost_machine_s3() -> str:
    fn = losing(lose_machine, "s3", 150)
    options = OPTIONS | {"storage_options": S3_OPTIONS}
    return str(aiolit.optimize(fn, range(200), "s3://nodes/data", chunk_size=7, **options))


def lost_node_shared_folder() -> str:
    fn = losing(lose_node, "shared", 20)

    async def main() -> str:
        target = f"local:{FOLDER / 'shared'}"
        return str(await aio.optimize(fn, range(100), target, chunk_size=7, **OPTIONS))

    return asyncio.run(main())


def lost_machine_map() -> str:
    mark = FOLDER / "map.lost"

    def write(index: int, output_dir: str) -> None:
        if index == 30:
            lose_machine(mark)
        (Path(output_dir) / f"{index}.txt").write_text("x" * index)

    return str(aiolit.map(write, range(50), FOLDER / "map", **OPTIONS))


def function_failed() -> str:
    def fn(index: int) -> int:
        if index == 60:
            raise ZeroDivisionError("of mine")
        return index

    return str(aiolit.optimize(fn, range(100), FOLDER / "failed", chunk_size=7, **OPTIONS))


def no_such_machine() -> str:
    options = OPTIONS | {"machine": Machine(cpus=4, resources={"ssd": 1})}
    return str(aiolit.optimize(abs, range(100), FOLDER / "machine", chunk_size=7, **options))


HEAD = """
import os, sys, threading
from pathlib import Path
import aiolit

folder, use_checkpoint = Path(sys.argv[1]), sys.argv[2] == "checkpoint"

def fn(index):
    with (folder / "inputs").open("a") as file:
        file.write(f"{index}\\n")
    if index == 150 and (folder / "fifo").exists():
        # The head fetches chunks while the nodes go on: what is asked of it needs one to be there.
        while use_checkpoint and not any((folder / "out").glob("chunk*")):
            threading.Event().wait(0.01)
        with (folder / "fifo").open("w") as fifo:
            fifo.write("there")
        with (folder / "fifo").open() as fifo:
            fifo.read()
    return index

try:
    done = aiolit.optimize(
        fn, range(200), folder / "out", chunk_size=7, num_workers=1, num_nodes=2,
        use_checkpoint=use_checkpoint, verbose=False,
    )
    print(done.samples)
except KeyboardInterrupt:
    print("KeyboardInterrupt")
"""


def our_workers() -> list[psutil.Process]:
    """List the workers of this test's nodes, known by the home folder it gave them."""
    return [
        process
        for process in psutil.process_iter(["name", "environ"])
        if (process.info["name"] or "").startswith("aiolit-worker")
        and (process.info["environ"] or {}).get("HOME") == os.environ["HOME"]
    ]


def ended_head(name: str, number: signal.Signals, checkpoint: str) -> dict[str, Any]:
    """Send a signal to a head while its nodes are at work; return what it left and said."""
    folder = FOLDER / name
    folder.mkdir()
    os.mkfifo(folder / "fifo")
    script = FOLDER / "head.py"
    script.write_text(HEAD)
    command = [sys.executable, str(script), str(folder), checkpoint]
    head = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (folder / "fifo").read_text()  # returns when a node has come to the input
    head.send_signal(number)
    said, _ = head.communicate()
    out = folder / "out"  # which the head makes with the first file that it fetches
    left = sorted(path.name for path in out.iterdir()) if out.exists() else []
    (folder / "fifo").unlink()
    _, alive = psutil.wait_procs(our_workers(), timeout=20)
    outcome = {"said": said, "left": left, "alive": len(alive)}
    if checkpoint:
        before = len((folder / "inputs").read_text().split())
        again = subprocess.run(command, capture_output=True, text=True, check=False)
        inputs = len((folder / "inputs").read_text().split()) - before
        outcome |= {"again": again.stdout, "error": again.stderr, "inputs": inputs}
    return outcome


def interrupted_head() -> dict[str, Any]:
    return ended_head("interrupted", signal.SIGINT, "")


def killed_head() -> dict[str, Any]:
    return ended_head("killed", signal.SIGKILL, "checkpoint")


CASES = [
    lost_machine_ordered,
    lost_machine_as_they_come,
    lost_machine_s3,
    lost_node_shared_folder,
    lost_machine_map,
    function_failed,
    no_such_machine,
    interrupted_head,
    killed_head,
]


def run(case: Callable[[], Any]) -> Any:
    try:
        return case()
    except Exception as error:  # noqa: BLE001  the test looks at it
        notes = getattr(error, "__notes__", [])
        return {"error": type(error).__name__, "message": str(error), "notes": notes}


def main() -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # After the environment, which Ray reads when it is imported.
    import ray
    from ray.cluster_utils import Cluster

    # The head of the cluster has no CPU: no node of a job runs there, and it survives.
    arguments = RAYLET | {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    os.environ["RAY_ADDRESS"] = cluster.address
    outcomes = {}
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        for case in CASES:
            for node in list(cluster.worker_nodes):
                if not node.any_processes_alive():
                    cluster.remove_node(node)
            while len(cluster.worker_nodes) < 2:
                cluster.add_node(**RAYLET)
            outcomes[case.__name__] = run(case)
        ray.shutdown()
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    (FOLDER / "outcomes.json").write_text(json.dumps(outcomes))


if __name__ == "__main__":
    main()
