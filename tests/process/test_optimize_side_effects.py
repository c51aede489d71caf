"""What `optimize` and `map` change in the process and on the machine: nothing but their output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import pytest


class Finished(Protocol):
    returncode: int
    stdout: str
    stderr: str


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str) -> Finished: ...


SCRIPT = """
    import hashlib, json, locale, logging, multiprocessing, os, pickle, random, signal, sys
    import tempfile, threading, warnings
    from pathlib import Path

    import numpy as np
    import psutil
    import torch

    import aiolit

    function, here = sys.argv[1:]
    here = Path(here)
    temporary = here / "tmp"
    for name in ("chunks", "data", "aiolit-inputs-of-somebody", "aiolit-spool-of-somebody"):
        (temporary / name).mkdir(parents=True)
        (temporary / name / "precious").write_text("keep")
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)

    def ignore(signum, frame):
        pass

    signal.signal(signal.SIGTERM, ignore)

    def digest(value):
        return hashlib.sha256(pickle.dumps(value)).hexdigest()

    def outside():
        files = [path for path in here.rglob("*") if here / "out" not in [path, *path.parents]]
        return sorted(str(path) for path in files)

    def threads():
        names = {each.name for each in threading.enumerate()}
        return {name for name in names if not name.startswith("aiolit-io_")}  # on demand

    def snapshot():
        return {
            "random": digest(random.getstate()),
            "numpy": digest(np.random.get_state()),
            "torch": digest(torch.get_rng_state().numpy()),
            "threads of torch": torch.get_num_threads(),
            "signals": {int(n): str(signal.getsignal(n)) for n in signal.valid_signals()},
            "start method": multiprocessing.get_start_method(allow_none=True),
            "environment": dict(os.environ),
            "working folder": os.getcwd(),
            "path": list(sys.path),
            "arguments": list(sys.argv),
            "files": outside(),
            "children": [each.pid for each in psutil.Process().children(recursive=True)],
            "threads": sorted(threads()),
            "loggers": [logging.getLogger(n).level for n in ("", "aiolit", "asyncio")],
            "warnings": [str(each) for each in warnings.filters],
            "descriptors": psutil.Process().num_fds(),
        }

    def work(index, output_dir, ending):
        random.random(), np.random.rand()
        os.environ["CHANGED_IN_A_WORKER"] = "1"
        if index == 60 and ending == "raised":
            raise LookupError("boom")
        if index == 60 and ending == "Ctrl-C":
            os.kill(os.getppid(), signal.SIGINT)
            while True:
                signal.pause()
        if index == 60 and ending == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if output_dir is not None:
            Path(output_dir, f"{index}.txt").write_text(f"{index}")
        return index, "text"

    def run(ending):
        options = dict(num_workers=2, verbose=True)
        out = here / "out" / ending
        if function == "optimize":
            aiolit.optimize(
                lambda i: work(i, None, ending), range(100), out, chunk_size=7, **options
            )
        else:
            aiolit.map(lambda i, folder: work(i, folder, ending), range(100), out, **options)

    run("first")  # what is opened once, such as the portal's thread, may stay
    found = {}
    for ending in ("finished", "raised", "Ctrl-C", "killed"):
        before = snapshot()
        try:
            run(ending)
            how = "finished"
        except BaseException as error:
            how = type(error).__name__
        after = snapshot()
        pairs = {name: [before[name], after[name]] for name in before}
        changed = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        found[ending] = [how, changed]
    print(json.dumps(found))
"""


@pytest.mark.parametrize("function", ["optimize", "map"])
def test_nothing_is_changed(run_python: RunPython, function: str, tmp_path: Path) -> None:
    finished = run_python(SCRIPT, function, str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    assert found == {
        "finished": ["finished", {}],
        "raised": ["LookupError", {}],
        "Ctrl-C": ["KeyboardInterrupt", {}],
        "killed": ["WorkerDiedError", {}],
    }
    assert (tmp_path / "tmp" / "chunks" / "precious").read_text() == "keep"


def test_the_very_first_call_leaves_only_what_is_opened_once(
    run_python: RunPython, tmp_path: Path
) -> None:
    script = """
        import multiprocessing, random, signal, sys, threading
        import aiolit

        random.seed(1)
        before = random.getstate(), signal.getsignal(signal.SIGINT)
        aiolit.optimize(lambda i: i, [1, 2], sys.argv[1], chunk_size=1, num_workers=1)
        assert (random.getstate(), signal.getsignal(signal.SIGINT)) == before
        assert multiprocessing.get_start_method(allow_none=True) is None
        assert "torch" not in sys.modules
        names = {thread.name.partition("_")[0] for thread in threading.enumerate()}
        print(sorted(names - {"MainThread"}))
    """
    finished = run_python(script, str(tmp_path / "out"))
    assert finished.returncode == 0, finished.stderr
    assert all(name.startswith("aiolit") for name in json.loads(finished.stdout.replace("'", '"')))
