"""Where a job runs: on this machine, as a share of several, or on a cluster."""

from __future__ import annotations

from aiolit.processing.job import OptimizeJob, run_optimize
from aiolit.processing.mapping import MapJob, run_map
from aiolit.processing.planning import Plan
from aiolit.processing.ray_cluster import open_ray
from aiolit.processing.several_nodes import map_on_nodes, optimize_on_nodes
from aiolit.processing.shares import map_share, optimize_share
from aiolit.processing.summary import MapSummary, Summary

__all__ = ["run_map_plan", "run_optimize_plan"]


async def run_optimize_plan(plan: Plan[OptimizeJob]) -> tuple[Summary, tuple[str, ...]]:
    """Write a data set; returns the summary and where there are leaves stored by pickle."""
    if plan.share is not None:
        return await optimize_share(plan.job, plan.share, plan.downloads)
    if plan.nodes is None:
        return await run_optimize(plan.job)
    opened = open_ray(plan.nodes, verbose=plan.job.work.verbose)
    return await optimize_on_nodes(plan.job, plan.nodes, opened)


async def run_map_plan(plan: Plan[MapJob]) -> MapSummary:
    """Call a function that writes files, and store them."""
    if plan.share is not None:
        return await map_share(plan.job, plan.share, plan.downloads)
    if plan.nodes is None:
        return await run_map(plan.job)
    opened = open_ray(plan.nodes, verbose=plan.job.work.verbose)
    return await map_on_nodes(plan.job, plan.nodes, opened)
