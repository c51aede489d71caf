"""The programs in examples/ run to their end, say what they promise and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

ROOT = Path(__file__).parents[2]
TIME_LIMIT_S = 170
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@dataclass(frozen=True)
class Example:
    """A program, and what it says at its end: a regular expression whose groups are numbers.

    Attributes:
        name: The file in examples/.
        says: What its output has to contain.
        least: What each number has to be at least.
        most: What each number may be at most.
        flags: Arguments of the interpreter before the program.
    """

    name: str
    says: str
    least: float = 0
    most: float = float("inf")
    flags: tuple[str, ...] = ()


EXAMPLES = (
    Example(
        "quickstart",
        r"held-out digits: ([\d.]+)\ns3:(?:.*\n)+.*held-out digits: ([\d.]+)\n",
        least=0.95,
    ),
    Example("image_folder_to_s3", r"accuracy on 86 held-out images: ([\d.]+)\n", least=0.85),
    Example("llm_tokens", r"going on behind step 60\n(?:.*\n)+loss after .*: ([\d.]+),", most=3.2),
    Example("raw_files_with_masks", r"pixels of 104 pairs told right: ([\d.]+)\n", least=0.95),
    Example(
        "parquet_and_hugging_face",
        r"row 1000 is a 1, \(8, 8\) pixels\nhf:.*accuracy ([\d.]+)\n.*accuracy ([\d.]+)\n",
        least=0.9,
    ),
    Example("mixing_with_schedule", r"quarters: 0% .* 80%\nwith \[3, 1\].*: 25% .*%\n"),
    Example("async_scraper", r"scraped (\d+) pages and (\d+) links\n", least=20),
    Example(
        "replay_buffer",
        r"round 0: trained on 800 samples.*\n(?:.*\n)+round 5: .* 4800 samples, .* ([\d.]+)\n",
        most=0.01,
    ),
    Example(
        "multi_rank_torchrun",
        r"(?:all ranks: 1792 samples, (?s:.*)){5}all ranks: 1792 samples, accuracy ([\d.]+)\n",
        least=0.9,
        flags=TORCHRUN,
    ),
    Example("lightning_resume", r"20 batches before, 37 behind: each of 1797 digits once\n"),
    Example(
        "encryption",
        r"password: mean 152.1\nwith another password: .*cannot be decrypted.*\n"
        r"with the public key: .*needs the private key.*\nwith the private key: mean 152.1\n",
    ),
)


@pytest.mark.slow
@pytest.mark.timeout(TIME_LIMIT_S + 30)
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_does_what_it_says_and_leaves_nothing(example: Example, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    # multiprocessing puts sockets there, whose paths may have 107 characters at most.
    with TemporaryDirectory() as temporary:
        output = run(example, folder, home, temporary)
        left = [name for place in (temporary, home, folder) for name in os.listdir(place)]
    # torchrun leaves a folder for logs.
    assert not [name for name in left if not name.startswith("torchelastic_")]
    said = re.search(example.says, output)
    assert said is not None, output
    numbers = [float(text) for text in said.groups()]
    assert all(example.least <= number <= example.most for number in numbers), output


def test_every_program_is_tried_and_in_the_table() -> None:
    """The servers of the others, local_*.py, are none; Ray's has tests of its own."""
    files = {file.stem for file in (ROOT / "examples").glob("*.py")}
    programs = {name for name in files if not name.startswith("local_")}
    assert programs - {"ray_optimize"} == {example.name for example in EXAMPLES}
    table = (ROOT / "examples" / "README.md").read_text()
    assert set(re.findall(r"^\| \[(\w+)\.py\]", table, re.M)) == programs


def run(example: Example, folder: Path, home: Path, temporary: str) -> str:
    """Run an example and see it leave no process; return what it printed."""
    process = subprocess.Popen(
        [sys.executable, *example.flags, str(ROOT / "examples" / f"{example.name}.py")],
        cwd=folder,
        env={
            **os.environ,
            "TMPDIR": temporary,
            "HOME": str(home),
            # torch's threads would spin while other tests have the cores.
            "OMP_NUM_THREADS": "1",
            # torch makes this folder when an optimizer is built, and leaves it.
            "TORCHINDUCTOR_CACHE_DIR": str(home.parent / "torch"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"no end in {TIME_LIMIT_S} s: {process.communicate()[0]}")
    assert process.returncode == 0, output
    _, alive = psutil.wait_procs(descendants_in(process.pid), timeout=5)
    assert not alive
    return output


def descendants_in(session: int) -> list[psutil.Process]:
    """List the processes that still live in a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                found.append(process)
        except ProcessLookupError:
            continue
    return found
