"""`aiolit optimize`, `map` and `index`: what they write, what they say, and how they end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from aiolit.cli import main
from aiolit.format.loader import TokensLoader
from aiolit.raw.dataset import StreamingRawDataset
from aiolit.streaming.dataset import StreamingDataset
from benchmarks.s3_server import S3Server, Shape, missing_programs

ROOT = Path(__file__).parents[2]

Call = Callable[..., "Ended"]

FUNCTIONS = '''
import os
from dataclasses import dataclass

import neighbour
import torch


@dataclass
class Text:
    name: str
    size: int


def read(path):
    """Of a module that is found by its file only, with a class of its own and a neighbour."""
    with open(path, "rb") as file:
        text = Text(os.path.basename(path), len(file.read()))
    return {"name": neighbour.upper(text.name), "size": text.size}


class Words:
    @staticmethod
    def split(line):
        for word in line.split():
            yield {"word": word}


def number(value):
    if value["n"] == 2:
        raise ValueError("two\\nis bad")
    return value


def tokens(line):
    return torch.tensor([ord(letter) for letter in line])


def copy(path, output_dir):
    with open(path, "rb") as file:
        data = file.read()
    with open(os.path.join(output_dir, os.path.basename(path) + ".copy"), "wb") as file:
        file.write(data)


def wait(path, output_dir=None):
    with open(os.environ["STARTED"], "w") as file:
        file.write("x")
    with open(os.environ["STARTED"] + ".never") as file:
        file.read()


not_a_function = 3
'''


class Ended:
    """How a command ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def value(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Give a function that runs a command in this process, with few workers."""

    def run(*arguments: object, workers: int | None = 1) -> Ended:
        more = [] if workers is None else ["--num-workers", str(workers), "--json"]
        code = main([*map(str, arguments), *more])
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with functions and texts."""
    (tmp_path / "my-functions.py").write_text(FUNCTIONS)
    (tmp_path / "functions_here.py").write_text(FUNCTIONS)
    (tmp_path / "neighbour.py").write_text("def upper(text):\n    return text.upper()\n")
    for number in range(5):
        path = tmp_path / "texts" / f"d{number % 2}" / f"{number} \u00fc.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * number)
    (tmp_path / "texts" / "other.bin").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


NAMES = ["0 \u00dc.TXT", "2 \u00dc.TXT", "4 \u00dc.TXT", "1 \u00dc.TXT", "3 \u00dc.TXT"]


# ---- optimize ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fn", ["my-functions.py:read", "functions_here:read"])
def test_optimize_files(call: Call, work: Path, fn: str) -> None:
    before = list(sys.path)
    done = call("optimize", "--fn", fn, "texts", "out", "--ext", ".TXT,.md", "--chunk-size", 2)
    assert (done.value["samples"], done.value["chunks"], done.value["skipped"]) == (5, 3, [])
    samples = list(StreamingDataset(work / "out"))
    assert [sample["name"] for sample in samples] == NAMES
    assert [sample["size"] for sample in samples] == [0, 2, 4, 1, 3]
    assert sys.path == before


def test_optimize_lines(call: Call, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a b\r\n\nc \u00e4\n".encode()
    (work / "lines.txt").write_bytes(text)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    for number, source in enumerate(("lines.txt", "-")):
        call("optimize", "--fn", "my-functions.py:Words.split", source, f"out-{number}")
        words = [sample["word"] for sample in StreamingDataset(work / f"out-{number}")]
        assert words == ["a", "b", "c", "\u00e4"]
    call("optimize", "--fn", "my-functions.py:tokens", "lines.txt", "tokens", "--tokens")
    dataset = StreamingDataset(work / "tokens", item_loader=TokensLoader(2))
    assert torch.stack(list(dataset)).flatten().tolist() == [
        ord(letter) for letter in "a bc \u00e4"
    ]


def test_optimize_json_values(call: Call, work: Path) -> None:
    lines = "".join(json.dumps({"n": n}) + "\n" for n in range(6))
    (work / "values.jsonl").write_text(lines)
    optimize = ("optimize", "--fn", "my-functions.py:number", "values.jsonl", "out")
    failed = call(*optimize, "--compression", "zstd")
    assert (failed.code, failed.out) == (1, "")
    last = failed.err.splitlines()[-1]
    assert last == "aiolit: while working on input 2: {'n': 2}: ValueError: two is bad"
    assert 'raise ValueError("two\\nis bad")' in failed.err
    assert not [path for path in (work / "out").rglob("*") if path.is_file()]
    done = call(*optimize, "--on-error", "skip").value
    assert (done["samples"], [one["index"] for one in done["skipped"]]) == (5, [2])
    assert call(*optimize).err.rstrip().endswith("--mode overwrite to replace it")
    done = call(*optimize, "--on-error", "skip", "--mode", "append", "--first", 2).value
    assert done["samples"] == 2
    assert len(StreamingDataset(work / "out")) == 7


def test_a_failed_job_goes_on_behind_its_checkpoint(call: Call, work: Path) -> None:
    (work / "values.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in (0, 1, 2, 3)))
    optimize = ("optimize", "--fn", "fixed.py:number", "values.jsonl", "out", "--use-checkpoint")
    (work / "fixed.py").write_text(FUNCTIONS)
    assert call(*optimize, "--chunk-size", 1).code == 1
    (work / "fixed.py").write_text("def number(value):\n    return value\n")
    assert call(*optimize, "--chunk-size", 1).value["samples"] == 4
    assert [sample["n"] for sample in StreamingDataset(work / "out")] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["my-functions.py", "texts"], "write module:name or file.py:name"),
        (["nowhere.py:read", "texts"], "there is no file nowhere.py"),
        (["no_such_module:read", "texts"], "there is no module no_such_module"),
        (["my-functions.py:reed", "texts"], "there is no 'reed'"),
        (["my-functions.py:not_a_function", "texts"], "is a int, not a function"),
        (["broken.py:read", "texts"], "importing broken.py failed: SyntaxError"),
        (["raising:read", "texts"], "importing raising failed: ZeroDivisionError"),
        (["needing:read", "texts"], "importing needing failed: No module named 'not_there'"),
        (["my-functions.py:read", "nowhere"], "nowhere is not there"),
        (["my-functions.py:read", "empty"], "there are no files in"),
        (["my-functions.py:read", "texts", "--ext", ".png"], "that end in .png"),
        (["my-functions.py:read", "empty.txt"], "there are no lines in empty.txt"),
        (["my-functions.py:read", "photo.jpg"], "line 1: no UTF-8 text"),
        (["my-functions.py:read", "bad.jsonl"], "bad.jsonl, input 2: no JSON"),
        (["my-functions.py:read", "texts", "--inputs", "lines"], "is a folder, not a list"),
        (["my-functions.py:read", "photo.jpg", "--inputs", "files"], "is a file, not a folder"),
        (["my-functions.py:read", "texts", "--chunk-bytes", "64XB"], "is no size"),
        (["my-functions.py:copy", "texts"], "fn is called with one argument"),
        (["my-functions.py:read", "ftp://x/y"], "no store for ftp://"),
    ],
)
def test_what_cannot_work_is_one_sentence(
    call: Call, work: Path, arguments: list[str], says: str
) -> None:
    (work / "empty").mkdir()
    (work / "empty.txt").write_text("\n")
    (work / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    (work / "bad.jsonl").write_text("1\n{\n")
    (work / "broken.py").write_text("def (:\n")
    (work / "raising.py").write_text("1 / 0\n")
    (work / "needing.py").write_text("import not_there\n")
    fn, source, *more = arguments
    done = call("optimize", "--fn", fn, source, "out", *more)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not (work / "out").exists()


# ---- map -----------------------------------------------------------------------------------------


def test_map(call: Call, work: Path) -> None:
    done = call("map", "--fn", "my-functions.py:copy", "texts", "copies", "--ext", ".txt")
    assert (done.value["files"], done.value["bytes"]) == (5, 10)
    names = sorted(path.name for path in (work / "copies").iterdir())
    assert names == [f"{number} \u00fc.txt.copy" for number in range(5)]
    again = call("map", "--fn", "my-functions.py:copy", "texts", "copies", "--error-when-not-empty")
    assert again.code == 2
    wrong = call("map", "--fn", "my-functions.py:read", "texts", "copies")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)


# ---- index ---------------------------------------------------------------------------------------


def test_index_of_parquet(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    for number in range(3):
        pq.write_table(pa.table({"n": range(10)}), folder / f"{number}.parquet")
    done = call("index", folder, "--json", workers=None).value
    assert (done["kind"], done["files"], done["rows"]) == ("parquet", 3, 30)
    assert Path(done["index"]) == folder / "index.json"
    assert len(StreamingDataset(folder)) == 30
    kept = call("index", folder / "[01]*.parquet", "--cache-dir", tmp_path / "kept", "--json")
    assert kept.code == 2  # --num-workers is no option of it
    kept = call(
        "index", folder / "1*.parquet", "--cache-dir", tmp_path / "kept", "--json", workers=None
    )
    assert (kept.value["rows"], Path(kept.value["index"]).is_file()) == (10, True)
    assert call("index", tmp_path / "nowhere", workers=None).code == 2
    (tmp_path / "bare").mkdir()
    assert "there are no files" in call("index", tmp_path / "bare", workers=None).err


# ---- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["optimize", "map"])
def test_ctrl_c(work: Path, command: str) -> None:
    """It ends with 130 and one line, and leaves nothing: no file, no process."""
    started = work / "started"
    os.mkfifo(started)
    os.mkfifo(work / "started.never")
    process = subprocess.Popen(
        [sys.executable, "-m", "aiolit", command, "--fn", "my-functions.py:wait", "texts", "out"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"STARTED": str(started), "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    try:
        started.read_text()  # comes when a worker is in the function
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to the workers, too
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out, err) == (130, "", "aiolit: interrupted\n")
    assert not [path for path in (work / "out").rglob("*") if path.is_file()]
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if missing := missing_programs():
        pytest.skip("; ".join(missing))
    root = tmp_path_factory.mktemp("buckets")
    for number in range(4):
        path = root / "bucket" / "texts" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"y" * number)
    (root / "bucket" / "list.jsonl").write_text('{"n": 1}\n{"n": 3}\n')
    with S3Server(root) as running:
        yield running


def access(server: S3Server) -> list[str]:
    given = server.storage_options.items()
    return [word for key, value in given for word in ("--storage-option", f"{key}={value}")]


@pytest.mark.keeps_open("sockets", "threads", reason="the portal's connections")
def test_on_s3(call: Call, server: S3Server, work: Path) -> None:
    fn = ("--fn", "my-functions.py:read")
    call("optimize", *fn, "s3://bucket/texts", "s3://bucket/out", *access(server), workers=2)
    dataset = StreamingDataset("s3://bucket/out", storage_options=server.storage_options)
    assert dataset[:] == [{"name": f"{n}.TXT", "size": n} for n in range(4)]
    fn = ("--fn", "my-functions.py:number")
    call("optimize", *fn, "s3://bucket/list.jsonl", "numbers", *access(server))
    assert list(StreamingDataset(work / "numbers")) == [{"n": 1}, {"n": 3}]
    fn = ("--fn", "my-functions.py:copy")
    call("map", *fn, "s3://bucket/texts", "s3://bucket/copies", *access(server))
    assert (server.root / "bucket" / "copies" / "3.txt.copy").read_bytes() == b"yyy"
    done = call("index", "s3://bucket/texts", *access(server), "--json", workers=None)
    assert (done.value["kind"], done.value["files"]) == ("raw", 4)
    raw = StreamingRawDataset("s3://bucket/texts", storage_options=server.storage_options)
    assert raw[3] == b"yyy"
    missing = call("optimize", *fn, "s3://bucket/nowhere", "x", *access(server))
    assert "there are no files in s3://bucket/nowhere" in missing.err


def test_ctrl_c_while_converting(server: S3Server, work: Path) -> None:
    tar = server.root / "bucket" / "shards" / "0.tar"
    tar.parent.mkdir(exist_ok=True)
    tar.write_bytes(bytes(10240))
    with S3Server(server.root, Shape(first_byte_ms=20_000, sigma=0)) as slow:
        words = ["convert", "s3://bucket/shards/0.tar", "out", *access(slow)]
        process = subprocess.Popen(
            [sys.executable, "-m", "aiolit", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        try:
            while not slow.counters().active and process.poll() is None:
                pass
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
            process.wait()
    assert (process.returncode, out, err) == (130, "", "aiolit: interrupted\n")
    assert not [path for path in (work / "out").rglob("*") if path.is_file()]
