"""Prints the table of faults at the end: what each did to each way of reading and writing."""

from __future__ import annotations

import pytest

_MARKS = (("passed", ""), ("failed", "FAILED: "), ("error", "FAILED: "))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what came of every fault, where it passes and where it stays."""
    found: dict[tuple[int, str], dict[str, str]] = {}
    for status, mark in _MARKS:
        for report in terminalreporter.getreports(status):
            for name, value in getattr(report, "user_properties", ()):
                if name == "fault":
                    number, fault, way, outcome = value
                    found.setdefault((number, fault), {})[way] = f"{mark}{outcome}"
    if not found:
        return
    cells = {fault: found[number, fault] for number, fault in sorted(found)}
    ways = ("stream", "random access", "raw", "upload")
    widths = [
        max(len(way), *(len(row.get(way, "-")) for row in cells.values())) + 2 for way in ways
    ]
    first = max(map(len, cells)) + 2
    terminalreporter.section("faults: while it passes; while it stays ('-': cannot happen there)")
    header = "".join(way.ljust(width) for way, width in zip(ways, widths, strict=True))
    terminalreporter.write_line(" " * first + header.rstrip())
    for fault, row in cells.items():
        line = "".join(
            row.get(way, "-").ljust(width) for way, width in zip(ways, widths, strict=True)
        )
        terminalreporter.write_line(fault.ljust(first) + line.rstrip())
