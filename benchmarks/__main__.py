"""``python -m benchmarks [--quick] [--json FILE] [--folder FOLDER]``: run all and print the tables."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import regions, transactions
from benchmarks.measuring import Results, measure
from benchmarks.workloads import COMPARISONS, FULL, QUICK, VALUE_BYTES, Scale, workloads

HEADER = ("operations a second", "kvstore", "floor", "sqlite3", "of the floor", "aim", "of sqlite3")


def main() -> None:
    options = _options()
    scale = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory(prefix="kvstore-benchmarks-", dir=options.folder) as folder:
        results = measure(Path(folder), scale, _report)
        amounts = transactions.QUICK if options.quick else transactions.FULL
        of_transactions = transactions.lines(Path(folder), amounts, _report)
        of_regions = regions.lines(Path(folder), regions.QUICK if options.quick else regions.FULL, _report)
    _report("")
    for line in [*machine().values(), "", *table(results, scale), "", *comparisons(results)]:
        print(line)
    print()
    for line in [*aligned(of_transactions), "", *aligned(of_regions)]:
        print(line)
    if options.json:
        found = as_json(results, scale) | {"transactions": of_transactions, "regions": of_regions}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few operations: only checks that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers of every round to FILE")
    parser.add_argument("--folder", type=Path, help="where to create the stores; on a disk, not in memory")
    return parser.parse_args()


def _report(text: str) -> None:
    """Show the current step on a terminal, in one line that each call overwrites."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def machine() -> dict[str, str]:
    """Return the machine, the libraries and the sizes of the measurement, as text."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("lmdb", "msgpack", "msgspec"))
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": f"Python {platform.python_version()}, {libraries}, SQLite {sqlite3.sqlite_version}",
        "values": f"values of {VALUE_BYTES} bytes, 4 shards, 1 replica",
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    named = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def table(results: Results, scale: Scale) -> list[str]:
    """Return the lines of the table: medians of the rounds, in aligned columns."""
    rows = [HEADER]
    for workload in workloads(scale):
        rates = [results.rate(workload.name, peer) for peer in HEADER[1:4]]
        ratios = [results.ratio(workload.name, peer) for peer in ("floor", "sqlite3")]
        aim = "" if workload.aim is None else f">= {workload.aim:.2f}"
        shown = ["" if rate is None else f"{rate:,.0f}" for rate in rates]
        of_floor, of_sqlite = ("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        rows.append((workload.name, *shown, of_floor, aim, of_sqlite))  # type: ignore[arg-type]
    return aligned(rows)


def comparisons(results: Results) -> list[str]:
    """Return the lines that compare workloads of the store with each other."""
    rows = [
        (comparison.name, f"{results.compared(comparison):.2f}", f">= {comparison.aim:.2f}")
        for comparison in COMPARISONS
    ]
    return aligned([("kvstore against itself", "ratio", "aim"), *rows])


def aligned(rows: list[Any]) -> list[str]:
    """Return the rows as lines: the first column left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def as_json(results: Results, scale: Scale) -> dict[str, Any]:
    """Return all measurements, and the aims, for the JSON file."""
    return {
        **machine(),
        "rounds": scale.rounds,
        "rates": results.rates,
        "aims": {workload.name: workload.aim for workload in workloads(scale) if workload.aim},
        "comparisons": {
            comparison.name: {"ratio": results.compared(comparison), "aim": comparison.aim}
            for comparison in COMPARISONS
        },
    }


if __name__ == "__main__":
    main()
