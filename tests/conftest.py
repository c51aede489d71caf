"""What every test gets: a clean environment, and a check that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, settings

from aiolit.runtime.portal import portal
from aiolit.testing import datasets
from aiolit.testing.servers import running

# Variables that would make a test depend on whose machine it runs on.
SCRUBBED = (
    "AIOLIT_",
    "AWS_",
    "AZURE_",
    "DATA_OPTIMIZER_",
    "GCLOUD_",
    "GOOGLE_",
    "HF_",
    "HUGGING_FACE_",
    "LITDATA_",
    "LIGHTNING_",
    "MASTER_",
    "SLURM_",
)
SCRUBBED_NAMES = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "NUM_NODES"}
SCRUBBED_NAMES |= {f"{name}_proxy" for name in ("http", "https", "all", "no")}
SCRUBBED_NAMES |= {f"{name}_PROXY" for name in ("HTTP", "HTTPS", "ALL", "NO")}
NOWHERE = "/nonexistent/by/tests/conftest.py"

# How long something may take to go away after a test: a server's thread closes its socket a moment
# after the client did.
PATIENCE_S = 3.0

settings.register_profile(
    "dev",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.register_profile("ci", settings.get_profile("dev"), max_examples=200)
settings.register_profile("nightly", settings.get_profile("dev"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "keeps_open(*what, reason): may leave 'sockets', 'files', 'threads', 'children', 'tasks' "
        "or 'environment' behind",
    )
    for name in list(os.environ):
        if name.startswith(SCRUBBED) or name in SCRUBBED_NAMES:
            del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = NOWHERE
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    # The process's portal may stay; opened here, whatever it owns is there before the first test.
    portal()
    config.pluginmanager.register(Admitting())
    # A shell that runs this in the background has it, and all it starts, ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Belongings:
    """What the process has at one moment; each kind maps a key to a description."""

    threads: dict[object, str] = field(default_factory=dict)
    children: dict[object, str] = field(default_factory=dict)
    sockets: dict[object, str] = field(default_factory=dict)
    files: dict[object, str] = field(default_factory=dict)
    environment: dict[object, str] = field(default_factory=dict)

    @classmethod
    def now(cls) -> Belongings:
        sockets, files = _descriptors()
        return cls(_threads(), _children(), sockets, files, _environment())

    def beyond(self, before: Belongings) -> dict[str, list[str]]:
        """List by kind what is here and was not before."""
        return {
            kind: added
            for kind, mine in vars(self).items()
            if (added := [text for key, text in mine.items() if key not in vars(before)[kind]])
        }

    def admit(self, before: Belongings, after: Belongings) -> None:
        """Take what came between two moments as having been there."""
        for kind, mine in vars(self).items():
            earlier = vars(before)[kind]
            mine |= {key: text for key, text in vars(after)[kind].items() if key not in earlier}


def _threads() -> dict[object, str]:
    return {
        thread: repr(thread)
        for thread in threading.enumerate()
        # The portal's threads for blocking calls start on demand and end with it.
        if not thread.daemon and not thread.name.startswith("aiolit-io")
    }


def _children() -> dict[object, str]:
    helpers = {
        getattr(resource_tracker._resource_tracker, "_pid", None),
        getattr(forkserver._forkserver, "_forkserver_pid", None),
    }
    found: dict[object, str] = {}
    for listing in Path("/proc/self/task").glob("*/children"):
        try:
            pids = [int(word) for word in listing.read_text().split()]
        except OSError:  # the thread ended meanwhile
            continue
        found |= {pid: f"process {pid}: {_command(pid)}" for pid in pids if pid not in helpers}
    return found


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return "gone"
    return b" ".join(words).decode(errors="replace")[:200] or "zombie"


def _descriptors() -> tuple[dict[object, str], dict[object, str]]:
    helpers = {
        getattr(resource_tracker._resource_tracker, "_fd", None),
        getattr(forkserver._forkserver, "_forkserver_alive_fd", None),
    }
    sockets: dict[object, str] = {}
    files: dict[object, str] = {}
    folder = Path("/proc/self/fd")
    for name in os.listdir(folder) if folder.exists() else []:
        try:
            target = os.readlink(folder / name)
        except OSError:  # the descriptor of this very listing
            continue
        if int(name) in helpers or target.startswith(("/dev/", "/proc/")):
            continue
        kind = sockets if target.startswith("socket:") else files
        kind[name, target] = f"descriptor {name}: {target}"
    return sockets, files


def _environment() -> dict[object, str]:
    """Take what is global to the process: variables, the working folder, signal handlers."""
    state: dict[object, str] = {
        (name, value): f"{name}={value!r}"
        for name, value in os.environ.items()
        if not name.startswith("PYTEST_")
    }
    state["cwd", os.getcwd()] = f"the working folder is {os.getcwd()}"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        handler = signal.getsignal(number)
        state[number, handler] = f"{number.name} is handled by {handler}"
    return state


@dataclass(frozen=True)
class Finished:
    """How a fresh interpreter ended."""

    returncode: int
    stdout: str
    stderr: str


class RunPython(Protocol):
    def __call__(
        self, source: str, *arguments: str, flags: Sequence[str] = (), timeout_s: float = 60
    ) -> Finished: ...


@pytest.fixture
def run_python(tmp_path: Path) -> RunPython:
    """Give a function that runs a script in a fresh interpreter, with a hard timeout."""
    folder = Path(__file__).parent.parent

    def run(
        source: str, *arguments: str, flags: Sequence[str] = (), timeout_s: float = 60
    ) -> Finished:
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(source))
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONFAULTHANDLER": "1"}
        process = subprocess.Popen(
            [sys.executable, *flags, str(script), *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            # Its threads' tracebacks first, then the whole family.
            process.send_signal(signal.SIGABRT)
            with suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=5)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            pytest.fail(f"the script hung for {timeout_s} s:\n{stdout}\n{stderr}")
        return Finished(process.returncode, stdout, stderr)

    return run


class WriteDataset(Protocol):
    def __call__(
        self, samples: Iterable[Any], *, chunk_size: int, name: str = "data", **options: Any
    ) -> Path: ...


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """Give a function that writes samples as a data set into a folder of the test's own."""

    def write(
        samples: Iterable[Any], *, chunk_size: int, name: str = "data", **options: Any
    ) -> Path:
        return datasets.write_dataset(tmp_path / name, samples, chunk_size=chunk_size, **options)

    return write


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """The address of an S3 server that keeps its objects in memory."""
    with running(str(Path(__file__).parent / "servers" / "moto_server.py")) as address:
        yield address


BASELINE = pytest.StashKey[Belongings]()


class Admitting:
    """Lets what a module's or the session's fixture starts outlive the test that asked first.

    A plugin, since the session's fixtures are set up outside this file's folder.
    """

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        before = Belongings.now()
        try:
            return (yield)
        finally:
            if (baseline := request.config.stash.get(BASELINE, None)) is not None:
                baseline.admit(before, Belongings.now())


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves threads, children, descriptors or global state behind."""
    allowed = _allowed(request)
    baseline = request.config.stash[BASELINE] = Belongings.now()
    yield
    left = _left(baseline, allowed)
    if left:
        # Only now, since it is slow: let cycles be collected and other threads finish.
        waiting = threading.Event()
        for _ in range(int(PATIENCE_S / 0.05)):
            gc.collect()
            left = _left(baseline, allowed)
            if not left:
                break
            waiting.wait(0.05)
    if left:
        pytest.fail(
            "the test left behind:\n"
            + "\n".join(f"  {kind}: {text}" for kind, texts in left.items() for text in texts)
        )


def _left(baseline: Belongings, allowed: set[str]) -> dict[str, list[str]]:
    found = Belongings.now().beyond(baseline)
    return {kind: texts for kind, texts in found.items() if kind not in allowed}


def _allowed(request: pytest.FixtureRequest) -> set[str]:
    return {kind for mark in request.node.iter_markers("keeps_open") for kind in mark.args}


@pytest.fixture(autouse=True)
def no_task_left_if_async(request: pytest.FixtureRequest, nothing_left_behind: None) -> None:
    """Watch the tasks of async tests; after the check above, so that their loop is closed first."""
    is_async = inspect.iscoroutinefunction(getattr(request.node, "obj", None))
    if is_async and "tasks" not in _allowed(request):
        request.getfixturevalue("no_task_left")


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fail an async test that leaves a task running on its loop."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        pytest.fail("the test left tasks behind:\n" + "\n".join(f"  {task!r}" for task in left))
