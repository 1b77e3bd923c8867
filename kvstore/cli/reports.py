"""What ``status`` and ``verify`` print: a sentence for people first, unless a format is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kvstore.cli.formats import Settings, fact_lines
from kvstore.cli.printing import show_raw


def status_lines(status: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """One healthy/unhealthy line, then the other facts."""
    if settings.format is not None:
        yield from fact_lines(status, settings)
        return
    yield "healthy" if status["healthy"] else "unhealthy"
    yield from fact_lines({name: fact for name, fact in status.items() if name != "healthy"}, settings)


def verify_lines(report: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """``ok: N records``, or each problem on a line."""
    if settings.format is not None:
        yield from fact_lines(report, settings)
    elif report["ok"]:
        yield f"ok: {report['records']} records"
    else:
        yield from (show_raw(problem) for problem in report["problems"])
