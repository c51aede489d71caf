"""Real servers for the stores' contracts: each in its own process, on a free port."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

# moto answers with two Server headers, its own and werkzeug's, which aiohttp refuses.
MOTO = """
import sys, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

class Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def send_header(self, keyword, value):
        if keyword == "Server" and any(line[:7] == b"Server:" for line in self._headers_buffer):
            return
        super().send_header(keyword, value)

    def log(self, *args):
        pass

application = DomainDispatcherApplication(create_backend_app)
server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"http://127.0.0.1:{server.server_port}", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(program: str) -> Iterator[str]:
    """Run a Python program that prints its address and ends when its input does."""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "the server did not start"
            yield address
        finally:
            process.stdin.close()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """The address of an S3 server that keeps its objects in memory."""
    with running(MOTO) as address:
        yield address
