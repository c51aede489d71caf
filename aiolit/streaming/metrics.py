"""A loader's statistics as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from aiolit.errors import MissingDependencyError
from aiolit.runtime.stats import LEVELS

if TYPE_CHECKING:
    from prometheus_client.core import Metric


class Counted(Protocol):
    """What has statistics: a loader, or a data set."""

    def stats(self) -> dict[str, Any]:
        """Return figures by name."""


class PrometheusCollector:
    """Gives ``prometheus_client`` the statistics of loaders or data sets whenever it asks.

    What has been so far are counters, ``aiolit_samples_total`` and so on; what is now are gauges,
    ``aiolit_chunks_ahead`` and so on; the label ``source`` says whose they are. Register it, and
    ``prometheus_client`` serves or writes the text::

        prometheus_client.REGISTRY.register(PrometheusCollector(train=loader))
        prometheus_client.start_http_server(8000)

    Args:
        sources: What has statistics, by names of your own.

    Raises:
        MissingDependencyError: ``prometheus_client`` is not installed.
    """

    def __init__(self, **sources: Counted) -> None:
        try:
            import prometheus_client.core  # optional, and slow to import
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                "metrics need prometheus_client: pip install 'aiolit[prometheus]'", name=error.name
            ) from error
        self._core = prometheus_client.core
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        metrics: dict[str, Any] = {}
        for source, counted in self._sources.items():
            for name, value in counted.stats().items():
                if isinstance(value, int | float):  # the verdict is a sentence
                    if name not in metrics:
                        metrics[name] = self._metric(name)
                    metrics[name].add_metric([source], value)
        yield from metrics.values()

    def _metric(self, name: str) -> Metric:
        is_level = name in LEVELS or name == "batches_ready"
        kind = self._core.GaugeMetricFamily if is_level else self._core.CounterMetricFamily
        about = f"{name.replace('_', ' ')}: see aiolit.runtime.stats.Counters"
        return kind(f"aiolit_{name}", about, labels=["source"])
