"""A stand-in for Google Cloud Storage, for reading: ``gcs.py FOLDER``.

``gs://bucket/key`` is ``FOLDER/bucket/key``. It prints its address and ends when its standard input
does.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

FOLDER = Path(sys.argv[1])


def found(path: Path) -> Path:
    """Return the path of a file, or answer that there is none."""
    if not path.is_file():
        raise web.HTTPNotFound
    return path


def files_below(folder: Path) -> list[str]:
    """List the names of all files below a folder."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def resource(bucket: Path, key: str) -> dict[str, Any]:
    """Describe an object as Google Cloud Storage does."""
    size = (bucket / key).stat().st_size
    return {"name": key, "size": str(size), "generation": "1", "updated": "2025-01-01T00:00:00Z"}


async def gcs_object(request: web.Request) -> web.StreamResponse:
    """Answer with an object's bytes, or with its description."""
    bucket, key = FOLDER / request.match_info["bucket"], request.match_info["key"]
    path = found(bucket / key)
    if request.query.get("alt") == "media":
        return web.FileResponse(path, headers={"x-goog-generation": "1"})
    return web.json_response(resource(bucket, key))


async def gcs_list(request: web.Request) -> web.Response:
    """List a bucket."""
    bucket, prefix = FOLDER / request.match_info["bucket"], request.query.get("prefix", "")
    keys = [key for key in files_below(bucket) if key.startswith(prefix)]
    return web.json_response({"items": [resource(bucket, key) for key in keys]})


async def serve() -> None:
    """Serve on a free port until standard input ends."""
    app = web.Application()
    app.router.add_get("/storage/v1/b/{bucket}/o", gcs_list)
    app.router.add_get("/storage/v1/b/{bucket}/o/{key:.+}", gcs_object)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
