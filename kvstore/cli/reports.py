"""What ``status`` and ``verify`` print: JSON-able facts as lines for people, or as JSON for programs."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterator, Mapping
from typing import Any

from kvstore.cli.printing import show, show_raw


def status_lines(status: Mapping[str, Any], *, json: bool) -> Iterator[str]:
    """One healthy/unhealthy line, then ``name: value`` for each fact; nested facts have dotted names."""
    if json:
        yield _as_json(status)
        return
    yield "healthy" if status["healthy"] else "unhealthy"
    yield from _facts({name: fact for name, fact in status.items() if name != "healthy"}, "")


def verify_lines(report: Mapping[str, Any], *, json: bool) -> Iterator[str]:
    """``ok: N records``, or each problem on a line."""
    if json:
        yield _as_json(report)
    elif report["ok"]:
        yield f"ok: {report['records']} records"
    else:
        yield from (show_raw(problem) for problem in report["problems"])


def _facts(facts: Mapping[str, Any], above: str) -> Iterator[str]:
    for name, fact in facts.items():
        if isinstance(fact, Mapping) and fact:
            yield from _facts(fact, f"{above}{name}.")
        else:
            yield f"{above}{name}: {fact if isinstance(fact, str) and fact.isprintable() else show(fact)}"


def _as_json(report: Mapping[str, Any]) -> str:
    return json_format.dumps(report, indent=2, ensure_ascii=False)
