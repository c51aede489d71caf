"""What reading costs a server, in requests and bytes: aiolit's and LitData's, side by side.

    python -m benchmarks.bytes_read [--samples N]

LitData 0.2.58 writes a data set of samples of 50 kB in chunks of 50. Each reader reads it from the
S3 server of these benchmarks, in fresh processes: one sample with a cold cache, a hundred random
ones, an epoch of two ranks that share a cache, one rank's next epoch, the epochs of a cache with
room for 60 % of the data, and `subsample=0.01`. Bytes are those that the server sent, with the
answers' headers and `index.json`; they are given as multiples of the samples' own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.s3_server import S3Server

NBYTES, PER_CHUNK = 50_000, 50
PEERS_SCRIPT = Path(__file__).parents[1] / "scripts" / "peers.sh"

# These run in any interpreter: both libraries have the same interface.
WRITE = """
import random, sys
import litdata

def sample(index):
    return {"n": index, "x": random.Random(index).randbytes(int(sys.argv[3]))}

if __name__ == "__main__":
    litdata.optimize(sample, inputs=list(range(int(sys.argv[2]))), output_dir=sys.argv[1],
                     chunk_size=int(sys.argv[4]), num_workers=1)
"""
READ = """
import importlib, json, os, sys

job = json.loads(sys.argv[1])
library = importlib.import_module(job["library"])
if job["library"] == "litdata":
    from litdata.streaming import downloader
    from litdata.streaming.cache import Dir
    # Where it fetches with obstore it takes https only, and offers no option for the rest.
    if hasattr(downloader, "_OBSTORE_CLIENT_OPTIONS"):
        downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
else:
    Dir = library.Dir
if job["ranks"] > 1:
    import torch
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{job['port']}",
        rank=job["rank"], world_size=job["ranks"])

place = Dir(path=job["cache"], url="s3://bucket/data")
dataset = library.StreamingDataset(
    place, storage_options=job["storage_options"], drop_last=False, **job["options"])
if job["indices"] is not None:
    nbytes = sum(len(bytes(dataset[index]["x"])) for index in job["indices"])
else:
    loader = library.StreamingDataLoader(
        dataset, batch_size=10, num_workers=0,
        collate_fn=lambda batch: sum(len(bytes(one["x"])) for one in batch))
    nbytes = sum(loader)
if job["ranks"] > 1:
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
print(json.dumps(nbytes))
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Something to read.

    Attributes:
        name: What the table calls it.
        indices: Samples asked for by number; None is an epoch.
        ranks: How many processes share it.
        warm: Whether it begins with the cache that the task before it left.
        options: Of the data set.
    """

    name: str
    indices: tuple[int, ...] | None = None
    ranks: int = 1
    warm: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def tasks(samples: int) -> Iterator[Task]:
    """Yield what is read of a data set of so many samples."""
    chosen = tuple(random.Random(1).sample(range(samples), 100))
    room = {"max_cache_size": samples * NBYTES * 6 // 10}
    yield Task(name="one sample", indices=(samples // 3,))
    yield Task(name="100 random samples", indices=chosen)
    yield Task(name="an epoch of two ranks", ranks=2, options={"shuffle": True})
    yield Task(name="the next, of one rank", warm=True, options={"shuffle": True})
    yield Task(name="an epoch, room for 60 %", options=room)
    yield Task(name="the next", warm=True, options=room)
    yield Task(name="subsample=0.01", options={"subsample": 0.01, "shuffle": True})


def read(
    task: Task, server: S3Server, interpreter: str, library: str, cache: Path
) -> tuple[int, int, int]:
    """Return requests, bytes sent, and bytes of samples that were read."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {
        "library": library,
        "ranks": task.ranks,
        "port": port,
        "cache": str(cache),
        "storage_options": server.storage_options,
        "options": dict(task.options),
        "indices": task.indices,
    }
    server.reset()
    processes = [
        subprocess.Popen(
            [interpreter, "-c", READ, json.dumps({**common, "rank": rank})],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        for rank in range(task.ranks)
    ]
    wanted = 0
    for process in processes:
        output, errors = process.communicate(timeout=300)
        if process.returncode:
            raise RuntimeError(f"{library} failed at {task.name!r}:\n{errors[-2000:]}")
        wanted += int(output.split()[-1])
    counters = server.counters()
    return counters.requests, counters.bytes_out, wanted


def interpreters() -> dict[str, tuple[str, str]]:
    """Return the readers that are here: the interpreter and the library of each."""
    found = {"aiolit": (sys.executable, "aiolit")}
    for peer in ("litdata-0.2.58", "litdata-0.2.76"):
        asked = subprocess.run(
            ["bash", str(PEERS_SCRIPT), "--path", peer], capture_output=True, text=True, check=False
        )
        if asked.returncode == 0:
            found[peer] = (asked.stdout.strip(), "litdata")
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, usage="python -m benchmarks.bytes_read")
    parser.add_argument("--samples", type=int, default=1000)
    samples = parser.parse_args().samples
    readers = interpreters()
    if len(readers) == 1:
        sys.exit("there is no LitData to write the data: scripts/peers.sh builds it")
    writer = next(interpreter for interpreter, library in readers.values() if library == "litdata")
    with tempfile.TemporaryDirectory(prefix="bytes-") as own:
        data = Path(own, "buckets", "bucket", "data")
        arguments = [str(data), str(samples), str(NBYTES), str(PER_CHUNK)]
        script = Path(own, "write.py")  # its workers import it
        script.write_text(WRITE)
        subprocess.run([writer, str(script), *arguments], check=True, capture_output=True)
        width = max(len(task.name) for task in tasks(samples)) + 2
        columns = "".join(f"{name:>26}" for name in readers)
        print(f"{'requests, bytes':{width}}{columns}")
        with S3Server(Path(own, "buckets")) as server:
            caches = {name: Path(own, f"cache-{name}-0") for name in readers}
            for number, task in enumerate(tasks(samples)):
                row = f"{task.name:{width}}"
                for name, (interpreter, library) in readers.items():
                    if not task.warm:
                        caches[name] = Path(own, f"cache-{name}-{number}")
                        caches[name].mkdir()
                    requests, sent, wanted = read(task, server, interpreter, library, caches[name])
                    row += f"{requests:>17} {sent / wanted:>7.2f}x"
                print(row, flush=True)


if __name__ == "__main__":
    main()
