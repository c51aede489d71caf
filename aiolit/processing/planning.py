"""From checked arguments to a job."""

from __future__ import annotations

from dataclasses import dataclass

from aiolit.errors import ConfigError
from aiolit.processing.arguments import OptimizeArguments
from aiolit.processing.input_kinds import Pulled, as_source, prepare_items
from aiolit.processing.job import OptimizeJob
from aiolit.processing.sources import Batched, FeedSource, InputSource, Limited, Timed
from aiolit.processing.weights import check_weights

__all__ = ["Plan", "plan_optimize"]


@dataclass(frozen=True, slots=True)
class Plan:
    """A job, and what the caller's thread must bring to it.

    Attributes:
        job: The job.
        feed: Where inputs are brought, or None.
        pulled: The blocks of inputs to bring, or None.
    """

    job: OptimizeJob
    feed: FeedSource | None
    pulled: Pulled | None


def plan_optimize(arguments: OptimizeArguments, *, on_loop: bool) -> Plan:
    """Check all arguments and compose the job; nothing is started or written.

    Raises:
        ConfigError: An argument cannot work.
    """
    arguments.check()
    layout, output, work = arguments.layout(), arguments.output(), arguments.work()
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
    if arguments.input_dir is not None:
        raise ConfigError("input_dir is not supported")
    job = OptimizeJob(
        fn=arguments.fn,
        source=source,
        layout=layout,
        output=output,
        work=work,
        serializers=arguments.serializers,
        read=None if arguments.reader is None else arguments.reader.read,
        weights=check_weights(arguments.weights, items, arguments.batch_size),
    )
    return Plan(job, base if isinstance(base, FeedSource) else None, pulled)
