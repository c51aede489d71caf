"""``aiolit bench``: what a training loop here would get from a data set."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from aiolit.cli.arguments import storage_options
from aiolit.cli.console import Console, columns
from aiolit.cli.probing import probe
from aiolit.cli.reading import fetch_index
from aiolit.errors import AiolitError, ConfigError
from aiolit.format.dataset_info import loader_name
from aiolit.format.loader import TokensLoader
from aiolit.runtime.portal import portal
from aiolit.streaming.dataloader import StreamingDataLoader
from aiolit.streaming.dataset import StreamingDataset
from aiolit.streaming.resolver import resolve
from aiolit.units import format_size


@dataclass(slots=True)
class Timing:
    """Batches and when they came, in seconds since the first was asked for."""

    batches: int = 0
    samples: int = 0
    first_s: float = 0.0
    first_samples: int = 0
    seconds: float = 0.0

    def add(self, samples: int, elapsed_s: float) -> None:
        """Count a batch."""
        self.batches += 1
        self.samples += samples
        self.seconds = elapsed_s
        if self.batches == 1:
            self.first_s, self.first_samples = elapsed_s, samples

    @property
    def rate(self) -> float:
        """Samples per second once the first batch was there; of that one where there is no more."""
        if self.batches < 2:
            return self.samples / self.seconds if self.seconds else 0.0
        return (self.samples - self.first_samples) / max(self.seconds - self.first_s, 1e-9)


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the command; see ``parser``."""
    storage, session = storage_options(args.storage_option), storage_options(args.session_option)
    location = resolve(args.url)
    index = portal().call(fetch_index, location, storage, session)
    if loader_name(index.config) == "TokensLoader" and args.block_size is None:
        raise ConfigError(f"{args.url} holds tokens: say how many make a sample with --block-size")
    store = portal().call(probe, location.url, index, storage, session)
    if store is None:
        raise ConfigError(f"{args.url} has no chunks: there is nothing to read")
    with ExitStack() as stack:
        folder = args.cache_dir
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="aiolit-bench-"))
        dataset = StreamingDataset(
            args.url,
            cache_dir=folder,
            item_loader=None if args.block_size is None else TokensLoader(args.block_size),
            shuffle=args.shuffle,
            storage_options=storage,
            session_options=session,
            allow_pickle=args.allow_pickle or None,
        )
        loader = StreamingDataLoader(
            dataset,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            collate_fn=_as_list if args.no_collate else None,
        )
        timing = _time(loader, args.batches, args.batch_size, dataset.num_samples)
        stats = loader.stats()
    stored = int(dataset.source.nbytes.sum()) / max(1, dataset.num_samples)
    figures = {
        "url": dataset.input_dir,
        "batches": timing.batches,
        "samples": timing.samples,
        "first_batch_seconds": timing.first_s,
        "seconds": timing.seconds,
        "samples_per_second": timing.rate,
        "stored_bytes_per_second": timing.rate * stored,
        "stages": store.as_dict() | _own_stages(stats),
        "stats": stats,
    }
    console.result(figures, _lines(figures))
    return 0


def _own_stages(stats: Mapping[str, Any]) -> dict[str, Any]:
    """Return how many samples a second of a process's own time decodes, and collates."""
    return {
        stage: {"samples_per_second": stats["samples"] / seconds if seconds else None}
        for stage, seconds in (
            ("decode", stats["decode_seconds"]),
            ("collate", stats["collate_seconds"]),
        )
    }


def _time(loader: StreamingDataLoader, batches: int, size: int, samples: int) -> Timing:
    """Read so many batches, or an epoch where that is less."""
    timing = Timing()
    began = time.perf_counter()
    try:
        with closing(iter(loader)) as batches_of_epoch:  # type: ignore[type-var]
            for _ in batches_of_epoch:
                rest = samples - timing.samples
                timing.add(min(size, rest), time.perf_counter() - began)
                if timing.batches == batches:
                    break
    except (AiolitError, OSError):
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigError(
            f"no batch could be made of the samples ({reason}); try --no-collate"
        ) from error
    return timing


def _lines(figures: dict[str, Any]) -> list[str]:
    stats, stages = figures["stats"], figures["stages"]
    request, transfer = stages["request"], stages["transfer"]
    rows = [
        (
            "request",
            f"{request['median_ms']:.1f} ms, the slowest of {request['count']} "
            f"{request['slowest_ms']:.1f} ms",
        ),
        (
            "transfer",
            f"{format_size(transfer['bytes_per_second'])}/s on {transfer['connections']} "
            "connections",
        ),
        *((stage, _rate(stages[stage])) for stage in ("decode", "collate")),
        (
            "loader",
            f"{figures['samples_per_second']:,.0f} samples/s, "
            f"{format_size(figures['stored_bytes_per_second'])}/s of stored bytes",
        ),
        ("first batch", f"after {figures['first_batch_seconds']:.3f} s"),
        ("fetched", f"{format_size(stats['bytes_fetched'])} in {stats['requests']:,} requests"),
        ("verdict", stats["verdict"]),
    ]
    head = f"{figures['url']}: {figures['batches']:,} batches, {figures['samples']:,} samples, "
    return [f"{head}{figures['seconds']:.2f} s", *columns(rows, indent="  ")]


def _rate(stage: Mapping[str, Any]) -> str:
    rate = stage["samples_per_second"]
    return "takes no time of its own" if rate is None else f"{rate:,.0f} samples/s in a process"


def _as_list(samples: list[Any]) -> list[Any]:
    return samples
