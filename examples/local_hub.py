"""A stand-in for the Hugging Face Hub on loopback, in a process of its own, for the examples.

``with local_hub(folder):`` serves ``folder/OWNER/NAME/...`` as ``hf://datasets/OWNER/NAME/...`` to
this process and the processes it starts, by setting ``HF_ENDPOINT``. It takes a free port and ends
with the block, or when the example is killed.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web


@contextmanager
def local_hub(folder: str | Path) -> Iterator[None]:
    """Serve a folder of repositories; the Hub's real address is back after the block."""
    command = [sys.executable, __file__, str(folder)]
    server = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    before = os.environ.get("HF_ENDPOINT")
    with server:  # leaving closes the pipes, which ends the server, and waits for it
        assert server.stdout is not None
        os.environ["HF_ENDPOINT"] = server.stdout.readline().strip()
        try:
            yield
        finally:
            del os.environ["HF_ENDPOINT"]
            if before is not None:
                os.environ["HF_ENDPOINT"] = before


async def send_file(request: web.Request) -> web.FileResponse:
    """Answer with a file of a repository."""
    path = place_of(request)
    if not path.is_file():
        raise web.HTTPNotFound
    return web.FileResponse(path, headers={"X-Repo-Commit": "0" * 40})


async def list_folder(request: web.Request) -> web.Response:
    """Answer with the names and sizes of all files below a folder of a repository."""
    folder, repository = place_of(request), repository_of(request)
    if not folder.is_dir():
        raise web.HTTPNotFound
    entries = [
        {
            "type": "file",
            "path": str(file.relative_to(repository)),
            "size": file.stat().st_size,
            "oid": str(file.stat().st_mtime_ns),
        }
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]
    return web.json_response(entries)


ROOT = web.AppKey("root", Path)


def repository_of(request: web.Request) -> Path:
    """Return the folder of the repository that is asked for."""
    return request.app[ROOT] / request.match_info["owner"] / request.match_info["name"]


def place_of(request: web.Request) -> Path:
    """Return the file or folder that is asked for."""
    return repository_of(request) / request.match_info.get("path", "")


async def serve(folder: Path) -> None:
    """Serve on a free port, print the address, end when standard input does."""
    app = web.Application()
    app[ROOT] = folder
    app.router.add_get("/datasets/{owner}/{name}/resolve/{revision}/{path:.+}", send_file)
    app.router.add_get("/api/datasets/{owner}/{name}/tree/{revision}", list_folder)
    app.router.add_get("/api/datasets/{owner}/{name}/tree/{revision}/{path:.+}", list_folder)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
