"""The output of ``status`` and ``verify``, which begins with a sentence unless a format is given; routes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import kvstore
from kvstore.cli.formats.tables import Settings, fact_lines
from kvstore.cli.language.printing import counted, show_raw


def status_lines(status: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """Yield ``healthy`` or ``unhealthy``, then the other facts."""
    if settings.format is not None:
        yield from fact_lines(status, settings)
        return
    yield "healthy" if status["healthy"] else "unhealthy"
    yield from fact_lines({name: fact for name, fact in status.items() if name != "healthy"}, settings)


def verify_lines(report: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """Yield ``ok: N records``, or each problem on a line."""
    if settings.format is not None:
        yield from fact_lines(report, settings)
    elif report["ok"]:
        yield f"ok: {report['records']} records"
    else:
        yield from (show_raw(problem) for problem in report["problems"])


def route_line(route: kvstore.Route, seconds: float) -> str:
    """Return ``independent, 3 shards, 1 round, 0.4 ms``; if nothing was sent, the shards are left out."""
    shards = [counted(len(route.shards), "shard")] if route.rounds else []
    return ", ".join([route.path, *shards, counted(route.rounds, "round"), time_text(seconds)])


def time_text(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
