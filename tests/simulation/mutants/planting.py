"""How a bug is planted: a piece of a function's text becomes another, as an author might have written it.

The function is made anew from the changed text, in its own module, and put in the place of the real one. A
mutant whose text is not there any more cannot be planted, which says so: it is to be written anew.
"""

from __future__ import annotations

import inspect
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple
from unittest import mock

Owner = ModuleType | type


class Change(NamedTuple):
    """In this function of a module or a class, ``new`` stands in the place of ``old``."""

    owner: Owner
    function: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A bug of the protocol that somebody could make."""

    name: str
    breaks: str
    """What the code does then, in a sentence."""
    profile: str
    """What has to go wrong in the world for it to show."""
    changes: tuple[Change, ...]


def mutant(name: str, breaks: str, profile: str, *changes: Change) -> Mutant:
    return Mutant(name, breaks, profile, changes)


@contextmanager
def planted(bug: Mutant) -> Iterator[None]:
    """Within it the code has this bug."""
    texts: defaultdict[tuple[Owner, str], list[Change]] = defaultdict(list)
    for change in bug.changes:
        texts[change.owner, change.function].append(change)
    with ExitStack() as stack:
        for (owner, function), changes in texts.items():
            stack.enter_context(mock.patch.object(owner, function, _changed(owner, function, changes)))
        yield


def _changed(owner: Owner, function: str, changes: list[Change]) -> Callable[..., Any]:
    text = textwrap.dedent(inspect.getsource(getattr(owner, function)))
    for change in changes:
        found = text.count(change.old)
        assert found == 1, f"{owner.__name__}.{function} has {found} times: {change.old}"
        text = text.replace(change.old, change.new)
    compiled = compile(text, f"<{owner.__name__}.{function}, changed>", "exec")
    code = next(made for made in compiled.co_consts if isinstance(made, CodeType))
    real = getattr(owner, function)
    changed = FunctionType(code, real.__globals__, function, real.__defaults__)
    changed.__kwdefaults__ = real.__kwdefaults__
    is_static = isinstance(inspect.getattr_static(owner, function), staticmethod)
    return staticmethod(changed) if is_static else changed
