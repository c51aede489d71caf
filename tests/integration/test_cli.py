"""The command line: what it finds, what it leaves, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from aiolit.cache.chunks import CacheConfig, ChunkCache
from aiolit.cli import main
from aiolit.format.assemble import assemble
from aiolit.format.fernet import FernetEncryption
from aiolit.format.index import dump_index
from aiolit.format.loader import TokensLoader
from aiolit.streaming.dataset import StreamingDataset
from aiolit.testing.datasets import write_dataset
from benchmarks.s3_server import S3Server, Shape, missing_programs

WriteDataset = Any
Call = Callable[..., "Ended"]

COUNT = 60


class Ended:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def value(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Give a function that runs a command in this process."""

    def run(*arguments: object) -> Ended:
        code = main([str(one) for one in arguments])
        return Ended(code, *capsys.readouterr())

    return run


def sample(number: int) -> dict[str, Any]:
    array = np.full((3, 4), number, np.float32)
    return {"n": number, "name": f"number {number} \x1b[31m", "deep": [array, b"\1" * 1500]}


@pytest.fixture
def folder(write_dataset: WriteDataset) -> Path:
    written: Path = write_dataset(map(sample, range(COUNT)), chunk_size=10)
    return written


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)


def flip_item(path: Path, item: int) -> None:
    """Flip a bit in the middle of an item of a plain chunk."""
    start, end = np.frombuffer(path.read_bytes(), "<u4", 2, 4 + 4 * item).tolist()
    flip(path, (start + end) // 2)


# ---- inspect -------------------------------------------------------------------------------------


def test_inspect(call: Call, folder: Path) -> None:
    found = call("inspect", folder, "--sample", 7, "--json")
    assert (found.code, found.err) == (0, "")
    value = found.value
    assert (value["samples"], value["chunks"], value["chunks_with_checksums"]) == (COUNT, 6, 6)
    assert (value["loader"], value["compression"]) == ("PyTreeLoader", None)
    formats = {leaf["path"]: leaf["format"] for leaf in value["leaves"]}
    assert formats == {"n": "int", "name": "str", "deep[0]": "numpy", "deep[1]": "bytes"}
    leaves = {leaf["path"]: leaf for leaf in value["sample"]["leaves"]}
    assert leaves["n"]["value"] == "7"
    assert (leaves["deep[0]"]["shape"], leaves["deep[0]"]["dtype"]) == ([3, 4], "float32")
    assert leaves["deep[1]"]["shape"] == [1500]
    assert len(leaves["deep[1]"]["value"]) <= 80


def test_inspect_for_people_sends_nothing_to_the_terminal(call: Call, folder: Path) -> None:
    found = call("inspect", folder)
    assert found.code == 0
    assert "float32  3 x 4" in found.out
    assert "number 0" in found.out
    assert "\x1b" not in found.out


def test_inspect_tokens(call: Call, write_dataset: WriteDataset) -> None:
    rows = [torch.arange(n, n + 50) for n in range(0, 500, 50)]
    folder = write_dataset(rows, chunk_size=100, item_loader=TokensLoader())
    value = call("inspect", folder, "--json").value
    assert (value["samples"], value["tokens"], value["loader"]) == (None, 500, "TokensLoader")
    assert value["leaves"][0]["means"] == "tensor of int64"
    assert value["sample"]["leaves"][0]["shape"] == [16]


def test_inspect_what_needs_a_key(call: Call, write_dataset: WriteDataset) -> None:
    key = FernetEncryption("secret", level="chunk")
    folder = write_dataset([{"n": 1}], chunk_size=1, encryption=key, compression="zstd")
    found = call("inspect", folder)
    assert found.code == 0
    assert "fernet, by chunk" in found.out
    assert "sample 0 is not shown: " in found.out
    assert call("inspect", folder, "--json", "--no-sample").value.keys().isdisjoint({"sample"})


def test_inspect_a_sample_that_is_not_there(call: Call, folder: Path) -> None:
    found = call("inspect", folder, "--sample", COUNT)
    assert (found.code, found.out) == (2, "")
    assert found.err.count("\n") == 1


# ---- verify --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zstd"},
        {"compression": "zstd", "compression_level": "batch", "compression_batch_size": 4},
        {"encryption": FernetEncryption("secret", level="sample")},
    ],
    ids=["plain", "zstd", "framed", "encrypted items"],
)
def test_verify_what_is_whole(call: Call, tmp_path: Path, options: dict[str, Any]) -> None:
    folder = write_dataset(tmp_path / "data", map(sample, range(COUNT)), chunk_size=10, **options)
    value = call("verify", folder, "--json").value
    assert (value["chunks"], value["by_checksums"], value["damaged"]) == (6, 6, [])
    last = sorted(folder.glob("chunk-*"))[-1]
    flip(last, last.stat().st_size // 2)
    found = call("verify", folder, "--json")
    assert found.code == 1
    assert [one["chunk"] for one in found.value["damaged"]] == [last.name]


def test_verify_names_every_damaged_item(call: Call, folder: Path) -> None:
    flip_item(folder / "chunk-0-1.bin", 2)
    flip_item(folder / "chunk-0-1.bin", 5)
    (folder / "chunk-0-3.bin").unlink()
    os.truncate(folder / "chunk-0-4.bin", 500)
    with (folder / "chunk-0-5.bin").open("ab") as file:
        file.write(b"more")
    found = call("verify", folder, "--json")
    assert found.code == 1
    assert found.value["by_checksums"] == 2
    problems = {one["chunk"]: one["problems"] for one in found.value["damaged"]}
    assert list(problems) == [f"chunk-0-{n}.bin" for n in (1, 3, 4, 5)]
    two, five = problems["chunk-0-1.bin"]
    assert "item 2 " in two
    assert "item 5 " in five
    assert "is missing" in problems["chunk-0-3.bin"][0]
    assert "truncated" in problems["chunk-0-4.bin"][0]
    assert "the index declares" in problems["chunk-0-5.bin"][0]
    lines = call("verify", folder).out.splitlines()
    assert len([line for line in lines if str(folder / "chunk-0-") in line]) == 5
    assert lines[-1] == "damaged: 4 of 6 chunks"


def test_verify_tokens_names_every_run(call: Call, write_dataset: WriteDataset) -> None:
    rows = [torch.arange(n, n + 5000) for n in range(0, 60_000, 5000)]
    folder = write_dataset(rows, chunk_size=60_000, item_loader=TokensLoader())
    assert call("verify", folder, "--json").value["by_checksums"] == 1
    flip(folder / "chunk-0-0.bin", 1000)
    flip(folder / "chunk-0-0.bin", 300_000)
    (one,) = call("verify", folder, "--json").value["damaged"]
    assert len(one["problems"]) == 2
    assert all("(tokens) differ" in problem for problem in one["problems"])


def test_verify_says_what_it_cannot_check(call: Call, tmp_path: Path) -> None:
    """Chunks of other writers have no checksums; those encrypted as a whole hide theirs."""
    sealed = write_dataset(
        tmp_path / "sealed",
        [{"n": 1}],
        chunk_size=1,
        encryption=FernetEncryption("secret", level="chunk"),
    )
    assert "1 checked by length alone" in call("verify", sealed).out
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    index, files = assemble([{"n": n} for n in range(4)], chunk_size=4)
    data = files["chunk-0-0.bin"]
    end = int(np.frombuffer(data, "<u4", 1, 4 + 4 * 4)[0])
    (foreign / "chunk-0-0.bin").write_bytes(data[:end])
    chunk = replace(index.chunks[0], nbytes=end, checksum_items=None)
    (foreign / "index.json").write_bytes(dump_index(replace(index, chunks=(chunk,))))
    found = call("verify", foreign)
    assert found.code == 0
    assert "1 checked by structure and length alone" in found.out


def test_verify_goes_on_with_its_journal(call: Call, folder: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    flip_item(folder / "chunk-0-1.bin", 2)
    assert call("verify", folder, "--resume", journal).code == 1
    shutil.copytree(folder, tmp_path / "mended")
    flip_item(tmp_path / "mended" / "chunk-0-1.bin", 2)
    with journal.open("a") as file:
        file.write('{"chunk": "chunk-0')  # killed while it wrote
    value = call("verify", tmp_path / "mended", "--resume", journal, "--json").value
    assert (value["verified_before"], value["by_checksums"], value["damaged"]) == (5, 1, [])
    value = call("verify", folder, "--resume", journal, "--json").value
    assert value["verified_before"] == 6


def test_verify_refuses_a_journal_of_something_else(
    call: Call, folder: Path, tmp_path: Path
) -> None:
    other = write_dataset(tmp_path / "other", [{"n": 1}], chunk_size=1)
    journal = tmp_path / "journal"
    assert call("verify", other, "--resume", journal).code == 0
    found = call("verify", folder, "--resume", journal)
    assert found.code == 2
    assert "another data set" in found.err
    notes = tmp_path / "notes.txt"
    notes.write_text("buy milk\nand bread\n")
    assert call("verify", folder, "--resume", notes).code == 2
    assert notes.read_text() == "buy milk\nand bread\n"


# ---- copy and merge ------------------------------------------------------------------------------


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_copy(call: Call, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    value = call("copy", folder, target, "--json").value
    assert (value["chunks"], value["by_checksums"]) == (6, 6)
    assert files_of(target) == files_of(folder)


def test_copy_of_damaged_data_leaves_nothing(call: Call, folder: Path, tmp_path: Path) -> None:
    flip_item(folder / "chunk-0-3.bin", 4)
    found = call("copy", folder, tmp_path / "copy")
    assert (found.code, found.out) == (1, "")
    assert "item 4 " in found.err
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]


def test_copy_replaces_a_data_set_only_if_told(call: Call, folder: Path, tmp_path: Path) -> None:
    target = write_dataset(tmp_path / "old", [{"k": n} for n in range(20)], chunk_size=1)
    before = files_of(target)
    found = call("copy", folder, target)
    assert found.code == 2
    assert "--overwrite" in found.err
    assert files_of(target) == before
    assert call("copy", folder, target, "--overwrite").code == 0
    assert files_of(target) == files_of(folder)
    assert call("copy", folder, folder, "--overwrite").code == 2
    assert files_of(folder) == files_of(target)


def test_merge(call: Call, folder: Path, tmp_path: Path) -> None:
    more = write_dataset(tmp_path / "more", map(sample, range(COUNT, 70)), chunk_size=10)
    value = call("merge", folder, more, tmp_path / "all", "--json").value
    assert (value["samples"], value["chunks"]) == (70, 7)
    assert [one["n"] for one in StreamingDataset(tmp_path / "all")] == list(range(70))
    assert call("merge", folder, tmp_path / "new").code == 2


# ---- the cache -----------------------------------------------------------------------------------


async def filled(cache: ChunkCache, name: str) -> Any:
    async def fill(target: memoryview) -> None:
        target[:] = bytes(len(target))

    found = await cache.get(name, 5000, fill)
    assert found is not None
    return found[0]


NAMESPACES = ("0" * 16 + "-" + "a" * 12, "1" * 16 + "-" + "b" * 12)


async def test_clear_removes_only_what_nobody_reads(call: Call, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    caches = [ChunkCache(CacheConfig(root, None), name) for name in NAMESPACES]
    reading = await filled(caches[0], "read")
    for cache in caches:
        (await filled(cache, "idle")).close()
    (root / NAMESPACES[1] / "dead.part").write_bytes(b"of a killed process")
    (root / "mine.txt").write_text("not the cache's")
    listed = call("cache", "ls", "--cache-dir", root, "--json").value
    assert [(one["data_set"], one["files"]) for one in listed["data_sets"]] == [
        (NAMESPACES[0], 2),
        (NAMESPACES[1], 1),
    ]
    cleared = call("cache", "clear", "--cache-dir", root, "--json").value
    assert (cleared["removed"], cleared["in_use"]) == (2, 1)
    left = {path.name for path in root.rglob("*") if not path.name.startswith("ledger.")}
    assert left == {*NAMESPACES, "read", "mine.txt"}
    assert bytes(reading.data) == bytes(5000)
    reading.close()
    assert call("cache", "clear", "--cache-dir", root, "--json").value["removed"] == 1
    for cache in caches:
        cache.close()


async def test_verify_removes_damaged_files(call: Call, tmp_path: Path) -> None:
    cache = ChunkCache(CacheConfig(tmp_path, None), NAMESPACES[0])
    for name in ("one", "two"):
        (await filled(cache, name)).close()
    cache.close()
    assert call("cache", "verify", "--cache-dir", tmp_path).code == 0
    flip(tmp_path / NAMESPACES[0] / "two", 77)
    found = call("cache", "verify", "--cache-dir", tmp_path, "--json")
    assert found.code == 1
    assert found.value["damaged"] == [f"{NAMESPACES[0]}/two"]
    assert not (tmp_path / NAMESPACES[0] / "two").exists()
    assert call("cache", "verify", "--cache-dir", tmp_path, "--json").value["checked"] == 1


def test_a_cache_that_is_not_there_is_not_made(call: Call, tmp_path: Path) -> None:
    root = tmp_path / "nothing"
    for action in ("path", "ls", "clear", "verify"):
        assert call("cache", action, "--cache-dir", root).code == 0
    assert not root.exists()


# ---- bench ---------------------------------------------------------------------------------------


def test_bench(call: Call, folder: Path) -> None:
    value = call("bench", folder, "--batches", 3, "--batch-size", 8, "--shuffle", "--json").value
    assert (value["batches"], value["samples"]) == (3, 24)
    assert 0 < value["first_batch_seconds"] <= value["seconds"]
    assert value["samples_per_second"] > 0
    assert "-bound" in value["stats"]["verdict"]
    stages = value["stages"]
    assert list(stages) == ["request", "transfer", "decode", "collate"]
    assert stages["transfer"]["bytes"] == sum(path.stat().st_size for path in folder.glob("*.bin"))
    assert 0 < stages["request"]["median_ms"] <= stages["request"]["slowest_ms"]
    assert stages["decode"]["samples_per_second"] > 0
    found = call("bench", folder, "--batch-size", 50)
    assert "2 batches, 60 samples" in found.out
    assert "samples/s in a process" in found.out


def test_bench_of_samples_that_cannot_be_stacked(call: Call, write_dataset: WriteDataset) -> None:
    rows = [{"x": torch.arange(n + 1)} for n in range(20)]
    folder = write_dataset(rows, chunk_size=20)
    found = call("bench", folder)
    assert found.code == 2
    assert "--no-collate" in found.err
    assert call("bench", folder, "--no-collate", "--json").value["samples"] == 20


def test_bench_of_tokens(call: Call, write_dataset: WriteDataset) -> None:
    rows = [torch.arange(100) for _ in range(10)]
    folder = write_dataset(rows, chunk_size=100, item_loader=TokensLoader())
    assert call("bench", folder).code == 2
    assert call("bench", folder, "--block-size", 10, "--json").value["samples"] == 100


# ---- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["verify", "nowhere"], 1, "nowhere: there is no such folder"),
        (["inspect", "ftp://host/data"], 2, "no store for ftp://"),
        (["verify", "s3://b/d", "--storage-option", "endpoint=x"], 2, "did you mean"),
    ],
)
def test_errors_are_one_sentence(call: Call, arguments: list[str], code: int, says: str) -> None:
    found = call(*arguments)
    assert (found.code, found.out) == (code, "")
    assert says in found.err
    assert found.err.startswith("aiolit: ")
    assert found.err.count("\n") == 1


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "there are no files"),
        (["chunk-0-0.bin"], "it is being written, or the writing was killed"),
        ([".checkpoints/chunk-0-0.json"], "it is being written, or the writing was killed"),
        (["sub/x.tar"], "but there are tars: `aiolit convert`"),
        (["cat/x.JPG"], "but there are images: `aiolit convert`"),
        (["train/index.json", "train/chunk-0-0.bin"], "itself; there is one in"),
        (["notes.md"], "but other files, such as notes.md"),
    ],
)
def test_a_place_without_a_data_set_says_what_it_holds(
    call: Call, tmp_path: Path, names: list[str], says: str
) -> None:
    place = tmp_path / "place \u4e2d"
    place.mkdir()
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(b"x")
    for command in ("inspect", "verify", "bench"):
        found = call(command, place)
        assert (found.code, found.out) == (1, "")
        assert says in found.err
        assert str(place) in found.err
        assert found.err.count("\n") == 1


def test_a_file_is_no_data_set(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"x")
    assert "it is a file, and a data set is a folder" in call("verify", path).err
    assert "is a file, and a data set is a folder" in call("copy", tmp_path, path).err
    assert path.read_bytes() == b"x"


def test_folders_that_cannot_be_used_are_named(call: Call, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    found = call("cache", "ls", "--cache-dir", path)
    assert (found.code, "file is no cache folder: Not a directory" in found.err) == (2, True)
    found = call("verify", folder, "--resume", path / "journal")
    assert found.code == 2
    assert "journal cannot be opened: Not a directory" in found.err


def test_parquet_files_are_a_data_set_without_an_index(call: Call, tmp_path: Path) -> None:
    for number in range(2):
        pq.write_table(pa.table({"n": range(20)}), tmp_path / f"{number}.parquet")
    for url, rows in ((tmp_path, 40), (f"{tmp_path}/1*.parquet", 20)):
        value = call("inspect", url, "--sample", 3, "--json").value
        assert (value["samples"], value["sample"]["leaves"][0]["value"]) == (rows, "3")
        assert call("bench", url, "--json").value["samples"] == rows
    assert "`aiolit index` makes their index" in call("verify", tmp_path).err
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "s3:/b/d"],
        ["copy", "d", "s3:b/d"],
        ["verify", ""],
        ["bench", "http:/x"],
        [],
        ["verify"],
        ["verify", "x", "--storage-option", "novalue"],
        ["bench", "x", "--batches=0"],
    ],
)
def test_wrong_arguments_end_with_2(call: Call, arguments: list[str]) -> None:
    found = call(*arguments)
    assert found.code == 2
    assert "usage: aiolit" in found.err


def test_help_is_quick(run_python: Any) -> None:
    source = """
    import sys
    from aiolit.cli import main
    assert main(["--help"]) == 0
    print(sorted({"torch", "numpy", "aiohttp"} & set(sys.modules)))
    """
    found = run_python(source)
    assert found.stdout.splitlines()[-1] == "[]", found.stderr


def test_a_reader_that_leaves(folder: Path) -> None:
    """``aiolit ... | head`` ends without a traceback."""
    process = _start("inspect", folder)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) == 1


def _start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "aiolit", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | environment,
    )


# ---- on S3 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if missing := missing_programs():
        pytest.skip("; ".join(missing))
    root = tmp_path_factory.mktemp("buckets")
    write_dataset(root / "bucket" / "data", map(sample, range(COUNT)), chunk_size=10)
    with S3Server(root) as running:
        yield running


def options(server: S3Server) -> list[str]:
    given = server.storage_options.items()
    return [word for key, value in given for word in ("--storage-option", f"{key}={value}")]


@pytest.mark.keeps_open(
    "sockets", "threads", "environment", reason="the portal's connections; torch's SIGCHLD handler"
)
def test_every_command_on_s3(call: Call, server: S3Server, tmp_path: Path) -> None:
    url, access = "s3://bucket/data", options(server)
    seen = call("inspect", url, *access, "--json").value
    assert (seen["samples"], seen["sample"]["leaves"][0]["value"]) == (COUNT, "0")
    assert call("verify", url, *access, "--json").value["by_checksums"] == 6
    down = tmp_path / "down"
    assert call("copy", url, down, *access).code == 0
    assert files_of(down) == files_of(server.root / "bucket" / "data")
    assert call("copy", down, "s3://bucket/up", *access).code == 0
    assert files_of(server.root / "bucket" / "up") == files_of(down)
    assert call("merge", url, "s3://bucket/up", "s3://bucket/both", *access).code == 0
    timed = call("bench", "s3://bucket/both", *access, "--num-workers", 1, "--json").value
    assert timed["samples"] == 2 * COUNT
    assert timed["stats"]["bytes_fetched"] > 0
    flip_item(server.root / "bucket" / "up" / "chunk-0-2.bin", 7)
    found = call("verify", "s3://bucket/up", *access)
    assert found.code == 1
    assert "s3://bucket/up/chunk-0-2.bin: damaged: item 7 " in found.out


@pytest.mark.keeps_open("sockets", "threads", reason="the portal's connections")
def test_inspect_runs_no_code_of_a_url(call: Call, server: S3Server) -> None:
    samples = [{"when": datetime(2026, 1, 2, tzinfo=UTC)}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pickles, once for each process and leaf
        folder = write_dataset(server.root / "bucket" / "pickled", samples, chunk_size=1)
    url, access = "s3://bucket/pickled", options(server)
    found = call("inspect", url, *access)
    assert found.code == 0
    assert "sample 0 is not shown: " in found.out
    assert "2026" not in found.out
    for shown in (call("inspect", folder), call("inspect", url, *access, "--allow-pickle")):
        assert "datetime.datetime(2026, 1, 2" in shown.out


@pytest.mark.parametrize("command", ["verify", "copy"])
def test_ctrl_c(server: S3Server, tmp_path: Path, command: str) -> None:
    """It ends with 130, without a traceback, and the copy leaves nothing."""
    target = [tmp_path / "copy"] if command == "copy" else []
    with S3Server(server.root, Shape(first_byte_ms=20_000, sigma=0)) as slow:
        process = _start(command, "s3://bucket/data", *target, *options(slow))
        try:
            while not slow.counters().active and process.poll() is None:
                pass
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, out, err) == (130, "", "aiolit: interrupted\n")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(("command", "before"), [("merge", 2), ("bench", 17)])
def test_ctrl_c_amid_a_chunk(tmp_path: Path, command: str, before: int) -> None:
    """Chunks that have begun to come leave nothing either, and no temporary folder."""
    if missing := missing_programs():
        pytest.skip("; ".join(missing))
    root, work = tmp_path / "buckets", tmp_path / "work"
    work.mkdir()
    for name in ("a", "b"):
        samples = [{"x": os.urandom(2 << 20)} for _ in range(2)]
        write_dataset(root / "bucket" / name, samples, chunk_size=1)
    words: dict[str, list[object]] = {
        "merge": ["s3://bucket/a", "s3://bucket/b", work / "out"],
        "bench": ["s3://bucket/a"],
    }
    # The indexes and other small requests come at once, the chunks never end.
    with S3Server(root, Shape(bytes_per_second=20_000)) as slow:
        process = _start(command, *words[command], *options(slow), TMPDIR=str(work))
        try:
            seen = slow.counters()
            while (seen.get < before or not seen.active) and process.poll() is None:
                seen = slow.counters()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, out, err) == (130, "", "aiolit: interrupted\n")
    assert not [path for path in work.rglob("*") if path.is_file() or "bench" in path.name]


def test_no_command_shows_what_there_is(call: Call) -> None:
    ended = call()
    assert ended.code == 2
    assert "\n    optimize " in ended.err
    assert "exit codes:" in ended.err


def test_options_are_written_out(call: Call) -> None:
    ended = call("convert", "from", "to", "--chunk-byte", "5MB")
    assert ended.code == 2
    assert "unrecognized arguments: --chunk-byte" in ended.err
