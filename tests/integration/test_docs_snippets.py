"""Every example of LitData's documentation, with the name changed, runs as it stands; so do ours.

`docs_examples/` holds the examples, one file each, as a user would save them. Each runs as a script
in a fresh interpreter and a folder of its own, against an S3 server on loopback where it says s3,
and prints at its end what it saw. Only what no machine but the reader's has was replaced: tokenizer
and torchvision (`docs_standins`) and names of folders.

Not here: the folders below ``/teamspace``, which are Lightning Studio's own, and Azure's example,
whose host name is Microsoft's (`tests/contract` reads from Azurite).

The Python blocks of README.md and docs/ run too, those of a page one after another in one folder
and one interpreter, each with names of its own, but for a block behind a comment
``<!-- not run: REASON -->``.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from PIL import Image

ROOT = Path(__file__).parents[2]
EXAMPLES = Path(__file__).parent / "docs_examples"
STANDINS = Path(__file__).parent / "docs_standins"
BUCKETS = ("my-bucket", "bucket", "tinyllama-template")
TIME_LIMIT_S = 90


@dataclass(frozen=True)
class Outcome:
    """How a script ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Place:
    """Where an example runs: a folder, servers, and data sets made on demand."""

    folder: Path
    s3: Any
    env: dict[str, str]
    made: Path
    gcs: Path
    hub: Path

    def run(self, script: Path, *args: str) -> Outcome:
        """Run a script to its end, which is also that of every process it started."""
        process = subprocess.Popen(
            [sys.executable, str(script), *args],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            # Returns when the last process that holds the pipes has ended, not only the script.
            stdout, stderr = process.communicate(timeout=TIME_LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            pytest.fail(f"{script.name} did not end in {TIME_LIMIT_S} s\n{stdout}\n{stderr}")
        return Outcome(process.returncode, stdout, stderr)

    def dataset(self, name: str) -> Path:
        """Make the data set `name`, once per test run, and return its folder."""
        folder = self.made / name
        if not folder.exists():
            outcome = self.run(STANDINS / "make_data.py", name, str(folder))
            assert outcome.returncode == 0, outcome.stderr
        return folder

    def link(self, name: str, path: str) -> None:
        """Let the data set `name` appear at a path in the example's folder."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(self.dataset(name))

    def upload(self, name: str, bucket: str, prefix: str) -> None:
        """Put the data set `name` below ``s3://bucket/prefix``."""
        self.upload_folder(self.dataset(name), bucket, prefix)

    def upload_folder(self, folder: Path, bucket: str, prefix: str) -> None:
        """Put the files of a folder below ``s3://bucket/prefix``."""
        for file in sorted(folder.iterdir()):
            self.put(bucket, f"{prefix}/{file.name}", file.read_bytes())

    def copy(self, name: str, path: str) -> None:
        """Copy the data set `name` to a path on Google Cloud Storage's stand-in."""
        shutil.copytree(self.dataset(name), self.gcs / path, dirs_exist_ok=True)

    def put(self, bucket: str, key: str, body: bytes) -> None:
        """Put one object."""
        self.s3.put_object(Bucket=bucket, Key=key, Body=body)


def on_s3(name: str, prefix: str) -> Callable[[Place], None]:
    """Prepare the data set `name` as ``s3://my-bucket/prefix``."""
    return lambda place: place.upload(name, "my-bucket", prefix)


def locally(**paths: str) -> Callable[[Place], None]:
    """Prepare data sets at paths in the example's folder."""

    def prepare(place: Place) -> None:
        for path, name in paths.items():
            place.link(name, path)

    return prepare


def nothing(place: Place) -> None:
    """Prepare nothing, check nothing."""


@dataclass(frozen=True)
class Example:
    """A documented example: what must be there, and what it must print (a regular expression)."""

    name: str
    expected: str
    prepare: Callable[[Place], None] = nothing
    first: tuple[str, ...] = ()
    check: Callable[[Place], None] = nothing
    guards: tuple[bool, ...] = field(default=(True,))


def prepare_fast_data(place: Place) -> None:
    place.upload_folder(place.folder / "fast_data", "my-bucket", "fast_data")


def prepare_raw(place: Place) -> None:
    for i in range(5):
        place.put("my-bucket", f"raw-data/{i}.txt", b"file %d" % i)
    for i in range(40):
        place.put("bucket", f"files/{i}.txt", b"file %d" % i)
    for i in range(2):
        place.put("bucket", f"pairs/{i}.png", b"image %d" % i)
        place.put("bucket", f"pairs/{i}.mask", b"mask %d" % i)


def prepare_large_images(place: Place) -> None:
    folder = place.folder / "my_large_images"
    folder.mkdir()
    for i in range(3):
        pixels = np.full((480, 640, 3), i, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def check_resized_on_s3(place: Place) -> None:
    for i in range(3):
        body = place.s3.get_object(Bucket="my-bucket", Key=f"my_resized_images/{i}.png")["Body"]
        assert Image.open(io.BytesIO(body.read())).size == (224, 224)


def prepare_train_and_val(place: Place) -> None:
    for name in ("my-train-data", "my-val-data"):
        place.upload(name, "my-bucket", name)


def prepare_drive(place: Place) -> None:
    place.link("thirty", "data/shared-drive/some-data")


def prepare_profile(place: Place) -> None:
    place.upload("my-data", "my-bucket", "my-data")
    for entry in place.s3.list_objects_v2(Bucket="my-bucket")["Contents"]:
        place.s3.put_object_acl(Bucket="my-bucket", Key=entry["Key"], ACL="public-read")
    credentials = Path(place.env["HOME"]) / ".aws" / "credentials"
    credentials.parent.mkdir(parents=True, exist_ok=True)
    credentials.write_text(
        "[research]\naws_access_key_id = testing\naws_secret_access_key = testing\n"
    )


def prepare_slimpajama(place: Place) -> None:
    folder = place.folder / "slimpajama-raw" / "SlimPajama-627B" / "train"
    folder.mkdir(parents=True)
    for i in range(2):
        rows = [
            {"text": "x" * 2048, "meta": {"redpajama_set_name": source}}
            for source in ["RedPajamaC4", "RedPajamaGithub"] * 20
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{i}.jsonl.zst").write_bytes(zstandard.compress(text.encode()))


def prepare_mixture(place: Place) -> None:
    place.upload("tokens", "tinyllama-template", "slimpajama/train")
    place.upload("tokens", "tinyllama-template", "starcoder")


def prepare_starcoder(place: Place) -> None:
    folder = place.folder / "tinyllama-template" / "starcoderdata"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"content": ["x" * 15] * 100}), folder / "0.parquet")


def prepare_parquet(place: Place) -> None:
    table = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b", "c", "d", "e"], "label": range(5)}), table)
    place.put("my-bucket", "my-parquet-data/0.parquet", table.getvalue())


def prepare_hub(place: Place) -> None:
    table = pa.table({"text": ["a", "b", "c", "d", "e"], "label": range(5)})
    for repository in ("leonardPKU/clevr_cogen_a_train", "open-thoughts/OpenThoughts-114k"):
        folder = place.hub / repository / "data"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, folder / "train-00000-of-00001.parquet")


def prepare_my_images(place: Place) -> None:
    """Make a folder of images of two classes, and do what README.md says to do with it."""
    rng = np.random.default_rng(0)
    for brightness, name in ((80, "dark"), (200, "light")):
        folder = place.folder / "my-images" / name
        folder.mkdir(parents=True)
        for number in range(40):
            shape = (*rng.integers(30, 90, 2), 3)
            pixels = rng.integers(0, brightness, shape).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.jpg")
    assert "\naiolit convert my-images my-data " in (ROOT / "README.md").read_text()
    convert = place.folder / "convert.py"
    convert.write_text("import sys\nfrom aiolit.cli import main\nsys.exit(main())\n")
    outcome = place.run(convert, "convert", "my-images", "my-data")
    assert outcome.returncode == 0, outcome.stderr


def check_parquet_index(place: Place) -> None:
    place.s3.head_object(Bucket="my-bucket", Key="my-parquet-data/index.json")


def check_trace(place: Place) -> None:
    assert [file for file in place.folder.iterdir() if file.is_file()]


MY_DATA = on_s3("my-data", "my-data")
MY_IMAGES = on_s3("images", "my-images")
PAIR = locally(input_dir_1="one", input_dir_2="two")
BOTH = (True, False)

DOCUMENTED = (
    Example("quickstart_optimize", "1000", guards=BOTH),
    Example("quickstart_stream", "1000", prepare_fast_data, first=("quickstart_optimize",)),
    Example("raw_start", "5 b'file 0'", prepare_raw),
    Example("raw_usage", r"32 \{'bytes'\}\n8 \{'bytes'\}", prepare_raw),
    Example("raw_grouping", "2 2\nb'image 0' b'mask 0'", prepare_raw),
    Example("raw_recompute_index", "40", prepare_raw),
    Example("map_resize", r"\['0.png', '1.png', '2.png'\]\n\(224, 224\)", prepare_large_images),
    Example("map_resize_to_s3", "", prepare_large_images, check=check_resized_on_s3),
    Example("stream_cloud", "True True", MY_DATA),
    Example("storage_options", "100000 7", MY_DATA),
    Example("cache_dir", "100000 True", MY_DATA),
    Example("hf_stream", "Sample .*'a'.*", prepare_hub),
    Example("hf_index", "", prepare_hub),
    Example("hf_workflow", "", prepare_hub),
    Example(
        "train_and_val",
        r"\[64, 64, 64\]\n\[64, 64, 22\]",
        prepare_train_and_val,
    ),
    Example("cloud_s3", "1\n2\n3", prepare_profile),
    Example("cloud_gcs", "1", lambda place: place.copy("thirty", "my-bucket/my-data")),
    Example("pause_resume", f"resumed {100_000 - 1001 * 64}", MY_DATA, first=("pause_resume",)),
    Example("shared_queue", "True"),
    Example("queue_input", "True"),
    Example("llm_tokenize", "", prepare_slimpajama),
    Example(
        "llm_stream",
        r"(\(8, 2049\)\n)*\(8, 2049\)",
        prepare_slimpajama,
        first=("llm_tokenize",),
    ),
    Example("filter_data", re.escape(str(list(range(0, 1000, 2)))), guards=BOTH),
    Example("try_except", r"\[1.0, 0.5, 0.25\]"),
    Example("combine", r"\{\(2049,\)\}", prepare_mixture),
    Example("combine_batching", "100\nTrue", PAIR),
    Example("parallel", r"\{1000\}", PAIR),
    Example("parallel_transform", "52450\n50", PAIR),
    Example("cycle", "100\nTrue", locally(input_dir="thirty")),
    Example("merge", "1000"),
    Example("transform_argument", r"\{\(3, 256, 256\)\}", MY_IMAGES),
    Example("transform_override", r"\{\(3, 256, 256\)\} \(3, 256, 256\)", MY_IMAGES),
    Example("split", "100000\n30000\n20000\n50000", MY_DATA),
    Example("subset", "1000", MY_DATA),
    Example("upsample", "250000", MY_DATA),
    Example("append", "appended"),
    Example("parquet_index", "", prepare_parquet, check=check_parquet_index),
    Example("parquet_stream", "Sample .*'a'.*", prepare_parquet, first=("parquet_index",)),
    Example("compression", r"\(99, 9801\)"),
    Example("access_by_index", "100000\n42", MY_DATA),
    Example("getitem_override", r"\(4, 3, 224, 224\)\n\(4, 3, 224, 224\)", MY_IMAGES),
    Example("profile_batches", "True", MY_DATA),
    Example("reduce_memory", "100", prepare_starcoder),
    Example("cache_limit", "100000", MY_DATA),
    Example("cache_path", "30 True", on_s3("thirty", "my_optimized_dataset")),
    Example(
        "network_drive", "True", lambda place: place.link("thirty", "data/shared-drive/some-data")
    ),
    Example("distributed_optimize", "True"),
    Example("encryption", r"\[0, 1, 2, 3, 4\]"),
    Example("encryption_custom", r"\[\(0, 0\), \(1, 1\), \(2, 4\), \(3, 9\), \(4, 16\)\]"),
    Example("tracer", "", MY_DATA, check=check_trace),
)

# What must be there before a page's blocks run.
PREPARED = {"README.md": prepare_my_images, "parquet.md": prepare_hub}
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n+)?```python\n(?P<code>.*?)^```", re.M | re.S
)
# The traceback of one that fails names its file and shows the line.
RUN_BLOCKS = """
import runpy, sys

for block in sys.argv[1:]:
    runpy.run_path(block, run_name="__main__")
"""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

CASES = [
    pytest.param(example, guarded, id=example.name if guarded else f"{example.name}-unguarded")
    for example in DOCUMENTED
    for guarded in example.guards
]


@contextmanager
def serving(*command: str) -> Iterator[str]:
    """Run a server in a process of its own, which prints its address and ends with its input."""
    server = subprocess.Popen(
        [sys.executable, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of an S3 server."""
    with serving(str(ROOT / "examples" / "local_s3.py")) as address:
        yield address


@pytest.fixture(scope="module")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a stand-in for Google Cloud Storage, and the folder it serves."""
    folder = tmp_path_factory.mktemp("gcs")
    with serving(str(STANDINS / "gcs.py"), str(folder)) as address:
        yield address, folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a stand-in for the Hugging Face Hub, and the folder it serves."""
    folder = tmp_path_factory.mktemp("hub")
    with serving(str(ROOT / "examples" / "local_hub.py"), str(folder)) as address:
        yield address, folder


@pytest.fixture
def s3(endpoint: str) -> Iterator[Any]:
    """A client of the S3 server, which holds the documentation's buckets, empty."""
    reset = urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST")
    with urllib.request.urlopen(reset):
        pass
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    for bucket in BUCKETS:
        client.create_bucket(Bucket=bucket)
    yield client
    client.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the data sets that examples share."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def place(
    tmp_path: Path,
    made: Path,
    s3: Any,
    endpoint: str,
    gcs: tuple[str, Path],
    hub: tuple[str, Path],
) -> Place:
    """A folder, a home and an environment in which every cloud is on loopback."""
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    env = kept | {
        "HOME": str(home),
        # torch's threads would spin while other tests have the cores.
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(STANDINS),
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_PROFILE_NAME": "research",
        "AWS_REGION_NAME": "us-east-1",
        "PROJECT_ID": "project",
        "HF_ENDPOINT": hub[0],
        "STORAGE_EMULATOR_HOST": gcs[0],
        # Nobody listens there: what is not on loopback must not be looked for elsewhere.
        "https_proxy": "http://127.0.0.1:9",
    }
    return Place(folder, s3, env, made, gcs[1], hub[1])


def run_example(example: Example, place: Place, *, guarded: bool = True) -> None:
    """Run an example and what must run before it, and look at what it printed and left."""
    by_name = {other.name: other for other in DOCUMENTED}
    prepared = set()
    for name in example.first:
        prepare = by_name[name].prepare
        if prepare not in prepared:
            prepare(place)
            prepared.add(prepare)
        outcome = place.run(EXAMPLES / f"{name}.py")
        assert outcome.returncode == 0, outcome.stderr
    if example.prepare not in prepared:
        example.prepare(place)
    script = EXAMPLES / f"{example.name}.py"
    if not guarded:
        text = script.read_text()
        assert 'if __name__ == "__main__":' in text
        script = place.folder / script.name
        script.write_text(text.replace('if __name__ == "__main__":', "if True:"))
    outcome = place.run(script)
    assert outcome.returncode == 0, outcome.stderr
    assert re.fullmatch(example.expected, outcome.stdout.strip()), outcome.stdout
    example.check(place)


@pytest.mark.timeout(3 * TIME_LIMIT_S)
@pytest.mark.parametrize(("example", "guarded"), CASES)
def test_example_of_the_documentation_runs(example: Example, guarded: bool, place: Place) -> None:
    run_example(example, place, guarded=guarded)


def test_every_file_is_an_example() -> None:
    files = {file.stem for file in EXAMPLES.glob("*.py")}
    assert files == {example.name for example in DOCUMENTED}


@pytest.mark.timeout(5 * TIME_LIMIT_S)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_of_a_page_run(page: Path, place: Place) -> None:
    text = page.read_text()
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("```python")
    scripts = []
    for number, block in enumerate(blocks):
        if block["reason"] is None:
            scripts.append(place.folder / f"block_{number}.py")
            scripts[-1].write_text(block["code"])
    PREPARED.get(page.name, nothing)(place)
    runner = place.folder / "run_blocks.py"
    runner.write_text(RUN_BLOCKS)
    outcome = place.run(runner, *map(str, scripts))
    assert outcome.returncode == 0, outcome.stderr
