"""From a URL to a store, and what is said when that cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aiolit.errors import ConfigError
from aiolit.store.connect import is_remote, join, open_store
from aiolit.store.retry import RetryPolicy, RetryStore

REMOTE = {
    "s3://bucket/x": "aiobotocore",
    "gs://bucket/x": "gcloud",
    "azure://container/x": "azure",
    "http://host/x": "aiohttp",
    "https://host/x": "aiohttp",
    "hf://datasets/owner/name": "huggingface_hub",
}


def test_what_is_remote() -> None:
    assert all(is_remote(url) for url in REMOTE)
    for url in ("/a/b", "a/b", "local:a", "file:///a", "memory://x", Path("a"), "C://x"[1:]):
        assert not is_remote(url)


@pytest.mark.parametrize("url", REMOTE)
def test_remote_stores_try_again_and_do_no_io(url: str) -> None:
    policy = RetryPolicy(give_up_after_s=5)
    store = open_store(url, retry=policy)
    assert isinstance(store, RetryStore)
    assert store.policy is policy
    assert store.url == url
    assert store.object_url("a/b") == f"{url}/a/b"


@pytest.mark.parametrize(("url", "library"), REMOTE.items())
def test_a_missing_library_is_named_with_its_cure(url: str, library: str) -> None:
    extra = {"https": "http", "gs": "gcs"}.get(url.partition(":")[0], url.partition(":")[0])
    program = (
        "import sys\n"
        f"sys.modules[{library!r}] = None\n"
        "from aiolit.errors import MissingDependencyError\n"
        "from aiolit.store.connect import open_store\n"
        f"try: open_store({url!r})\n"
        "except MissingDependencyError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert f"pip install 'aiolit[{extra}]'" in done.stdout, done.stderr


def test_local_stores_load_no_library() -> None:
    program = (
        "import sys\n"
        "from aiolit.store.connect import open_store\n"
        "open_store('/tmp')\n"
        "print(sorted({'aiohttp', 'botocore', 'torch', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "[]\n", done.stderr


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"ftp://.*s3://"):
        open_store("ftp://host/x")


def test_joining() -> None:
    assert join("s3://bucket/a", "b") == "s3://bucket/a/b"
    assert join("s3://bucket/a/", "b/c") == "s3://bucket/a/b/c"
    assert join(Path("/a"), "b") == "/a/b"
    assert join("https://host/a?sig=1", "b") == "https://host/a/b?sig=1"
