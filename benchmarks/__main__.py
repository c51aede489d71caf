"""`python -m benchmarks`: the table. README.md says how to read it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.data import Inputs, Sizes, data_folder
from benchmarks.rows import CONTENDERS, NETWORK, ROWS
from benchmarks.runner import Bench
from benchmarks.table import table


def main() -> int:
    """Measure the rows asked for and print them; not 0 if a contender failed."""
    options = _parse()
    sizes, inputs = Sizes(), Inputs()
    if options.quick:
        sizes, inputs = Sizes.quick(), Inputs.quick()
    rows = [ROWS[name] for name in options.rows or ROWS]
    folder = options.folder / ("quick" if options.quick else "full")
    bench = Bench(folder, sizes, inputs, say, only=options.contenders)
    results = bench.measure(rows, options.repeats)
    print(_conditions(sizes, options.repeats))
    for row in rows:
        print()
        print(table(row, results[row.name]))
    if options.json:
        plain = {
            name: {label: [dataclasses.asdict(one) for one in runs] for label, runs in row.items()}
            for name, row in results.items()
        }
        options.json.write_text(json.dumps(plain, indent=1))
    for failure in bench.failures:
        say(f"failed: {failure.splitlines()[0]}")
    return 1 if bench.failures else 0


def say(line: str) -> None:
    """Progress goes to stderr, the tables to stdout."""
    print(line, file=sys.stderr, flush=True)


def _conditions(sizes: Sizes, repeats: int) -> str:
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} cores, load {load:.1f}, {platform.platform()}, Python "
        f"{platform.python_version()}; {sizes.jpegs:,} JPEG files, {sizes.tokens:,} tokens, "
        f"{sizes.records:,} records; S3 rows: {NETWORK.first_byte_ms:.0f} ms to the first byte, "
        f"{NETWORK.bytes_per_second / 1e6:.0f} MB/s a connection; medians of {repeats} rounds"
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names: dict[str, Any] = {"nargs": "*", "metavar": "ROW", "help": f"of {', '.join(ROWS)}"}
    parser.add_argument("rows", **names)
    parser.add_argument("--rows", dest="more_rows", default=[], **names)
    parser.add_argument("--contenders", nargs="+", default=[], help="only these, by their labels")
    parser.add_argument("--quick", action="store_true", help="little data, one round: a smoke test")
    parser.add_argument("--repeats", type=int, help="rounds (default 5)")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument("--folder", type=Path, default=data_folder(), help="data (%(default)s)")
    options = parser.parse_args()
    options.rows += options.more_rows
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"unknown rows: {', '.join(unknown)}")
    if unknown := [label for label in options.contenders if label not in CONTENDERS]:
        parser.error(f"unknown contenders: {', '.join(unknown)} (of {', '.join(CONTENDERS)})")
    options.repeats = options.repeats or (1 if options.quick else 5)
    return options


if __name__ == "__main__":
    sys.exit(main())
