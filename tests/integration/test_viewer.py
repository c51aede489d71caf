"""The viewer over HTTP: what it answers, what that costs the store, and whom it refuses."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from email.message import Message
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import aiohttp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hatchling.builders.wheel import WheelBuilder
from PIL import Image

from aiolit import StreamingDataLoader, StreamingDataset
from aiolit.cli import main
from aiolit.errors import ConfigError, DatasetNotFoundError
from aiolit.format.loader import TokensLoader
from aiolit.testing.datasets import write_dataset as write_to
from aiolit.viewer import watch
from aiolit.viewer.browse import BrowseOptions, open_browser
from aiolit.viewer.serving import served
from benchmarks.s3_server import S3Server, missing_programs

pytestmark = pytest.mark.keeps_open(
    *("sockets", "threads", "files", "environment"),
    reason="connections and threads of the process's portal; torch's handler of SIGCHLD",
)

ROOT = Path(__file__).parents[2]
COUNT = 400
WriteDataset = Any
View = Callable[..., str]


def jpeg(number: int) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=90)
    return file.getvalue()


def sample(number: int) -> dict[str, Any]:
    return {"photo": jpeg(number % 10), "text": f"number {number}", "label": number}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    if missing := missing_programs():
        pytest.skip("; ".join(missing))
    root = tmp_path_factory.mktemp("buckets")
    write_to(root / "bucket" / "photos", map(sample, range(COUNT)), chunk_size=100)
    for number in range(5):
        path = root / "bucket" / "files" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(jpeg(number))
    with S3Server(root) as running:
        yield running


@pytest.fixture
def view() -> Iterator[View]:
    """Give a function that serves a data set until the test has ended, and returns its address."""
    with ExitStack() as stack:

        def serve(url: object, **options: Any) -> str:
            browser = open_browser(str(url), BrowseOptions(**options))
            return stack.enter_context(served(browser, None))

        yield serve


class Client:
    """Asks a viewer as a browser does."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, url: str, **headers: str) -> tuple[int, Message, bytes]:
        """Return status, headers and body."""
        async with self._session.get(url, headers=headers) as response:
            found = Message()
            for name, value in response.headers.items():
                found[name] = value
            return response.status, found, await response.read()

    async def json(self, url: str, status: int = 200) -> Any:
        """Return the answer's value."""
        got, headers, body = await self.get(url)
        assert (got, headers.get_content_type()) == (status, "application/json"), body
        return json.loads(body)

    async def tree(self, url: str, number: int = 0) -> dict[str, Any]:
        """Return the top leaves of a sample by their names."""
        found = await self.json(f"{url}api/samples?first={number}&count=1")
        (one,) = found["samples"]
        return {child["name"]: child for child in one["tree"]["children"]}

    async def events(self, url: str) -> AsyncIterator[tuple[str, Any]]:
        """Yield the name and the value of server-sent events."""
        name = "message"
        async with self._session.get(url + "api/live") as response:
            assert response.content_type == "text/event-stream"
            async for line in response.content:
                field, _, text = line.decode().rstrip("\n").partition(": ")
                if field == "event":
                    name = text
                elif field == "data":
                    yield name, json.loads(text) if text else None


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    async with AsyncExitStack() as stack:
        yield Client(await stack.enter_async_context(aiohttp.ClientSession()))


# ---- what is shown -------------------------------------------------------------------------------


async def test_a_local_data_set(client: Client, view: View, write_dataset: WriteDataset) -> None:
    url = view(write_dataset(map(sample, range(30)), chunk_size=10))
    about = await client.json(url + "api/about")
    assert about["live"] is False
    assert (about["data"]["samples"], about["data"]["chunks"]) == (30, 3)
    leaves = (await client.json(url + "api/schema"))["leaves"]
    assert {leaf["path"]: leaf["format"] for leaf in leaves} == {
        "photo": "bytes",
        "text": "str",
        "label": "int",
    }
    chunks = await client.json(url + "api/chunks")
    assert chunks["samples"] == [10, 10, 10]
    assert len(chunks["names"]) == len(chunks["bytes"]) == 3
    page = await client.json(url + "api/samples?first=24&count=24")
    assert [one["number"] for one in page["samples"]] == list(range(24, 30))
    leaf = (await client.tree(url, 17))["photo"]
    status, headers, body = await client.get(f"{url}media/17/{leaf['media']}")
    assert (status, headers["Content-Type"], body) == (200, "image/jpeg", jpeg(7))


async def test_the_page_and_its_files(
    client: Client, view: View, write_dataset: WriteDataset
) -> None:
    url = view(write_dataset([1], chunk_size=1))
    for name, kind in (
        ("", "text/html"),
        ("static/app.js", "text/javascript"),
        ("static/style.css", "text/css"),
        ("static/icon.svg", "image/svg+xml"),
    ):
        status, headers, body = await client.get(url + name)
        assert (status, headers.get_content_type()) == (200, kind)
        assert "'unsafe" not in headers["Content-Security-Policy"]
        # Nothing is loaded from elsewhere; the one address is the name of SVG's vocabulary.
        assert b"http" not in body.replace(b"http://www.w3.org/2000/svg", b"")


async def test_a_sample_costs_ranges_and_not_chunks(
    client: Client, view: View, server: S3Server
) -> None:
    url = view("s3://bucket/photos", storage_options=server.storage_options)
    one = len(jpeg(0))
    server.reset()
    leaf = (await client.tree(url, 250))["photo"]
    await client.get(f"{url}media/250/{leaf['media']}")
    spent = server.counters()
    assert spent.requests <= 2  # checksum record, block; the image is the same bytes
    assert spent.bytes_out < 20 * one
    server.reset()
    await client.json(url + "api/samples?first=100&count=24")
    await client.json(url + "api/samples?first=110&count=1")
    spent = server.counters()
    assert spent.requests <= 4
    assert spent.bytes_out < 60 * one


async def test_samples_of_a_cache_folder_cost_nothing_again(
    client: Client, view: View, server: S3Server, tmp_path: Path
) -> None:
    cached = StreamingDataset(
        "s3://bucket/photos", cache_dir=tmp_path, storage_options=server.storage_options
    )
    assert len(list(StreamingDataLoader(cached, batch_size=50, collate_fn=len))) == 8
    url = view("s3://bucket/photos", storage_options=server.storage_options, cache_dir=tmp_path)
    server.reset()
    assert (await client.tree(url, 399))["label"]["text"] == "399"
    assert server.counters().requests == 0


async def test_raw_files(client: Client, view: View, server: S3Server, tmp_path: Path) -> None:
    options = {"raw": True, "storage_options": server.storage_options, "cache_dir": tmp_path}
    url = view("s3://bucket/files", **options)
    about = await client.json(url + "api/about")
    assert (about["data"]["samples"], about["data"]["loader"]) == (5, "raw files")
    leaf = (await client.tree(url, 3))["3.jpg"]
    assert leaf["type"] == "JPEG image"
    assert (await client.get(f"{url}media/3/{leaf['media']}"))[2] == jpeg(3)
    assert (await client.json(url + "api/chunks"))["names"] == []


async def test_tokens(client: Client, view: View, write_dataset: WriteDataset) -> None:
    rows = [torch.arange(n, n + 100) for n in range(0, 1000, 100)]
    folder = write_dataset(rows, chunk_size=500, item_loader=TokensLoader())
    url = view(folder, block_size=20)
    assert (await client.json(url + "api/about"))["data"]["samples"] == 50
    found = await client.json(url + "api/samples?first=49&count=1")
    assert found["samples"][0]["tree"]["rows"][0][-1] == "999"
    assert (await client.json(view(folder) + "api/about"))["data"]["samples"] == 2


async def test_parquet(client: Client, view: View, tmp_path: Path) -> None:
    rows = [{"id": n, "image": {"bytes": jpeg(n), "path": f"{n}.jpg"}} for n in range(6)]
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows" / "a.parquet", row_group_size=2)
    url = view(tmp_path / "rows")
    leaves = (await client.json(url + "api/schema"))["leaves"]
    assert [leaf["path"] for leaf in leaves] == ["id", "image"]
    inner = {child["name"]: child for child in (await client.tree(url, 4))["image"]["children"]}
    assert (await client.get(f"{url}media/4/{inner['bytes']['media']}"))[2] == jpeg(4)


async def test_images_are_served_as_they_are_stored(
    client: Client, view: View, write_dataset: WriteDataset
) -> None:
    with Image.open(io.BytesIO(jpeg(1))) as photo:
        folder = write_dataset([{"photo": photo, "drawn": Image.new("L", (9, 9))}], chunk_size=1)
    url = view(folder)
    leaves = await client.tree(url)
    _, _, body = await client.get(f"{url}media/0/{leaves['photo']['media']}")
    assert body == jpeg(1)
    _, headers, _ = await client.get(f"{url}media/0/{leaves['drawn']['media']}")
    assert headers["Content-Type"] == "image/png"


async def test_mds(client: Client, view: View, tmp_path: Path) -> None:
    samples = [struct.pack("<2I", len(jpeg(n)), 2) + jpeg(n) + b"n%d" % n for n in range(3)]
    ends = np.cumsum([4 * 5, *map(len, samples)]).astype("<u4")
    shard = struct.pack("<I", 3) + ends.tobytes() + b"".join(samples)
    (tmp_path / "shard.00000.mds").write_bytes(shard)
    entry = {
        "column_names": ["image", "name"],
        "column_encodings": ["jpeg", "str"],
        "column_sizes": [None, None],
        "compression": None,
        "format": "mds",
        "raw_data": {"basename": "shard.00000.mds", "bytes": len(shard), "hashes": {}},
        "samples": 3,
        "version": 2,
        "zip_data": None,
    }
    (tmp_path / "index.json").write_text(json.dumps({"shards": [entry], "version": 2}))
    url = view(tmp_path)
    assert (await client.json(url + "api/about"))["data"]["loader"] == "MosaicML MDS"
    leaves = await client.tree(url, 2)
    assert leaves["name"]["text"] == "n2"
    assert (await client.get(f"{url}media/2/{leaves['image']['media']}"))[2] == jpeg(2)


# ---- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:leaf 'odd' is a:UserWarning")
async def test_a_pickle_is_not_loaded_and_hides_nothing(
    client: Client, view: View, write_dataset: WriteDataset
) -> None:
    folder = write_dataset([{"odd": {1, 2}, "text": "seen"}], chunk_size=1)
    leaves = await client.tree(view(folder))
    assert (leaves["odd"]["kind"], leaves["text"]["text"]) == ("unread", "seen")
    assert "--allow-pickle" in leaves["odd"]["reason"]
    leaves = await client.tree(view(folder, allow_pickle=True))
    assert leaves["odd"]["text"] == "{1, 2}"


async def test_one_damaged_sample_hides_no_other(
    client: Client, view: View, write_dataset: WriteDataset
) -> None:
    samples = [{"n": number, "x": bytes([number]) * 50_000} for number in range(4)]
    folder = write_dataset(samples, chunk_size=4)
    (chunk,) = folder.glob("chunk-*")
    data = bytearray(chunk.read_bytes())
    start, end = np.frombuffer(data, "<u4", 2, 4 + 4 * 2).tolist()
    data[(start + end) // 2] ^= 1
    chunk.write_bytes(data)
    url = view(folder)
    page = (await client.json(url + "api/samples?first=0&count=4"))["samples"]
    assert ["error" in one for one in page] == [False, False, True, False]
    assert "\n" not in page[2]["error"]
    assert chunk.name in page[2]["error"]
    assert (await client.json(url + "media/2/0", status=502))["error"] == page[2]["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("api/samples?first=30", 404),
        ("api/samples?first=-1", 404),
        ("api/samples?first=x", 404),
        ("api/live", 404),
        ("media/0/99", 404),
        ("media/30/0", 404),
        ("static/nothing.js", 404),
        ("static/..%2fviewer%2fpages.py", 404),
        ("nothing", 404),
    ],
)
async def test_what_is_not_there(
    client: Client, view: View, write_dataset: WriteDataset, path: str, status: int
) -> None:
    url = view(write_dataset(map(sample, range(30)), chunk_size=10))
    found = await client.json(url + path, status)
    assert found.keys() == {"error"}
    assert found["error"]


async def test_others_are_refused(client: Client, view: View, write_dataset: WriteDataset) -> None:
    url = view(write_dataset(map(sample, range(3)), chunk_size=3))
    origin = url.rsplit("/", 2)[0]
    assert (await client.get(origin + "/"))[0] == 404
    assert (await client.get(origin + "/api/about"))[0] == 404
    status, headers, body = await client.get(url + "api/about", Host="evil.example")
    assert (status, b"photos" in body) == (403, False)
    status, headers, _ = await client.get(url + "media/0/0", Origin="http://evil.example")
    assert status == 200
    assert headers["Access-Control-Allow-Origin"] is None
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert (await client.get(url + "api/about", Host="localhost"))[0] == 200


async def test_players_may_ask_for_ranges(
    client: Client, view: View, write_dataset: WriteDataset
) -> None:
    data = b"OggS" + bytes(range(100))
    url = view(write_dataset([data], chunk_size=1)) + "media/0/0"
    for wanted, part, said in (
        ("bytes=10-19", data[10:20], "bytes 10-19/104"),
        ("bytes=100-", data[100:], "bytes 100-103/104"),
        ("bytes=-4", data[-4:], "bytes 100-103/104"),
    ):
        status, headers, body = await client.get(url, Range=wanted)
        assert (status, body, headers["Content-Range"]) == (206, part, said)
    status, headers, _ = await client.get(url, Range="bytes=104-")
    assert (status, headers["Content-Range"]) == (416, "bytes */104")
    assert (await client.get(url, Range="nonsense"))[2] == data


def test_a_host_that_others_reach_is_warned_of(write_dataset: WriteDataset) -> None:
    browser = open_browser(str(write_dataset([1], chunk_size=1)), BrowseOptions())
    with (
        pytest.warns(UserWarning, match="everybody who can reach 0.0.0.0"),
        served(browser, None, host="0.0.0.0") as url,
    ):
        assert "0.0.0.0" not in url


def test_a_port_that_is_taken_is_one_sentence(write_dataset: WriteDataset) -> None:
    folder = str(write_dataset([1], chunk_size=1))
    with served(open_browser(folder, BrowseOptions()), None) as url:
        port = int(url.split(":")[2].split("/")[0])
        with (
            pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be listened on"),
            served(open_browser(folder, BrowseOptions()), None, port=port),
        ):
            pass


# ---- a running loader ----------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
async def test_gauges_of_a_running_loader(
    client: Client, server: S3Server, tmp_path: Path, num_workers: int
) -> None:
    dataset = StreamingDataset(
        "s3://bucket/photos", cache_dir=tmp_path, storage_options=server.storage_options
    )
    loader = StreamingDataLoader(
        dataset, batch_size=20, num_workers=num_workers, collate_fn=len, persistent_workers=False
    )
    with watch(loader) as url:
        assert (await client.json(url + "api/about"))["live"] is True
        assert (await client.tree(url, 5))["label"]["text"] == "5"
        events = client.events(url)
        name, first = await anext(events)
        assert (name, first["stats"]["samples"]) == ("message", 0)
        assert sum(loader) == COUNT
        # Those that were sent while the loader ran come first.
        second = await anext(each async for _, each in events if each["stats"]["samples"] == COUNT)
        assert second["stats"]["bytes_fetched"] > 0
        assert second["seconds"] > first["seconds"]
        assert second["cache"]["used"] > 0
        assert "-bound: " in second["stats"]["verdict"]
    assert [name async for name, _ in events][-1] == "end"


async def test_whatever_has_statistics_can_be_watched(client: Client) -> None:
    class Counting:
        def stats(self) -> dict[str, Any]:
            return {"samples": 7}

    with watch(Counting()) as url:
        assert (await client.json(url + "api/about")) == {"data": None, "live": True}
        assert "no data set" in (await client.json(url + "api/chunks", 404))["error"]
        events = client.events(url)
        assert (await anext(events))[1]["stats"] == {"samples": 7}
        await events.aclose()  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="a list cannot be watched"), watch([]):  # type: ignore[arg-type]
        pass


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_serves_until_ctrl_c(write_dataset: WriteDataset) -> None:
    folder = write_dataset(map(sample, range(30)), chunk_size=10)
    process = subprocess.Popen(
        [sys.executable, "-m", "aiolit", "view", str(folder), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    with process:
        assert process.stdout is not None
        try:
            said = json.loads(process.stdout.readline())
            assert said["samples"] == 30
            assert said["url"].startswith("http://127.0.0.1:")
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "aiolit: interrupted\n")


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["view", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "--raw" in said
    with pytest.raises(DatasetNotFoundError):
        open_browser(str(tmp_path), BrowseOptions(raw=True, cache_dir=tmp_path / "cache"))


def test_what_is_missing_is_named_with_its_pip_command(run_python: Any) -> None:
    done = run_python("import sys; sys.modules['aiohttp'] = None; import aiolit.viewer")
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.endswith("the viewer needs aiohttp: pip install 'aiolit[viewer]'")


def test_a_wheel_holds_the_page(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the build tool's own
        (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    static = ROOT / "aiolit" / "viewer" / "static"
    names = {f"aiolit/viewer/static/{path.name}" for path in static.iterdir()}
    assert len(names) >= 8
    assert names <= packed
