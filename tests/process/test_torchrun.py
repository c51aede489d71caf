"""Who reads what in real processes: torchrun, its environment, and those of other launchers."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from aiolit import StreamingDataset
from aiolit.errors import ConfigError
from aiolit.streaming.topology import Place, Topology, find_topology
from aiolit.testing.datasets import write_dataset
from aiolit.testing.jobs import assert_nothing_lost
from benchmarks.s3_server import S3Server, missing_programs

SAMPLES = 203

# Each rank builds everything before it joins the group, adds something up over all ranks at each
# step (a rank with fewer batches would hang), and writes down what it read.
SCRIPT = """
import json, multiprocessing, sys
from aiolit import CombinedStreamingDataset, StreamingDataLoader, StreamingDataset
import torch
import torch.distributed as dist

def build(job):
    options = job["options"]
    dataset = StreamingDataset(job["url"], shuffle=True, drop_last=job["drop_last"], **options)
    if job["combined"]:
        dataset = CombinedStreamingDataset(
            [dataset, StreamingDataset(job["url"], **options)],
            weights=[0.7, 0.3], iterate_over_all=False,
        )
    start = "forkserver" if job["workers"] else None
    return StreamingDataLoader(
        dataset, batch_size=8, num_workers=job["workers"], multiprocessing_context=start
    )

def main(jobs, out):
    # Not fork: gloo's threads take and leave the interpreter at any time, and a child that CPython
    # 3.11 forks at such a moment waits for ever for its lock on the list of threads.
    multiprocessing.set_forkserver_preload(["aiolit.streaming.dataloader"])
    loaders = [build(job) for job in jobs]
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = []
    for job, loader in zip(jobs, loaders):
        said, samples, steps = (len(loader), len(loader.dataset)), [], 0
        for batch in loader:
            total = torch.tensor([len(batch)])
            dist.all_reduce(total)
            samples += batch.tolist()
            steps += 1
        assert said == (steps, len(samples)), (said, steps, len(samples))
        found.append([steps, samples])
    with open(f"{out}/rank{rank}.json", "w") as file:
        json.dump(found, file)
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
"""

MESH = """
import json, sys
from aiolit import StreamingDataset
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

folder, out = sys.argv[1:]
replicated = StreamingDataset(folder, replicate=2)
before = list(replicated)
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
found = {
    "replicate before": before,
    "replicate": list(StreamingDataset(folder, replicate=2)),
    "mesh": list(StreamingDataset(folder, device_mesh=mesh, data_dims="dp")),
    "sub-mesh": list(StreamingDataset(folder, device_mesh=mesh["dp"])),
    "both": list(StreamingDataset(folder, device_mesh=mesh, data_dims=["dp", "tp"])),
    "other": list(StreamingDataset(folder, device_mesh=mesh, data_dims="tp")),
}
with open(f"{out}/rank{dist.get_rank()}.json", "w") as file:
    json.dump(found, file)
dist.barrier()
dist.destroy_process_group()
"""

# No launcher: torch's own spawn, with a group that the environment says nothing of; and then a
# plain DataLoader whose workers are spawned in turn and have never heard of the group.
SPAWNED = """
import json, sys
from aiolit import StreamingDataset
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

def main(rank, dataset, folder, out):
    dist.init_process_group("gloo", f"file://{out}/store", rank=rank, world_size=2)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=4, num_workers=1, multiprocessing_context="spawn"
    )
    with open(f"{out}/rank{rank}.json", "w") as file:
        json.dump([sample for batch in loader for sample in batch.tolist()], file)
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    folder, out = sys.argv[1:]
    mp.spawn(main, (StreamingDataset(folder, drop_last=False), folder, out), nprocs=2)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("torchrun")
    return write_dataset(root / "bucket" / "data", range(SAMPLES), chunk_size=12)


@pytest.fixture
def s3(folder: Path) -> Iterator[S3Server]:
    if missing := missing_programs():
        pytest.skip("; ".join(missing))
    with S3Server(folder.parent.parent) as server:
        yield server


def results(folder: Path, ranks: int) -> list[Any]:
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(ranks)]


def torchrun(ranks: int) -> tuple[str, ...]:
    return ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}")


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_rank_reads_its_own_share_in_as_many_steps(
    run_python: Any, folder: Path, tmp_path: Path, s3: S3Server, ranks: int
) -> None:
    """Peer fact 7: under torchrun, before ``init_process_group``, every rank read rank 0's share;
    peer A.3: ranks with different numbers of batches hang."""
    remote = {"storage_options": s3.storage_options, "cache_dir": str(tmp_path / "cache")}
    places = [(str(folder), {}), ("s3://bucket/data", remote)]
    jobs = [
        {
            "url": url,
            "options": options,
            "workers": workers,
            "drop_last": drop,
            "combined": combined,
        }
        for url, options in places
        for workers in (0, 2)
        for drop, combined in ((None, False), (False, False), (None, True))
    ]
    finished = run_python(
        SCRIPT, json.dumps(jobs), str(tmp_path), flags=torchrun(ranks), timeout_s=200
    )
    assert finished.returncode == 0, finished.stderr
    found = results(tmp_path, ranks)
    for number, job in enumerate(jobs):
        steps = {rank[number][0] for rank in found}
        assert len(steps) == 1
        read = [sample for rank in found for sample in rank[number][1]]
        if job["combined"]:
            assert steps == {SAMPLES * 10 // 7 // (8 * ranks)}
            continue
        dropped, repeated = (8 * ranks - 1, 0) if job["drop_last"] is None else (0, ranks - 1)
        assert_nothing_lost(range(SAMPLES), read, dropped=dropped, repeated=repeated)
    # The place of the data does not matter for the order.
    half = len(jobs) // 2
    assert all(rank[:half] == rank[half:] for rank in found)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_tensor_parallel_ranks_see_the_same_data(
    run_python: Any, folder: Path, tmp_path: Path
) -> None:
    """Mosaic #397, #597: replicas of a tensor-parallel group must read the same samples."""
    finished = run_python(MESH, str(folder), str(tmp_path), flags=torchrun(4), timeout_s=150)
    assert finished.returncode == 0, finished.stderr
    found = results(tmp_path, 4)
    for name in ("replicate before", "replicate", "mesh", "sub-mesh"):
        shares = [rank[name] for rank in found]
        assert shares[0] == shares[1]
        assert shares[2] == shares[3]
        assert_nothing_lost(range(SAMPLES), shares[0] + shares[2], dropped=1)
    both = [rank["both"] for rank in found]
    assert_nothing_lost(range(SAMPLES), [one for share in both for one in share], dropped=3)
    other = [rank["other"] for rank in found]
    assert other[0] == other[2] != other[1]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_group_that_no_launcher_told_of(run_python: Any, folder: Path, tmp_path: Path) -> None:
    finished = run_python(SPAWNED, str(folder), str(tmp_path), timeout_s=150)
    assert finished.returncode == 0, finished.stderr
    one, two = results(tmp_path, 2)
    assert len(one) == len(two) == (SAMPLES + 1) // 2
    assert_nothing_lost(range(SAMPLES), one + two, repeated=1)


# ---- launchers ------------------------------------------------------------------------------

LAUNCHERS: dict[str, Mapping[str, str]] = {
    "torchrun": {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
    "srun": {
        "SLURM_PROCID": "2",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_NTASKS": "4",
        "SLURM_LOCALID": "0",
    },
    "Open MPI": {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4"},
    "MPICH": {"PMI_RANK": "2", "PMI_SIZE": "4"},
    "torchrun within srun": {
        "RANK": "2",
        "WORLD_SIZE": "4",
        "SLURM_PROCID": "1",
        "SLURM_STEP_NUM_TASKS": "2",
    },
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launchers_environment(
    monkeypatch: pytest.MonkeyPatch, folder: Path, launcher: str
) -> None:
    dataset = StreamingDataset(folder)  # built before anything is known
    dataset.set_drop_last(False)
    for name, value in LAUNCHERS[launcher].items():
        monkeypatch.setenv(name, value)
    assert find_topology() == Topology(2, 4)
    assert dataset.find_topology() == Topology(2, 4)
    assert len(dataset) == len(list(dataset)) == 51


def test_a_batch_script_of_slurm_is_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert find_topology() == Topology(0, 1)


@pytest.mark.parametrize(("rank", "world"), [("x", "2"), ("2", "2"), ("-1", "2")])
def test_an_environment_that_cannot_be(
    monkeypatch: pytest.MonkeyPatch, rank: str, world: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(ConfigError, match="RANK="):
        find_topology()


def test_a_rank_that_is_given_counts_more_than_the_environment(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(list(StreamingDataset(folder, rank=0, world_size=1))) == SAMPLES


def test_the_environment_and_the_group_disagree(run_python: Any) -> None:
    source = """
    import os, warnings
    import torch.distributed as dist
    from aiolit.streaming.topology import find_topology
    os.environ.update(RANK="1", WORLD_SIZE="8")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = find_topology()
    print(found.rank, found.world_size, "rank 1 of 8" in str(caught[0].message))
    dist.destroy_process_group()
    """
    finished = run_python(source)
    assert finished.stdout.split() == ["0", "1", "True"], finished.stderr


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 0},
        {"world_size": 2},
        {"rank": 2, "world_size": 2},
        {"replicate": 0},
        {"replicate": 1.5},
        {"replicate": True},
        {"data_dims": "dp"},
    ],
)
def test_places_that_cannot_be(folder: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        StreamingDataset(folder, **options)


def test_replicate_divides_the_ranks() -> None:
    place = Place(rank=5, world_size=6, replicate=2)
    assert place.find() == Topology(2, 3)
    with pytest.raises(ConfigError, match="does not divide the 6"):
        Place(rank=5, world_size=6, replicate=4).find()


def test_a_pickled_data_set_finds_its_place_where_it_wakes_up(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    data = pickle.dumps(StreamingDataset(folder))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert pickle.loads(data).find_topology() == Topology(1, 2)
