"""`aiolit convert`: data of other libraries, read back equal."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from PIL import Image

from aiolit.cli import main
from aiolit.format.images import decode_image
from aiolit.streaming.dataset import StreamingDataset
from benchmarks.s3_server import S3Server, missing_programs

ROOT = Path(__file__).parents[2]

Call = Callable[..., Any]
Files = Iterable[tuple[str, bytes]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Give a function that runs a command and returns its result, or with it fails, its words."""

    def run(*arguments: object, fails: int = 0) -> Any:
        code = main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        assert code == fails, err
        return err if fails else json.loads(out)

    return run


def image_file(number: int, kind: str) -> bytes:
    pixels = np.full((8, 6 + number % 3, 3), 10 * number % 251, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


def array_file(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tar_bytes(files: Files) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return target.getvalue()


def write_tar(path: Path, files: Files) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(files))
    return path


def sample_files(number: int) -> list[tuple[str, bytes]]:
    name = f"set/{number:05d}"
    return [
        (f"{name}.jpg", image_file(number, "JPEG")),
        (f"{name}.seg.png", image_file(number, "PNG")),
        (f"{name}.cls", str(number % 7).encode()),
        (f"{name}.txt", f"number {number} \u00e4".encode()),
        (f"{name}.json", json.dumps({"n": number, "more": [1] * (number % 3)}).encode()),
        (f"{name}.npy", array_file(np.arange(number % 5, dtype=np.float16))),
        (f"{name}.bin", bytes(range(number % 50))),
    ]


def check_sample(sample: Any, number: int) -> None:
    files = dict(sample_files(number))
    name = f"set/{number:05d}"
    assert sample["__key__"] == name
    for ending in ("jpg", "seg.png"):
        assert sample[ending].equal(decode_image(memoryview(files[f"{name}.{ending}"])))
    assert (sample["cls"], sample["txt"]) == (number % 7, f"number {number} \u00e4")
    assert sample["json"] == {"n": number, "more": [1] * (number % 3)}
    assert sample["npy"].dtype == np.float16
    assert sample["npy"].tolist() == list(range(number % 5))
    assert sample["bin"] == files[f"{name}.bin"]


def shards(folder: Path, count: int, each: int) -> Path:
    for shard in range(count):
        numbers = range(shard * each, (shard + 1) * each)
        files = [file for number in numbers for file in sample_files(number)]
        write_tar(folder / f"train-{shard:03d}.tar", files)
    return folder


# ---- WebDataset ----------------------------------------------------------------------------------


def test_webdataset(call: Call, tmp_path: Path) -> None:
    source = shards(tmp_path / "shards", 3, 20)
    target = tmp_path / "out"
    found = call("convert", source, target, "--num-workers", 2, "--chunk-size", 16)
    assert (found["kind"], found["inputs"], found["samples"]) == ("webdataset", 3, 60)
    dataset = StreamingDataset(target)
    assert len(dataset) == 60
    for number in range(60):
        check_sample(dataset[number], number)


def test_webdataset_columns_and_bytes(call: Call, tmp_path: Path) -> None:
    source = shards(tmp_path / "shards", 1, 5)
    target = tmp_path / "out"
    call("convert", source, target, "--columns", "cls,jpg", "--undecoded", "--num-workers", 1)
    samples = list(StreamingDataset(target))
    assert [list(sample) for sample in samples] == [["__key__", "cls", "jpg"]] * 5
    assert [sample["cls"] for sample in samples] == [b"0", b"1", b"2", b"3", b"4"]
    assert samples[3]["jpg"] == image_file(3, "JPEG")


def test_webdataset_names_of_shards(call: Call, tmp_path: Path) -> None:
    """Braces, a pattern, one file; compressed ones, too."""
    folder = tmp_path / "shards"
    for shard in range(3):
        write_tar(folder / f"s-{shard:02d}.tar", [(f"{shard}.txt", b"x")])
    plain = (folder / "s-02.tar").read_bytes()
    (folder / "s-03.tar.gz").write_bytes(gzip.compress(plain))
    (folder / "s-04.tar.zst").write_bytes(zstandard.compress(plain))
    expected = {
        "s-{01..02}.tar": ["1", "2"],
        "s-{02,00}.tar": ["2", "0"],
        "s-0*.tar": ["0", "1", "2"],
        "s-01.tar": ["1"],
        "s-{03.tar.gz,04.tar.zst}": ["2", "2"],
    }
    for number, (pattern, keys) in enumerate(expected.items()):
        target = tmp_path / f"out-{number}"
        call("convert", folder / pattern, target, "--num-workers", 1)
        assert [sample["__key__"] for sample in StreamingDataset(target)] == keys, pattern


def test_a_damaged_tar_is_named_and_nothing_is_left(call: Call, tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards", 2, 5)
    path = folder / "train-001.tar"
    path.write_bytes(path.read_bytes()[:9000])
    words = call("convert", folder, tmp_path / "out", "--num-workers", 1, fails=1)
    assert f"{path}: damaged or cut off: " in words
    assert words.count("\n") == 1
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_a_failed_conversion_goes_on_behind_its_checkpoint(call: Call, tmp_path: Path) -> None:
    folder, out = shards(tmp_path / "shards", 3, 6), tmp_path / "out"
    convert = ("convert", folder, out, "--num-workers", 1, "--chunk-size", 2, "--use-checkpoint")
    path = folder / "train-001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    call(*convert, fails=1)
    kept = {file: file.stat().st_mtime_ns for file in out.glob("chunk-*.bin")}
    assert len(kept) >= 3
    path.write_bytes(whole)
    assert call(*convert)["samples"] == 18
    for number, sample in enumerate(StreamingDataset(out)):
        check_sample(sample, number)
    assert all(file.stat().st_mtime_ns == time for file, time in kept.items())


def test_what_webdataset_itself_reads(call: Call, tmp_path: Path) -> None:
    """The same samples as WebDataset's own reader gives, undecoded, where it is installed."""
    found = _peer("webdataset")
    source = shards(tmp_path / "shards", 2, 8)
    write_tar(source / "zz.tar", [("__meta__", b""), ("README", b""), *sample_files(16)])
    script = (
        "import json, sys, webdataset as w\n"
        "for s in w.WebDataset(sys.argv[1:], shardshuffle=False, empty_check=False):\n"
        "    print(json.dumps({k: v if isinstance(v, str) else v.hex() for k, v in s.items()\n"
        "                      if k not in ('__url__', '__local_path__')}))\n"
    )
    paths = [str(path) for path in sorted(source.iterdir())]
    lines = subprocess.run(
        [found, "-c", script, *paths], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    call("convert", source, tmp_path / "out", "--undecoded", "--num-workers", 1)
    ours = [
        {key: value if isinstance(value, str) else value.hex() for key, value in sample.items()}
        for sample in StreamingDataset(tmp_path / "out")
    ]
    assert ours == [json.loads(line) for line in lines]


def _peer(name: str) -> str:
    command = ["bash", str(ROOT / "scripts" / "peers.sh"), "--path", name]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"{name} is not built here: scripts/peers.sh {name}")
    return found.stdout.strip()


# ---- MosaicML ------------------------------------------------------------------------------------

MDS_WRITER = """
import json, sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from mosaicml_streaming import MDSWriter
from PIL import Image
columns = {
    "n": "int", "small": "int32", "half": "float32", "big": "uint64", "text": "str",
    "raw": "bytes", "array": "ndarray:int16", "fixed": "ndarray:float32:2,3", "data": "json",
    "photo": "jpeg", "drawing": "png", "pixels": "pil", "object": "pkl",
}
for compression in (None, "zstd"):
    out = f"{sys.argv[2]}/{compression}"
    with MDSWriter(out=out, columns=columns, size_limit=3000, compression=compression) as w:
        for n in range(25):
            image = Image.fromarray(np.full((4, 5, 3), n, np.uint8))
            w.write({
                "n": n, "small": np.int32(n - 10), "half": np.float32(n / 3),
                "big": np.uint64(2**64 - 1 - n), "text": f"text {n}", "raw": b"b" * n,
                "array": np.arange(n % 4 + 1, dtype=np.int16),
                "fixed": np.full((2, 3), n, np.float32), "data": {"n": [n] * (n % 3)},
                "photo": image, "drawing": image, "pixels": image, "object": {"set": {n}},
            })
"""


@pytest.mark.timeout(300)  # MosaicML's library, torch and two workers are loaded
@pytest.mark.filterwarnings("ignore:stored by pickle")
def test_mds(call: Call, tmp_path: Path) -> None:
    """What MosaicML's own writer wrote reads alike before and after."""
    contenders = ROOT / "benchmarks" / "contenders"
    command = [_peer("mosaicml-streaming"), "-c", MDS_WRITER, contenders, tmp_path]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    source, target = tmp_path / "None", tmp_path / "out"
    found = call("convert", source, target, "--num-workers", 1, "--chunk-size", 10)
    assert (found["kind"], found["samples"]) == ("mds", 25)
    assert found["inputs"] > 3
    check_mds(source, target)
    kept = tmp_path / "kept"
    columns = ("--columns", "photo,n", "--undecoded")
    call("convert", tmp_path / "zstd", kept, *columns, "--num-workers", 1)
    samples = list(StreamingDataset(kept))
    assert [sample["n"] for sample in samples] == list(range(25))
    for sample, old in zip(samples, StreamingDataset(source), strict=True):
        assert list(sample) == ["photo", "n"]
        assert decode_image(memoryview(sample["photo"])).equal(old["photo"])


def check_mds(source: Path, target: Path) -> None:
    before, after = StreamingDataset(source), StreamingDataset(target)
    for number in range(25):
        old, new = before[number], after[number]
        assert list(old) == list(new)
        assert (new["n"], new["text"], new["raw"]) == (number, f"text {number}", b"b" * number)
        assert (new["data"], new["object"]) == (old["data"], old["object"])
        for name in ("small", "half", "big", "array", "fixed"):
            assert new[name].dtype == old[name].dtype, name
            np.testing.assert_array_equal(new[name], old[name])
        for name in ("photo", "drawing"):
            assert new[name].equal(old[name])
        assert new["pixels"].tobytes() == old["pixels"].tobytes()


# ---- Parquet and the Hub -------------------------------------------------------------------------


def table(first: int, count: int) -> pa.Table:
    numbers = range(first, first + count)
    return pa.table(
        {
            "id": pa.array(numbers, pa.int32()),
            "score": pa.array([n / 3 for n in numbers], pa.float64()),
            "text": [f"row {n}" for n in numbers],
            "blob": [bytes([n % 256]) * 5 for n in numbers],
            "tokens": pa.array([list(range(n % 5 + 1)) for n in numbers], pa.list_(pa.int16())),
            "maybe": [None if n % 2 else n for n in numbers],
            "deep": [{"a": n, "b": [{"c": "x"}] * (n % 2)} for n in numbers],
            "day": pa.array([n * 86_400_000 for n in numbers], pa.timestamp("ms")),
        }
    )


def test_parquet(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    for number in range(3):
        pq.write_table(table(40 * number, 40), folder / f"{number}.parquet", row_group_size=15)
    target = tmp_path / "out"
    found = call("convert", folder, target, "--num-workers", 2, "--compression", "zstd")
    assert (found["kind"], found["samples"], found["inputs"]) == ("parquet", 120, 9)
    assert not (folder / "index.json").exists()
    rows = [row for n in range(3) for row in table(40 * n, 40).to_pylist()]
    for row, sample in zip(rows, StreamingDataset(target), strict=True):
        tokens = sample.pop("tokens")
        assert tokens.dtype == np.int16
        assert tokens.tolist() == row.pop("tokens")
        assert sample.pop("day") == str(row.pop("day"))
        assert sample == row
    one = tmp_path / "one"
    call("convert", folder / "1.parquet", one, "--columns", "text,id", "--num-workers", 1)
    assert StreamingDataset(one)[:2] == [
        {"text": "row 40", "id": 40},
        {"text": "row 41", "id": 41},
    ]


def test_images_as_the_hub_stores_them(call: Call, tmp_path: Path) -> None:
    files = [image_file(n, "PNG" if n % 2 else "JPEG") for n in range(10)]
    features = {"image": {"_type": "Image"}, "sound": {"_type": "Audio"}}
    rows = pa.table(
        {
            "image": [{"bytes": data, "path": None} for data in files],
            "sound": [{"bytes": b"RIFF", "path": "a.wav"}] * 10,
            "label": list(range(10)),
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    folder = tmp_path / "hub"
    folder.mkdir()
    pq.write_table(rows, folder / "train.parquet")
    call("convert", folder, tmp_path / "out", "--num-workers", 1)
    for number, sample in enumerate(StreamingDataset(tmp_path / "out")):
        assert sample["image"].equal(decode_image(memoryview(files[number])))
        assert (sample["sound"], sample["label"]) == (b"RIFF", number)


@pytest.mark.keeps_open("sockets", "threads", reason="the portal's connections")
def test_from_the_hub(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "owner" / "name" / "data"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        pq.write_table(table(0, 30), folder / f"{split}-00000-of-00001.parquet")
    bare = tmp_path / "hub" / "owner" / "bare"
    bare.mkdir()
    (bare / "README.md").write_text("# name")
    command = [sys.executable, str(ROOT / "examples" / "local_hub.py"), str(tmp_path / "hub")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as hub:
        assert hub.stdout is not None
        endpoint = hub.stdout.readline().strip()
        given = ["--storage-option", f"endpoint={endpoint}", "--num-workers", 1]
        url = "hf://datasets/owner/name/data/train-*.parquet"
        found = call("convert", url, tmp_path / "out", *given, "--columns", "id,tokens")
        assert (found["kind"], found["samples"]) == ("parquet", 30)
        samples = list(StreamingDataset(tmp_path / "out"))
        assert [sample["id"] for sample in samples] == list(range(30))
        missing = call("convert", "hf://datasets/owner/bare", tmp_path / "o2", *given, fails=2)
        assert "@refs/convert/parquet" in missing
        assert hub.stdin is not None
        hub.stdin.close()


# ---- images --------------------------------------------------------------------------------------


def test_image_folders(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    files = {}
    for number in range(12):
        kind = "PNG" if number % 4 == 0 else "JPEG"
        name = f"{('dog', 'cat', 'äffin')[number % 3]}/sub/{number:02d}.{kind.lower()}"
        files[name] = image_file(number, kind)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(files[name])
    (folder / "dog" / "notes.txt").write_text("no image")
    (folder / ".hidden.jpg").write_bytes(b"no image")
    found = call("convert", folder, tmp_path / "out", "--num-workers", 2)
    assert (found["kind"], found["samples"]) == ("images", 12)
    classes = ["cat", "dog", "äffin"]
    samples = list(StreamingDataset(tmp_path / "out"))
    assert [sample["path"] for sample in samples] == sorted(files)
    for sample in samples:
        assert sample["class"] == sample["path"].split("/")[0] == classes[sample["label"]]
        assert sample["image"].equal(decode_image(memoryview(files[sample["path"]])))
    flat = folder / "cat" / "sub"
    call("convert", flat, tmp_path / "flat", "--undecoded", "--num-workers", 1)
    assert [list(sample) for sample in StreamingDataset(tmp_path / "flat")] == [
        ["image", "path"]
    ] * 4
    assert StreamingDataset(tmp_path / "flat")[0]["image"] == files["cat/sub/01.jpeg"]


# ---- what it says --------------------------------------------------------------------------------


def test_what_cannot_be_converted(call: Call, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mixed = tmp_path / "mixed"
    write_tar(mixed / "a.tar", [("1.txt", b"x")])
    (mixed / "b.jpg").write_bytes(image_file(0, "JPEG"))
    assert "say which are meant with --from" in call("convert", mixed, out, fails=2)
    assert call("convert", mixed, out, "--from", "images", "--num-workers", 1)["samples"] == 1
    again = call("convert", mixed, out, "--from", "images", "--num-workers", 1, fails=2)
    assert "--mode" in again
    assert "is a data set already" in call("convert", out, tmp_path / "o2", fails=2)
    assert "onto itself" in call("convert", out, out, fails=2)
    assert "there is no folder" in call("convert", tmp_path / "nowhere", out, fails=2)
    (tmp_path / "empty").mkdir()
    assert "there are no files" in call("convert", tmp_path / "empty", out, fails=2)
    (tmp_path / "empty" / "a.bin").write_bytes(b"x")
    assert "such as a.bin" in call("convert", tmp_path / "empty", out, fails=2)
    assert "no MDS shards" in call("convert", mixed, out, "--from", "mds", fails=2)
    (tmp_path / "x.bin").write_bytes(b"x")
    assert "is a file of no kind" in call("convert", tmp_path / "x.bin", out, fails=2)
    missing = call("convert", tmp_path / "no.tar", out, "--mode", "overwrite", fails=1)
    assert "no.tar" in missing
    assert "no column 'x'" in call(
        "convert", mixed, out, "--from", "images", "--columns", "x", fails=2
    )


# ---- on S3 ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if missing := missing_programs():
        pytest.skip("; ".join(missing))
    root = tmp_path_factory.mktemp("buckets")
    shards(root / "bucket" / "shards", 3, 10)
    for number in range(6):
        path = root / "bucket" / "photos" / f"class-{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_file(number, "JPEG"))
    (root / "bucket" / "tables").mkdir()
    pq.write_table(table(0, 30), root / "bucket" / "tables" / "0.parquet")
    with S3Server(root) as running:
        yield running


@pytest.mark.keeps_open("sockets", "threads", reason="the portal's connections")
def test_on_s3(call: Call, server: S3Server, tmp_path: Path) -> None:
    given = server.storage_options.items()
    access = [word for key, value in given for word in ("--storage-option", f"{key}={value}")]
    options = ["--num-workers", 2, *access]
    call("convert", "s3://bucket/shards", "s3://bucket/out", "--chunk-size", 8, *options)
    dataset = StreamingDataset("s3://bucket/out", storage_options=server.storage_options)
    for number, sample in enumerate(dataset[:]):
        check_sample(sample, number)
    assert len(dataset) == 30
    call("convert", "s3://bucket/photos", tmp_path / "photos", *options)
    labels = [sample["label"] for sample in StreamingDataset(tmp_path / "photos")]
    assert labels == [0, 0, 0, 1, 1, 1]
    call("convert", "s3://bucket/tables", tmp_path / "tables", *options)
    ids = [sample["id"] for sample in StreamingDataset(tmp_path / "tables")]
    assert ids == list(range(30))
    # A web server cannot be listed, and need not be.
    web = f"{server.endpoint}/bucket/shards/train-{{000..002}}.tar"
    call("convert", web, tmp_path / "web", "--columns", "cls", "--num-workers", 2)
    keys = [sample["__key__"] for sample in StreamingDataset(tmp_path / "web")]
    assert keys == [f"set/{number:05d}" for number in range(30)]


def test_the_workers_run_by_python_m(tmp_path: Path) -> None:
    source = shards(tmp_path / "shards", 1, 4)
    command = [sys.executable, "-m", "aiolit", "convert", str(source), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 samples of 1 inputs" in done.stdout


def test_images_that_are_none(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name, data in {
        "cat/0.jpg": image_file(0, "JPEG"),
        "cat/1.jpg": b"broken",
        "dog/2.png": image_file(2, "PNG"),
        "dog/3.png": image_file(3, "PNG")[:-40],
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    out = tmp_path / "out"
    failed = call("convert", folder, out, "--num-workers", 1, fails=1)
    assert "cat/1.jpg is no image, although its name says so: it begins with b'broken'" in failed
    assert not out.exists()
    found = call("convert", folder, out, "--num-workers", 1, "--on-error", "skip")
    assert [one["input"] for one in found["skipped"]] == ["'cat/1.jpg'"]
    assert found["samples"] == 3
    (folder / "cat/1.jpg").unlink()
    checked = ("convert", folder, tmp_path / "checked", "--num-workers", 1, "--check-images")
    assert "dog/3.png cannot be decoded: " in call(*checked, fails=1)
    (folder / "dog/3.png").unlink()
    assert call(*checked)["samples"] == 2
