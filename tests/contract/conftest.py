"""Real servers for the stores' contracts: each in its own process, on a free port."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiolit.testing.servers import running

AZURITE_VERSION = "3.35.0"
ADDRESS = re.compile(r"listens on (http://\S+)")

# The emulator knows generations but does not say them with the bytes, nor heed conditions on
# them; both are added here as the JSON API documents them. It also stumbles over empty objects.
GCS = """
import json, sys, threading
from http import HTTPStatus
from gcp_storage_emulator import server as emulator
from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

def generation(request, storage, key):
    try:
        return storage.get_file_obj(request.params["bucket_name"], key)["generation"]
    except NotFound:
        return "0"

def refused(request, response, storage, key):
    wanted = request.query.get("ifGenerationMatch")
    if wanted and wanted[0] != generation(request, storage, key):
        response.status = HTTPStatus.PRECONDITION_FAILED
        response.json({"error": {"message": "conditionNotMet"}})
        return True

def download(request, response, storage, *args, **kwargs):
    key = request.params["object_id"]
    if refused(request, response, storage, key):
        return
    response["x-goog-generation"] = generation(request, storage, key)
    objects.download(request, response, storage, *args, **kwargs)

def get(request, response, storage, *args, **kwargs):
    media = request.query.get("alt") == ["media"]
    (download if media else objects.get)(request, response, storage, *args, **kwargs)

def insert(request, response, storage, *args, **kwargs):
    if request.query["uploadType"] == ["media"] and request.data is None:
        request._data = b""
    if not refused(request, response, storage, request.query["name"][0]):
        objects.insert(request, response, storage, *args, **kwargs)

for _, verbs in emulator.HANDLERS:
    for verb, handler in list(verbs.items()):
        new = {objects.get: get, objects.download: download, objects.insert: insert}.get(handler)
        verbs[verb] = new or handler
server = emulator.create_server("127.0.0.1", 0, in_memory=True)
server.start()
print("http://127.0.0.1:%d" % server._api._httpd.server_port, flush=True)
sys.stdin.read()
server.stop()
"""


@pytest.fixture(scope="session")
def gcs_url() -> Iterator[str]:
    """The address of an emulator of Google Cloud Storage, in memory."""
    with running("-c", GCS) as address:
        yield address


@pytest.fixture(scope="session")
def azurite_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Azurite, Microsoft's emulator of Blob Storage, which runs on node.

    It is looked for in ``AZURITE``, on the path, and in the folder where it was installed last;
    else npm installs it there, once.
    """
    if shutil.which("node") is None:
        pytest.skip("Azurite needs node, which is not installed")
    command = [
        *_azurite(),
        "--blobHost",
        "127.0.0.1",
        "--blobPort",
        "0",
        "--inMemoryPersistence",
        "--skipApiVersionCheck",
        "--disableTelemetry",
    ]
    with subprocess.Popen(
        command,
        cwd=tmp_path_factory.mktemp("azurite"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            address = next(
                (found[1] for line in process.stdout if (found := ADDRESS.search(line))), ""
            )
            assert address, "Azurite did not start"
            yield address
        finally:
            process.terminate()
            process.wait(10)


def _azurite() -> list[str]:
    found = os.environ.get("AZURITE") or shutil.which("azurite-blob")
    if found:
        return [found]
    folder = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "aiolit-tests"
    program = folder / "node_modules/.bin/azurite-blob"
    if not program.exists():
        if shutil.which("npm") is None:
            pytest.skip("Azurite needs npm to be installed, or AZURITE to say where it is")
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["npm", "install", "--no-fund", "--no-audit", f"azurite@{AZURITE_VERSION}"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"npm could not install Azurite: {done.stderr[-300:]}")
    return [str(program)]
