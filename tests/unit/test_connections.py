"""Paths below /teamspace: from a setting, a file, Lightning's API, or as they are."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

from aiolit.errors import ConfigError
from aiolit.processing.functions import optimize
from aiolit.raw.dataset import StreamingRawDataset
from aiolit.store.connect import open_store
from aiolit.store.connections import SETTING, bucket_url, expand
from aiolit.streaming.dataset import StreamingDataset
from aiolit.streaming.resolver import Location, resolve


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str) -> Any: ...


@pytest.fixture(autouse=True)
def no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Keep the user's own file out; give where it would be."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path / "aiolit" / "connections"


@pytest.mark.parametrize(
    "said",
    [
        "data=s3://bucket/a other=gs://else",
        "data=s3://bucket/a, other=gs://else",
        "other=gs://else,data=s3://bucket/a/",
        '{"data": "s3://bucket/a", "other": "gs://else"}',
        "/teamspace/s3_connections/data=s3://bucket/a",
        "/teamspace/s3_connections/data/=s3://bucket/a",
        '{"/teamspace/s3_connections": "s3://none", "/teamspace/s3_connections/data/train": '
        '"s3://bucket/a/train", "/teamspace/s3_connections/data": "s3://bucket/a"}',
    ],
)
def test_what_the_setting_says(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, said)
    base = "/teamspace/s3_connections/data"
    assert bucket_url(base) == "s3://bucket/a"
    assert bucket_url(f"{base}/") == "s3://bucket/a"
    assert bucket_url(f"{base}/train/x") == "s3://bucket/a/train/x"


def test_any_path_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "/teamspace/studios/mine=s3://b/studio set=gs://datasets/set")
    assert bucket_url("/teamspace/studios/mine/out") == "s3://b/studio/out"
    assert bucket_url("/teamspace/datasets/set/train") == "gs://datasets/set/train"


@pytest.mark.parametrize("place", ["/data/teamspace/x", "/teamspaces/x", "s3://b/teamspace", "x"])
def test_other_places_stay(place: str) -> None:
    assert bucket_url(place) == place


def test_a_file_of_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_file: Path) -> None:
    place = "/teamspace/gcs_folders/data/x"
    own = tmp_path / "mine.txt"
    own.write_text("# ours\ndata = gs://no\n".replace(" = ", "=") + "more=s3://b\n")
    monkeypatch.setenv(SETTING, str(own))
    assert bucket_url(place) == "gs://no/x"
    monkeypatch.delenv(SETTING)
    no_file.parent.mkdir()
    no_file.write_text(json.dumps({"data": "gs://yes"}))
    assert bucket_url(place) == "gs://yes/x"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("{", f"{SETTING} is not proper JSON"),
        ('{"a": 3}', "'a' must be mapped to a URL"),
        ("a=b,=c", "'=c' is no name=url"),
        ("/no/such/file", f"{SETTING} names the file /no/such/file, which cannot be read"),
    ],
)
def test_what_the_setting_cannot_say(
    said: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SETTING, said)
    with pytest.raises(ConfigError, match=message):
        bucket_url("/teamspace/s3_connections/a")


def test_an_unknown_path_names_the_setting(tmp_path: Path) -> None:
    place = "/teamspace/s3_connections/imagenet/train"
    message = rf"^{place} is not on this machine.*'imagenet'.*{SETTING}='imagenet=s3://"
    for use in (
        lambda: resolve(place),
        lambda: open_store(place),
        lambda: StreamingDataset(place),
        lambda: StreamingRawDataset(place),
        lambda: optimize(str, [1], place, chunk_size=1, num_workers=1),
    ):
        with pytest.raises(ConfigError, match=message):
            use()
    with pytest.raises(ConfigError, match=SETTING):
        resolve("/teamspace/studios/other")


def test_a_bucket_is_no_trusted_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "data=s3://bucket/a")
    assert resolve("/teamspace/lightning_storage/data/x") == Location(
        "s3://bucket/a/x", False, None, None, False
    )
    assert open_store("/teamspace/lightning_storage/data/x").url == "s3://bucket/a/x"


def test_written_and_read_through_a_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A connection can be a folder too, such as a network drive."""
    monkeypatch.setenv(SETTING, f"data={tmp_path}/drive")
    place = "/teamspace/s3_connections/data/{%Y-%m}"
    optimize(str, range(10), place, chunk_size=4, num_workers=1, verbose=False)
    month = datetime.now().strftime("%Y-%m")
    assert (tmp_path / "drive" / month / "index.json").exists()
    assert list(StreamingDataset(place)) == [str(n) for n in range(10)]
    assert expand(place) == f"{tmp_path}/drive/{month}"
    raw = StreamingRawDataset(place, cache_dir=tmp_path / "cache")
    assert [Path(file.path).name for file in raw.files][-1] == "index.json"


# What the library of Lightning's has, as far as we use it.
LIGHTNING = {
    "__init__.py": "",
    "lightning_cloud/__init__.py": "",
    "lightning_cloud/openapi/__init__.py": "",
    "lightning_cloud/openapi/rest.py": "class ApiException(Exception): pass\n",
    "lightning_cloud/rest_client.py": """
from types import SimpleNamespace as Part
from lightning_sdk.lightning_cloud.openapi.rest import ApiException

class LightningClient:
    def __init__(self, retry=True):
        assert retry is False

    def data_connection_service_list_data_connections(self, project_id):
        print("asked for", project_id)
        if project_id == "down":
            raise ApiException("(503)")
        empty = dict.fromkeys(("aws", "gcp", "s3_folder", "gcs_folder", "r2"))
        of = lambda name, **part: Part(name=name, **{**empty, **part})
        return Part(data_connections=[
            of("data", gcp=Part(source="gs://google/data")),
            of("data", aws=Part(source="s3://amazon/data/")),
            of("disk"),
        ])
""",
}


def test_lightning_is_asked_once(
    run_python: RunPython, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, text in LIGHTNING.items():
        path = tmp_path / "lightning_sdk" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("LIGHTNING_CLOUD_PROJECT_ID", "p1")
    done = run_python(
        """
        import os
        from aiolit.errors import ConfigError
        from aiolit.store.connections import bucket_url
        print(bucket_url("/teamspace/s3_connections/data/x"))
        print(bucket_url("/teamspace/gcs_connections/data"))
        os.environ["AIOLIT_CONNECTIONS"] = "data=s3://ours"
        print(bucket_url("/teamspace/gcs_connections/data"))
        for name in ("disk", "none"):
            try: bucket_url(f"/teamspace/s3_connections/{name}")
            except ConfigError as error: print("no", name)
        os.environ["LIGHTNING_CLOUD_PROJECT_ID"] = "down"
        try: bucket_url("/teamspace/s3_connections/else")
        except ConfigError as error: print(error)
        """
    )
    lines = done.stdout.splitlines()
    assert lines[:7] == [
        "asked for p1",
        "s3://amazon/data/x",
        "gs://google/data",
        "s3://ours",
        "no disk",
        "no none",
        "asked for down",
    ], done.stderr
    assert "AIOLIT_CONNECTIONS" in lines[7]
