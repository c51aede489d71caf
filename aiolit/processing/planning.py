"""From checked arguments to a job."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from aiolit.errors import ConfigError
from aiolit.options import OutputOptions, WorkOptions
from aiolit.processing.arguments import MapArguments, OptimizeArguments, WorkArguments
from aiolit.processing.input_digest import CheckedSource
from aiolit.processing.input_kinds import Pulled, as_source, prepare_items
from aiolit.processing.job import OptimizeJob
from aiolit.processing.mapping import MapJob
from aiolit.processing.nodes import Downloads, Nodes, Share
from aiolit.processing.shares import check_shared, find_share
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
        nodes: How the job is spread over the machines of a cluster, or None.
        share: Which part of the job this process does; None: all of it.
        downloads: How remote files are downloaded, where the job's source does not do that.
    """

    job: Job
    feed: FeedSource | None
    pulled: Pulled | None
    nodes: Nodes | None
    share: Share | None
    downloads: Downloads


@dataclass(frozen=True, slots=True)
class _Inputs:
    source: InputSource
    checked: CheckedSource | None
    feed: FeedSource | None
    pulled: Pulled | None
    weights: NDArray[np.float64] | None
    nodes: Nodes | None
    share: Share | None


def _plan_inputs(
    arguments: WorkArguments, work: WorkOptions, output: OutputOptions, *, on_loop: bool
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
    if output.use_checkpoint:
        # Below the downloads: the names of local copies differ from attempt to attempt.
        source = checked = CheckedSource(source)
    # A process that was started as one of several nodes asks for no others.
    share = find_share(os.environ)
    nodes = arguments.nodes() if share is None else None
    if share is not None:
        _check_share(output, is_list=isinstance(base, SequenceSource))
    elif nodes is None:
        source = arguments.downloads().of(source)
    else:
        nodes = replace(nodes, is_list=isinstance(base, SequenceSource))
    feed = base if isinstance(base, FeedSource) else None
    return _Inputs(source, checked, feed, pulled, weights, nodes, share)


def _check_share(output: OutputOptions, *, is_list: bool) -> None:
    check_shared(output.url)
    if not is_list:
        raise ConfigError("one of several nodes takes its share of a list: inputs must be one")


def _plan(job: Job, inputs: _Inputs, arguments: WorkArguments) -> Plan[Job]:
    return Plan(job, inputs.feed, inputs.pulled, inputs.nodes, inputs.share, arguments.downloads())


def plan_optimize(arguments: OptimizeArguments, *, on_loop: bool) -> Plan[OptimizeJob]:
    """Check all arguments and compose the job; nothing is started or written.

    Raises:
        ConfigError: An argument cannot work.
    """
    arguments.check()
    layout, output, work = arguments.layout(), arguments.output(), arguments.work()
    inputs = _plan_inputs(arguments, work, output, on_loop=on_loop)
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
    return _plan(job, inputs, arguments)


def plan_map(arguments: MapArguments, *, on_loop: bool) -> Plan[MapJob]:
    """Check all arguments of `map` and compose the job; nothing is started or written.

    Raises:
        ConfigError: An argument cannot work.
    """
    wants = arguments.check()
    output, work = arguments.output(), arguments.work()
    inputs = _plan_inputs(arguments, work, output, on_loop=on_loop)
    if inputs.share is not None and (arguments.error_when_not_empty or arguments.manifest):
        raise ConfigError(
            "error_when_not_empty and manifest are of a whole job; this process is one of several"
        )
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
    return _plan(job, inputs, arguments)
