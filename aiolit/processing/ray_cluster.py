"""Nodes on a Ray cluster: one actor on each machine."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from aiolit.errors import ConfigError, MissingDependencyError, OptimizeError
from aiolit.processing.head import NodeHandle, NodeLostError
from aiolit.processing.machine import Machine
from aiolit.processing.node import Node
from aiolit.processing.nodes import Nodes
from aiolit.processing.protocol import RunMessage, Schema
from aiolit.processing.reports import NodeReport
from aiolit.runtime.tasks import finish
from aiolit.store.threads import open_in_thread, run_in_thread

__all__ = ["open_ray"]

# How long a node may take to remove its work folder before its process is ended.
_STOP_S = 10.0
# Nothing but messages, and pieces of files on their way to the head, lies in Ray's memory.
_OBJECT_STORE_BYTES = 256 << 20


def _import_ray() -> Any:
    # Optional, and it takes a quarter of a second.
    try:
        import ray
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"num_nodes needs {error.name}: pip install 'aiolit[ray]'", name=error.name
        ) from error
    return ray


@asynccontextmanager
async def open_ray(nodes: Nodes, *, verbose: bool) -> AsyncIterator[RayCluster]:
    """Join the cluster at ``RAY_ADDRESS``; without it, start one of this machine for the block.

    A program that has called ``ray.init`` itself stays connected as it is.

    Raises:
        MissingDependencyError: Ray is not installed.
        OptimizeError: There is no cluster at the address.
        ConfigError: No machine of the cluster has what is to be reserved.
    """
    ray = _import_ray()

    def leave(is_ours: bool) -> None:
        if is_ours:
            ray.shutdown()

    is_ours = await open_in_thread(lambda: _connect(ray, nodes, verbose), leave)
    try:
        _check_machines(ray, nodes.machine)
        yield RayCluster(ray, nodes.machine)
    finally:
        await run_in_thread(leave, is_ours)


def _connect(ray: Any, nodes: Nodes, verbose: bool) -> bool:
    """Connect this process, unless it is; say whether that was done."""
    if ray.is_initialized():
        return False
    common = {"log_to_driver": verbose, "logging_level": logging.ERROR}
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(address=address, **common)
        except ConnectionError as error:
            raise OptimizeError(f"no Ray cluster at RAY_ADDRESS={address}: {error}") from error
        return True
    needs = nodes.machine.needs()
    # Ray's resources are only counted: one machine stands in for as many as are asked for.
    counted: dict[str, Any] = {
        "resources": {n: nodes.num_nodes * r for n, r in nodes.machine.resources.items()}
    }
    if "memory" in needs:
        counted["_memory"] = nodes.num_nodes * needs["memory"]
    with _environment(RAY_USAGE_STATS_ENABLED="0"):
        ray.init(
            address="local",
            num_cpus=nodes.num_nodes * nodes.machine.cpus,
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            **counted,
            **common,
        )
    return True


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Set variables for the processes that are started in the block; Ray sets some of its own."""
    before = dict(os.environ)
    for name, value in variables.items():
        os.environ[name] = value
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            if name in before:
                os.environ[name] = before[name]
            else:
                del os.environ[name]


def _check_machines(ray: Any, machine: Machine) -> None:
    """Refuse to wait for a machine that will never be there."""
    needs = machine.needs()
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(has.get(name, 0) >= n for name, n in needs.items()) for has in there):
        return
    shown = sorted({_shown(has) for has in there})
    raise ConfigError(
        f"no machine of the Ray cluster has {_shown(needs)}; there are: {'; '.join(shown)}. Say "
        "what to reserve with machine=Machine(cpus=...)"
    )


def _shown(resources: dict[str, float]) -> str:
    named = {name: n for name, n in resources.items() if not name.startswith(("node:", "object"))}
    return ", ".join(f"{n:g} {name}" for name, n in sorted(named.items()))


class RayCluster:
    """A Ray cluster that this process is connected to."""

    def __init__(self, ray: Any, machine: Machine) -> None:
        self._ray = ray
        self._actor = ray.remote(Node).options(
            num_cpus=machine.cpus,
            num_gpus=machine.gpus,
            memory=machine.memory,
            accelerator_type=machine.accelerator,
            resources=dict(machine.resources),
            scheduling_strategy="SPREAD",
        )

    @asynccontextmanager
    async def node(self, setup: bytes) -> AsyncIterator[NodeHandle]:
        """Start a node, as soon as there is room for it; at the end of the block it is gone.

        Raises:
            NodeLostError: It was lost on the way.
        """
        actor = self._actor.remote(setup)
        running = None
        try:
            node = _RayNode(self._ray, actor)
            await node.call(actor.__ray_ready__)
            running = actor.run.remote()
            yield node
        finally:
            # To its end: a node that is cut short leaves its work folder to the next one.
            await finish(self._end(actor, running))

    async def _end(self, actor: Any, running: Any) -> None:
        if running is not None:
            with suppress(TimeoutError, self._ray.exceptions.RayError):
                async with asyncio.timeout(_STOP_S):
                    await actor.stop.remote()
                    await running
        self._ray.kill(actor)


class _RayNode:
    """A `Node` in an actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        errors = ray.exceptions
        self._losses = (errors.RayActorError, errors.ObjectLostError, errors.NodeDiedError)
        self._actor = actor

    async def call(self, method: Any, *args: Any) -> Any:
        """Call a method of the actor.

        Raises:
            NodeLostError: It does not answer any more.
        """
        try:
            return await method.remote(*args)
        except self._losses as error:
            # The lines between are Ray's numbers of things, or a traceback of its own.
            lines = str(error).strip().splitlines()
            raise NodeLostError(" ".join(dict.fromkeys((lines[0], lines[-1])))) from error

    async def reports(self) -> list[NodeReport]:
        reports: list[NodeReport] = await self.call(self._actor.reports)
        return reports

    async def give(self, run: RunMessage) -> None:
        await self.call(self._actor.give, run)

    async def drain(self) -> None:
        await self.call(self._actor.drain)

    async def end(self) -> None:
        await self.call(self._actor.end)

    async def agree(self, schema: Schema) -> None:
        await self.call(self._actor.agree, schema)

    async def read(self, name: str, start: int, nbytes: int) -> bytes:
        data: bytes = await self.call(self._actor.read, name, start, nbytes)
        return data

    async def fetched(self, name: str) -> None:
        await self.call(self._actor.fetched, name)
