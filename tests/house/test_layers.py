"""Arrows go down only: which module may import which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

LAYERS = {
    "errors": 0,
    "options": 0,
    "units": 0,
    "format": 1,
    "groups": 1,
    "plan": 1,
    "store": 2,
    "runtime": 2,
    "cache": 3,
    "streaming": 4,
    "raw": 4,
    "processing": 4,
    "aio": 5,
    "cli": 5,
    "debugger": 5,
    "testing": 5,
    "utilities": 5,
    "viewer": 5,
    "__main__": 6,
}
# Neighbours on one layer that may know each other; every other pair may not.
NEIGHBOURS = {
    ("options", "errors"),
    ("options", "units"),
    ("units", "errors"),
    ("cli", "testing"),
    ("cli", "viewer"),
    # Raw files are dealt, shown and resumed by the epochs of streaming, which knows nothing of raw.
    ("raw", "streaming"),
}
PURE = ("format", "plan")
IMPURE = {
    "aiobotocore",
    "aiohttp",
    "anyio",
    "asyncio",
    "concurrent",
    "multiprocessing",
    "select",
    "selectors",
    "socket",
    "subprocess",
    "threading",
    "time",
    "uvloop",
}
# Its names are loaded on first use, by design.
FRONT_DOOR = "aiolit"

Tree = Mapping[str, Any]
ParseTree = Callable[[Mapping[str, str]], Tree]


def part(name: str) -> str:
    """Name the part of the house: ``aiolit.format.index`` is in ``format``."""
    return name.split(".")[1] if "." in name else ""


def own_imports(tree: Tree, module: Any) -> Iterator[tuple[Any, str]]:
    """Give the module's imports of our own modules, with the name of the module meant."""
    for found in module.imports:
        target = found.target
        while target and target not in tree:
            target = target.rpartition(".")[0]
        if target and target != module.name:
            yield found, target


def without_layer(tree: Tree) -> list[str]:
    return [
        f"{module.path}: give {part(name)!r} a layer"
        for name, module in tree.items()
        if name != FRONT_DOOR and part(name) not in LAYERS
    ]


def upward(tree: Tree) -> list[str]:
    """List the imports that do not go down."""
    wrong = []
    for name, module in tree.items():
        here = part(name)
        if name == FRONT_DOOR or here not in LAYERS:
            continue
        for found, target in own_imports(tree, module):
            there = part(target)
            if target == FRONT_DOOR:
                wrong.append(f"{module.path}:{found.line} imports the front door")
            elif there not in LAYERS or there == here or (here, there) in NEIGHBOURS:
                continue
            elif LAYERS[there] >= LAYERS[here]:
                wrong.append(
                    f"{module.path}:{found.line} (layer {LAYERS[here]}) imports {target} "
                    f"(layer {LAYERS[there]})"
                )
    return wrong


def impure(tree: Tree) -> list[str]:
    """List imports by pure parts of what runs, waits or looks at the clock, and torch at import."""
    wrong = []
    for name, module in tree.items():
        if part(name) not in PURE:
            continue
        for found in module.imports:
            top = found.target.partition(".")[0]
            if top in IMPURE:
                wrong.append(f"{module.path}:{found.line} imports {top}, and is pure")
            if top == "torch" and not found.local and not found.typing:
                wrong.append(f"{module.path}:{found.line} imports torch outside a function")
    return wrong


def hidden(tree: Tree) -> list[str]:
    """List imports of our own modules inside functions."""
    return [
        f"{module.path}:{found.line} imports {target} inside a function"
        for name, module in tree.items()
        if name != FRONT_DOOR
        for found, target in own_imports(tree, module)
        if found.local
    ]


def cycles(tree: Tree) -> list[str]:
    """Give the import cycles, imports inside functions counted, those for types alone not."""
    arrows = {
        name: sorted({to for found, to in own_imports(tree, module) if not found.typing})
        for name, module in tree.items()
        if name != FRONT_DOOR
    }
    found, done = [], set[str]()

    def visit(name: str, way: list[str]) -> None:
        if name in way:
            found.append(" -> ".join([*way[way.index(name) :], name]))
        elif name not in done:
            for target in arrows.get(name, ()):
                visit(target, [*way, name])
            done.add(name)

    for name in arrows:
        visit(name, [])
    return found


RULES = [without_layer, upward, impure, hidden, cycles]


@pytest.mark.parametrize("rule", RULES)
def test_the_house(source_tree: Tree, rule: Callable[[Tree], list[str]]) -> None:
    assert rule(source_tree) == []


CLEAN = {
    "aiolit/__init__.py": "def f():\n    from aiolit import errors",
    "aiolit/errors.py": "",
    "aiolit/units.py": "from aiolit.errors import X",
    "aiolit/format/__init__.py": "",
    "aiolit/format/index.py": "from aiolit.errors import Y\ndef f():\n    import torch",
    "aiolit/format/chunk.py": "from .index import parse\nfrom . import index",
    "aiolit/store/__init__.py": "",
    "aiolit/store/base.py": "import asyncio\nfrom aiolit.format import index",
}
SEEDED: dict[str, tuple[Callable[[Tree], list[str]], str, str]] = {
    "a part without a layer": (without_layer, "aiolit/new.py", ""),
    "up": (upward, "aiolit/format/up.py", "import aiolit.store.base"),
    "up in a function": (
        upward,
        "aiolit/format/up.py",
        "def f():\n    from aiolit.store import base",
    ),
    "up, relatively": (upward, "aiolit/format/up.py", "from ..store import base"),
    "up for types": (
        upward,
        "aiolit/format/up.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from aiolit.store import base",
    ),
    "from the package": (upward, "aiolit/format/up.py", "from aiolit import store"),
    "store knows runtime": (upward, "aiolit/runtime/x.py", "import aiolit.store.base"),
    "streaming knows raw": (upward, "aiolit/streaming/x.py", "import aiolit.raw"),
    "the front door": (upward, "aiolit/store/x.py", "import aiolit"),
    "a loop in format": (impure, "aiolit/format/x.py", "import asyncio"),
    "a thread in plan": (impure, "aiolit/plan/x.py", "def f():\n    from threading import Thread"),
    "a clock in plan": (impure, "aiolit/plan/x.py", "from time import monotonic as now"),
    "futures in plan": (impure, "aiolit/plan/x.py", "import concurrent.futures"),
    "torch at import": (impure, "aiolit/format/x.py", "import torch.nn as nn"),
    "hidden": (hidden, "aiolit/store/x.py", "def f():\n    from aiolit.format import index"),
    "hidden in a method": (
        hidden,
        "aiolit/store/x.py",
        "class A:\n    async def f(self):\n        import aiolit.format.index",
    ),
    "a cycle": (cycles, "aiolit/format/index.py", "from aiolit.format.chunk import x"),
    "a cycle by a function": (
        cycles,
        "aiolit/format/index.py",
        "def f():\n    from . import chunk",
    ),
}


def test_a_clean_tree_passes(parse_tree: ParseTree) -> None:
    for rule in RULES:
        assert rule(parse_tree(CLEAN)) == []


@pytest.mark.parametrize("name", SEEDED)
def test_a_seeded_violation_is_found(parse_tree: ParseTree, name: str) -> None:
    rule, path, source = SEEDED[name]
    extra = {path.rpartition("/")[0] + "/__init__.py": ""} if path.count("/") > 1 else {}
    extra["aiolit/raw/__init__.py"] = ""
    assert rule(parse_tree({**CLEAN, **extra, path: source})), name
