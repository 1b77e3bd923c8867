"""Narration of a run: text with pauses for a reader, or JSON for a program."""

from __future__ import annotations

import json
import shutil
import textwrap
import time
from collections.abc import Sequence
from typing import Any

import click

from demo.auditor import Finding
from demo.stage import Scene, times

WIDTH_MAX = 98
LINE_S, TITLE_S = 0.8, 2.5
FINDINGS_SHOWN = 5


class Narrator:
    """Prints a run. ``fast``: no pauses; ``as_json``: one object for each scene instead of text."""

    def __init__(self, *, fast: bool = False, as_json: bool = False) -> None:
        self._pause = 0 if fast or as_json else 1
        self._as_json = as_json
        self._said: list[str] = []

    def opening(self, text: str) -> None:
        if not self._as_json:
            self._wrapped(text, "")
            self._wait(TITLE_S)

    def begin(self, number: int, of: int, scene: Scene) -> None:
        self._said = []
        if self._as_json:
            return
        click.echo()
        click.secho(f"{number}/{of}  {scene.title}  (--scene {scene.name})", bold=True)
        self._wrapped(scene.what, "  ")
        self._wait(TITLE_S)

    def say(self, text: str) -> None:
        self._said.append(text)
        if not self._as_json:
            self._wrapped(text, "    ")
            self._wait(LINE_S)

    def end(
        self,
        scene: Scene,
        proved: Sequence[str],
        findings: Sequence[Finding],
        unmet: Sequence[str],
        looks: int,
    ) -> None:
        """Print the end of a scene. If there is any ``unmet`` condition, the scene proved nothing."""
        proved = [] if findings or unmet else list(proved)
        if self._as_json:
            self._object(
                scene=scene.name, title=scene.title, said=self._said, looks=looks, proved=proved,
                unmet=list(unmet), findings=[found._asdict() for found in findings],
            )  # fmt: skip
            return
        for line in proved:
            self._wrapped(f"proved: {line}", "  ", fg="green")
        for line in unmet:
            self._wrapped(f"nothing proved: {line}", "  ", fg="yellow")
        regions = f"The auditor checked all regions {times(looks)}"
        if findings:
            things = "one thing" if len(findings) == 1 else f"{len(findings)} things"
            self._wrapped(f"{regions}, and found {things} wrong:", "  ", fg="red")
            for found in findings[:FINDINGS_SHOWN]:
                self._wrapped(f"{found.region}: {found.invariant}: {found.detail}", "    ", fg="red")
        else:
            self._wrapped(f"{regions}, and found nothing wrong.", "  ", fg="green")
        self._wait(TITLE_S)

    def close(self, verdict: str, **facts: Any) -> None:
        """Print the verdict as the last line, after the facts if the output is JSON."""
        if self._as_json:
            self._object(**facts)
        else:
            click.echo()
        click.echo(verdict)

    @staticmethod
    def _object(**facts: Any) -> None:
        click.echo(json.dumps(facts))

    @staticmethod
    def _wrapped(text: str, indent: str, fg: str | None = None) -> None:
        inner = indent + " " * (len(text) - len(text.lstrip()))
        width = min(WIDTH_MAX, shutil.get_terminal_size((WIDTH_MAX, 24)).columns)
        for line in textwrap.wrap(text.strip(), width, initial_indent=inner, subsequent_indent=inner):
            click.secho(line, fg=fg)

    def _wait(self, seconds: float) -> None:
        time.sleep(self._pause * seconds)
