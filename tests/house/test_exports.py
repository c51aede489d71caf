"""The front door: its names, and how little opening it costs."""

from __future__ import annotations

import ast
import importlib
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

import aiolit

# The design's list, as it stands there.
PROMISED = {
    name
    for line in (
        "StreamingDataset StreamingDataLoader StreamingRawDataset CombinedStreamingDataset",
        "ParallelStreamingDataset TokensLoader PyTreeLoader ParquetLoader optimize map walk",
        "merge_datasets train_test_split index_parquet_dataset index_hf_dataset Dir ALL_DONE",
        "Machine FernetEncryption RSAEncryption Encryption enable_tracer breakpoint aio errors",
    )
    for name in line.split()
}
HEAVY = {
    "PIL",
    "aiobotocore",
    "aiohttp",
    "anyio",
    "asyncio",
    "boto3",
    "botocore",
    "cloudpickle",
    "cryptography",
    "isal",
    "multiprocessing",
    "numpy",
    "pandas",
    "pyarrow",
    "ray",
    "torch",
    "torchvision",
    "tqdm",
    "uvloop",
    "zstandard",
}


def exported() -> list[str]:
    return [str(name) for name in aiolit.__all__]


def test_no_name_beyond_the_promised() -> None:
    assert set(exported()) - PROMISED == set()
    assert len(exported()) == len(set(exported()))


def test_every_promised_name_is_there() -> None:
    assert PROMISED - set(exported()) == set()


def is_sorted(names: list[str]) -> bool:
    """Tell whether names are in one of the three usual orders, the last being isort's."""

    def constants_first(name: str) -> tuple[bool, bool, str]:
        return not name.isupper(), not name[0].isupper(), name

    keys = (str, str.casefold, constants_first)
    return any(names == sorted(names, key=key) for key in keys)


def test_sorted() -> None:
    assert is_sorted(exported())
    assert is_sorted(["LIMIT", "Thing", "make"])
    assert not is_sorted(["make", "Thing", "LIMIT"])


@pytest.mark.parametrize("name", exported())
def test_every_name_is_importable_and_listed(name: str) -> None:
    assert getattr(aiolit, name) is not None
    assert name in dir(aiolit)


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'StreamingDataSet'"):
        aiolit.StreamingDataSet  # noqa: B018


def all_of(path: Path) -> list[str] | None:
    """Read ``__all__`` of a file, if it has one spelt out."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


FILES = sorted(Path(aiolit.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FILES[0].parent)))
def test_every_list_of_names_is_sorted_and_true(path: Path) -> None:
    names = all_of(path)
    if names is None:
        return
    assert is_sorted(names)
    inside = path.relative_to(FILES[0].parent).with_suffix("")
    module = importlib.import_module(".".join(["aiolit", *inside.parts]).removesuffix(".__init__"))
    assert [name for name in names if not hasattr(module, name)] == []


def test_finds_lists_of_names() -> None:
    assert sum(all_of(path) is not None for path in FILES) > 10


REPORT = """
    import json, os, random, signal, sys, threading

    def state():
        return {
            "environment": dict(os.environ),
            "path": list(sys.path),
            "random": repr(random.getstate()),
            "hooks": [repr(sys.excepthook), repr(signal.getsignal(signal.SIGINT))],
            "threads": threading.active_count(),
            "files": sorted(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else [],
        }

    before, modules = state(), set(sys.modules)
    import aiolit
    after = state()
    loaded = sorted(set(sys.modules) - modules)
    print(json.dumps([before == after, loaded]))
"""


def test_importing_it_loads_nothing_heavy_and_changes_nothing(run_python: Any) -> None:
    done = run_python(textwrap.dedent(REPORT))
    assert (done.returncode, done.stderr) == (0, "")
    unchanged, loaded = json.loads(done.stdout)
    assert unchanged
    assert "aiolit" in loaded
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()


def test_the_check_would_see_a_heavy_import(run_python: Any) -> None:
    done = run_python(textwrap.dedent(REPORT).replace("import aiolit", "import numpy, asyncio"))
    _, loaded = json.loads(done.stdout)
    assert {"numpy", "asyncio"} <= set(loaded)


def test_the_check_would_see_a_side_effect(run_python: Any) -> None:
    source = textwrap.dedent(REPORT).replace("import aiolit", "os.environ['SEEDED'] = '1'")
    assert not json.loads(run_python(source).stdout)[0]
