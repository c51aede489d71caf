"""An S3 server on loopback for the examples: moto's, in a process of its own.

``with local_s3("my-bucket") as storage_options:`` gives the options to pass to aiolit. The server
takes a free port, keeps everything in memory and ends with the block. Should the example be
killed, the server sees its standard input close and ends too.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
from moto.server import ThreadedMotoServer


@contextmanager
def local_s3(bucket: str) -> Iterator[dict[str, str]]:
    """Run an S3 server with one empty bucket; give the ``storage_options`` to reach it."""
    server = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with server:  # leaving closes the pipes, which ends the server, and waits for it
        assert server.stdout is not None
        storage_options = {
            "endpoint_url": server.stdout.readline().strip(),
            "aws_access_key_id": "testing",
            "aws_secret_access_key": "testing",
        }
        boto3.client("s3", region_name="us-east-1", **storage_options).create_bucket(Bucket=bucket)
        yield storage_options


def serve() -> None:
    """Serve on a free port, print the endpoint, end when standard input does."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    print(f"http://{host}:{port}", flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    serve()
