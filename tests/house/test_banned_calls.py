"""Calls that break a rule of the house, wherever they stand."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

Tree = Mapping[str, Any]
ParseTree = Callable[[Mapping[str, str]], Tree]

# What is called -> where it may be, and why it may not elsewhere.
BANNED: dict[str, tuple[tuple[str, ...], str]] = {
    "asyncio.gather": ((), "a failure leaves the others running: use a TaskGroup"),
    "asyncio.ensure_future": ((), "nobody owns the task: use a TaskGroup"),
    "asyncio.run": (("aiolit/runtime/", "aiolit/cli.py"), "the portal owns the loop"),
    "asyncio.Runner": (("aiolit/runtime/",), "the portal owns the loop"),
    "asyncio.new_event_loop": (("aiolit/runtime/",), "the portal owns the loop"),
    "asyncio.run_coroutine_threadsafe": ((), "cross by the portal"),
    "time.sleep": ((), "wait for the event"),
    "threading.Thread": (("aiolit/runtime/",), "threads live in runtime"),
    "threading.Timer": (("aiolit/runtime/",), "threads live in runtime"),
    "_thread.start_new_thread": (("aiolit/runtime/",), "threads live in runtime"),
    "print": (("aiolit/cli.py", "aiolit/cli/"), "use logging"),
    "os.putenv": ((), "the environment is the user's"),
    "os.environ.update": ((), "the environment is the user's"),
    "os.environ.setdefault": ((), "the environment is the user's"),
    "os.environ.pop": ((), "the environment is the user's"),
}
# The one sleep is the back-off between two attempts.
SLEEPERS = ("aiolit/store/retry.py",)
# Functions that own the task they begin as a group would: nothing leaves them before it has ended.
TASK_OWNERS = ("aiolit/runtime/tasks.py",)
# Ray is told by variables only, and sets some itself: they are put back at once.
RESTORERS = ("aiolit/processing/ray_cluster.py",)
SWALLOWED = {"Exception", "BaseException"}


def allowed(path: str, where: tuple[str, ...]) -> bool:
    return any(path == each or (each.endswith("/") and path.startswith(each)) for each in where)


def calls(tree: Tree) -> Iterator[tuple[Any, ast.Call, str]]:
    for module in tree.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                yield module, node, module.qualified(node.func)


def banned(tree: Tree) -> list[str]:
    return [
        f"{module.path}:{node.lineno} {name}(): {BANNED[name][1]}"
        for module, node, name in calls(tree)
        if name in BANNED and not allowed(module.path, BANNED[name][0])
    ]


def group_names(module: Any) -> set[str]:
    """Give what ``async with asyncio.TaskGroup() as name`` binds in a module."""
    items = (node for node in ast.walk(module.tree) if isinstance(node, ast.withitem))
    return {
        module.qualified(item.optional_vars)
        for item in items
        if item.optional_vars is not None
        and module.qualified(item.context_expr) == "asyncio.TaskGroup()"
    }


def tasks_without_group(tree: Tree) -> list[str]:
    """List tasks that are not born in a task group, known by its binding or its name."""
    return [
        f"{module.path}:{node.lineno} {name}(): a task is born in a TaskGroup"
        for module, node, name in calls(tree)
        if name.endswith("create_task")
        and module.path not in TASK_OWNERS
        and (receiver := name.rpartition(".")[0]) not in group_names(module)
        and not receiver.rpartition(".")[2].endswith("group")
    ]


def sleeps(tree: Tree) -> list[str]:
    """List sleeps; ``sleep(0)`` only gives the others a turn."""
    return [
        f"{module.path}:{node.lineno} {name}(): wait for the event, not for the clock"
        for module, node, name in calls(tree)
        if name in {"asyncio.sleep", "anyio.sleep"}
        and not allowed(module.path, SLEEPERS)
        and not (isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    ]


def swallowed(tree: Tree) -> list[str]:
    """List handlers that catch anything and go on as if nothing had happened."""
    wrong = []
    for module in tree.values():
        for node in ast.walk(module.tree):
            if not isinstance(node, ast.ExceptHandler):
                continue
            if node.type is None:
                wrong.append(f"{module.path}:{node.lineno} bare except")
                continue
            kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            if any(module.qualified(kind) in SWALLOWED for kind in kinds) and all(
                isinstance(line, ast.Pass | ast.Continue)
                or (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
                for line in node.body
            ):
                wrong.append(f"{module.path}:{node.lineno} swallows every error")
    wrong += [
        f"{module.path}:{node.lineno} swallows every error"
        for module, node, name in calls(tree)
        if name == "contextlib.suppress"
        and any(module.qualified(kind) in SWALLOWED for kind in node.args)
    ]
    return wrong


def environment_written(tree: Tree) -> list[str]:
    return [
        f"{module.path}:{node.lineno} changes the environment"
        for module in tree.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Store | ast.Del)
        and module.qualified(node.value) == "os.environ"
        and module.path not in RESTORERS
    ]


RULES = [banned, tasks_without_group, sleeps, swallowed, environment_written]


@pytest.mark.parametrize("rule", RULES)
def test_the_house(source_tree: Tree, rule: Callable[[Tree], list[str]]) -> None:
    assert rule(source_tree) == []


CLEAN = {
    "aiolit/cli.py": "print('hello')",
    "aiolit/runtime/x.py": "import threading\nthreading.Thread(target=f)",
    "aiolit/store/retry.py": "import asyncio\nasync def f():\n    await asyncio.sleep(delay)",
    "aiolit/store/x.py": """
import asyncio, os
from contextlib import suppress
async def f(self, group):
    group.create_task(g())
    self._group.create_task(g())
    async with asyncio.TaskGroup() as slots:
        slots.create_task(g())
    await asyncio.sleep(0)
    os.environ.get("X"), os.environ["X"]
    with suppress(OSError):
        try:
            h()
        except Exception as error:
            raise ValueError from error
        except ValueError:
            pass
""",
}
SEEDED: dict[str, tuple[Callable[[Tree], list[str]], str]] = {
    "gather": (banned, "import asyncio\nasyncio.gather(a, b)"),
    "gather by name": (banned, "from asyncio import gather as both\nboth(a, b)"),
    "asyncio by another name": (banned, "import asyncio as aio\naio.ensure_future(a)"),
    "a loop": (banned, "import asyncio\nasyncio.run(main())"),
    "time.sleep": (banned, "import time\ndef f():\n    time.sleep(1)"),
    "sleep by name": (banned, "from time import sleep\nsleep(1)"),
    "a thread": (banned, "from threading import Thread\nThread(target=f).start()"),
    "print": (banned, "def f():\n    print('x')"),
    "create_task": (tasks_without_group, "import asyncio\nasyncio.create_task(f())"),
    "create_task by name": (tasks_without_group, "from asyncio import create_task\ncreate_task(f)"),
    "on what is no group": (tasks_without_group, "def f(slots):\n    slots.create_task(g())"),
    "on a loop": (tasks_without_group, "loop.create_task(f())"),
    "on the running loop": (
        tasks_without_group,
        "import asyncio\nasyncio.get_running_loop().create_task(f())",
    ),
    "asyncio.sleep": (sleeps, "import asyncio\nasync def f():\n    await asyncio.sleep(0.1)"),
    "sleep from asyncio": (sleeps, "from asyncio import sleep\nasync def f():\n    await sleep(x)"),
    "bare except": (swallowed, "try:\n    f()\nexcept:\n    raise"),
    "pass": (swallowed, "try:\n    f()\nexcept Exception:\n    pass"),
    "dots": (swallowed, "try:\n    f()\nexcept (ValueError, BaseException):\n    ..."),
    "continue": (
        swallowed,
        "for x in y:\n    try:\n        f()\n    except Exception:\n        continue",
    ),
    "suppress": (swallowed, "import contextlib\nwith contextlib.suppress(Exception):\n    f()"),
    "set": (environment_written, "import os\nos.environ['X'] = '1'"),
    "del": (environment_written, "from os import environ\ndel environ['X']"),
    "setdefault": (banned, "import os\nos.environ.setdefault('X', '1')"),
}


def test_a_clean_tree_passes(parse_tree: ParseTree) -> None:
    for rule in RULES:
        assert rule(parse_tree(CLEAN)) == []


@pytest.mark.parametrize("name", SEEDED)
def test_a_seeded_violation_is_found(parse_tree: ParseTree, name: str) -> None:
    rule, source = SEEDED[name]
    assert rule(parse_tree({**CLEAN, "aiolit/streaming/seeded.py": source})), name


def test_what_is_allowed_is_allowed_there_only(parse_tree: ParseTree) -> None:
    sleeping = {"aiolit/store/retry_more.py": CLEAN["aiolit/store/retry.py"]}
    assert sleeps(parse_tree(sleeping))
    assert banned(parse_tree({"aiolit/client.py": "print()"}))
