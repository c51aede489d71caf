"""From checked arguments to a job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ConfigError
from aiolit.options import WorkOptions
from aiolit.processing.arguments import MapArguments, OptimizeArguments, WorkArguments
from aiolit.processing.input_digest import CheckedSource
from aiolit.processing.input_kinds import Pulled, as_source, prepare_items
from aiolit.processing.job import OptimizeJob
from aiolit.processing.mapping import MapJob
from aiolit.processing.nodes import Nodes
from aiolit.processing.shipping import pickle_containers
from aiolit.processing.sources import (
    Batched,
    FeedSource,
    InputSource,
    Limited,
    SequenceSource,
    Timed,
)
from aiolit.processing.weights import check_weights

__all__ = ["Plan", "plan_map", "plan_optimize"]


Job = TypeVar("Job", OptimizeJob, MapJob)


@dataclass(frozen=True, slots=True)
class Plan(Generic[Job]):
    """A job, and what the caller's thread must bring to it.

    Attributes:
        job: The job.
        feed: Where inputs are brought, or None.
        pulled: The blocks of inputs to bring, or None.
        nodes: How the job is spread over machines; None: it runs on this one.
    """

    job: Job
    feed: FeedSource | None
    pulled: Pulled | None
    nodes: Nodes | None


@dataclass(frozen=True, slots=True)
class _Inputs:
    source: InputSource
    checked: CheckedSource | None
    feed: FeedSource | None
    pulled: Pulled | None
    weights: NDArray[np.float64] | None
    nodes: Nodes | None


def _plan_inputs(
    arguments: WorkArguments, work: WorkOptions, *, on_loop: bool, use_checkpoint: bool
) -> _Inputs:
    given = arguments.inputs if arguments.queue is None else arguments.queue
    items = prepare_items(given, arguments.reader, work.num_workers)
    base, pulled = as_source(items, on_loop=on_loop, timeout_s=work.timeout_s)
    source: InputSource = base
    if work.timeout_s is not None and pulled is None:
        source = Timed(source, work.timeout_s)
    if (most := arguments.limit()) is not None:
        source = Limited(source, most)
    if arguments.batch_size is not None:
        source = Batched(source, arguments.batch_size)
    weights = check_weights(arguments.weights, items, arguments.batch_size)
    checked = None
    if use_checkpoint:
        # Below the downloads: the names of local copies differ from attempt to attempt.
        source = checked = CheckedSource(source)
    nodes = arguments.nodes()
    if nodes is None:
        source = arguments.downloads().of(source)
    else:
        nodes = replace(nodes, is_list=isinstance(base, SequenceSource))
    feed = base if isinstance(base, FeedSource) else None
    return _Inputs(source, checked, feed, pulled, weights, nodes)


def plan_optimize(arguments: OptimizeArguments, *, on_loop: bool) -> Plan[OptimizeJob]:
    """Check all arguments and compose the job; nothing is started or written.

    Raises:
        ConfigError: An argument cannot work.
    """
    arguments.check()
    layout, output, work = arguments.layout(), arguments.output(), arguments.work()
    inputs = _plan_inputs(arguments, work, on_loop=on_loop, use_checkpoint=output.use_checkpoint)
    if inputs.nodes is not None and work.ordered and not inputs.nodes.is_list:
        raise ConfigError(
            "several nodes keep the order of a list only; pass a list, or keep_data_ordered=False"
        )
    job = OptimizeJob(
        fn=arguments.fn,
        source=inputs.source,
        checked=inputs.checked,
        layout=layout,
        output=output,
        work=work,
        serializers=arguments.serializers,
        read=arguments.read(),
        containers=pickle_containers(),
        weights=inputs.weights,
    )
    return Plan(job, inputs.feed, inputs.pulled, inputs.nodes)


def plan_map(arguments: MapArguments, *, on_loop: bool) -> Plan[MapJob]:
    """Check all arguments of `map` and compose the job; nothing is started or written.

    Raises:
        ConfigError: An argument cannot work.
    """
    wants = arguments.check()
    output, work = arguments.output(), arguments.work()
    inputs = _plan_inputs(arguments, work, on_loop=on_loop, use_checkpoint=output.use_checkpoint)
    job = MapJob(
        fn=arguments.fn,
        wants=wants,
        source=inputs.source,
        checked=inputs.checked,
        output=output,
        work=work,
        error_when_not_empty=arguments.error_when_not_empty,
        manifest=arguments.manifest,
        read=arguments.read(),
        weights=inputs.weights,
    )
    return Plan(job, inputs.feed, inputs.pulled, inputs.nodes)
