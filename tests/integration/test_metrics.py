"""Statistics as Prometheus text, and what there is without ``prometheus_client``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from aiolit import StreamingDataLoader, StreamingDataset
from aiolit.streaming.metrics import PrometheusCollector


class WriteDataset(Protocol):
    def __call__(
        self, samples: Any, *, chunk_size: int, name: str = "data", **options: Any
    ) -> Path: ...


class RunPython(Protocol):
    def __call__(self, source: str, *arguments: str, timeout_s: float = 60) -> Any: ...


def test_text_that_prometheus_reads(write_dataset: WriteDataset) -> None:
    folder = write_dataset([f"text {number}" for number in range(60)], chunk_size=10)
    loader = StreamingDataLoader(StreamingDataset(folder), batch_size=5)
    registry = CollectorRegistry()
    registry.register(PrometheusCollector(train=loader, other=Fixed()))
    before = read(registry)
    assert before["aiolit_samples_total", "train"] == 0
    list(loader)
    after = read(registry)
    stats = loader.stats()
    assert after["aiolit_samples_total", "train"] == 60
    assert after["aiolit_batches_ready", "train"] == 0
    assert after["aiolit_loop_seconds_total", "train"] == stats["loop_seconds"]
    assert after["aiolit_chunks_ahead", "other"] == 3
    names = {name.removesuffix("_total") for name, source in after if source == "train"}
    assert names == {f"aiolit_{name}" for name in stats if name != "verdict"}


class Fixed:
    """Has figures that are given."""

    def stats(self) -> dict[str, Any]:
        return {"chunks_ahead": 3, "verdict": "consumer-bound"}


def read(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    text = generate_latest(registry).decode()
    return {
        (sample.name, sample.labels["source"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_without_prometheus_client(run_python: RunPython) -> None:
    found = run_python(
        """
        import sys
        sys.modules["prometheus_client"] = None
        from aiolit.errors import MissingDependencyError
        from aiolit.streaming.metrics import PrometheusCollector
        try:
            PrometheusCollector()
        except MissingDependencyError as error:
            print(error)
        """
    )
    assert "pip install 'aiolit[prometheus]'" in found.stdout, found.stderr
