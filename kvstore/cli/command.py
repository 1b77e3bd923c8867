"""What a command is, and how what was typed is fitted to it.

A ``Command`` is one verb with two faces: a line of the shell and arguments of the program. Both come down to
a ``Call``, so that a verb is written, checked and explained once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import kvstore
from kvstore.cli.failures import Misuse
from kvstore.cli.grammar import Option, Statement, Term
from kvstore.cli.printing import show

Kind: TypeAlias = Literal["key", "value", "number", "text", "flag"]
"""What a term is for. On the program's command line a "text" (a path, a name) is never read as a term."""

_PLURALS: Final = {"KEY": "keys", "VALUE": "values", "PREFIX": "prefixes", "N": "numbers"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A term that a command takes by its position, or ``--name`` and what follows it."""

    name: str
    kind: Kind
    about: str = ""
    required: bool = True


@dataclass(slots=True)
class Call:
    """One command about to run: its terms by name (absent ones are missing) and where its words go."""

    db: kvstore.Database
    given: Mapping[str, Term]
    out: Callable[[str], None]
    """Takes a line of the result."""
    note: Callable[[str], None]
    """Takes a remark that is not the result."""

    def __contains__(self, name: str) -> bool:
        return name in self.given

    def key(self, name: str) -> Any:
        """The term as a key; None if it was not given.

        Raises:
            Misuse: it cannot be a key, and what to write instead.
        """
        return as_key(self.given[name]) if name in self.given else None

    def value(self, name: str) -> Any:
        return self.given[name].value

    def number(self, name: str, default: Any = None) -> Any:
        """The term as an int or float.

        Raises:
            Misuse: it is something else.
        """
        if name not in self.given:
            return default
        value = self.given[name].value
        if type(value) not in (int, float):
            raise Misuse(f"{name} is a number, not {show(value)}")
        return value

    def text(self, name: str) -> str:
        """The term as it was typed, if it was typed without brackets."""
        term = self.given[name]
        if term.text is not None:
            return term.text
        if not isinstance(term.value, str):
            raise Misuse(f"{name} is text, not {show(term.value)}")
        return term.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One verb: what it takes, what it does, and how to explain it."""

    name: str
    about: str
    example: str
    run: Callable[[Call], None]
    terms: tuple[Parameter, ...] = ()
    options: tuple[Parameter, ...] = ()
    writes: bool = False
    shell_only: bool = False
    usage: str = field(init=False)

    def __post_init__(self) -> None:
        terms = [term.name if term.required else f"[{term.name}]" for term in self.terms]
        options = [
            f"[--{o.name}]" if o.kind == "flag" else f"[--{o.name} {_term_of(o)}]" for o in self.options
        ]
        object.__setattr__(self, "usage", " ".join([self.name, *terms, *options]))

    def fit_terms(self, terms: Sequence[Term]) -> dict[str, Term]:
        """Give the terms their names.

        Raises:
            Misuse: too few or too many.
        """
        if len(terms) > len(self.terms):
            raise Misuse(self._too_many(len(terms)))
        missing = [term.name for term in self.terms[len(terms) :] if term.required]
        if missing:
            raise Misuse(f"{missing[0]} is missing: {self.usage}")
        return {parameter.name: term for parameter, term in zip(self.terms, terms, strict=False)}

    def _too_many(self, count: int) -> str:
        if not self.terms:
            return f"{self.name} takes no terms: {self.usage}"
        last = self.terms[-1].name
        surplus = count - len(self.terms) + 1
        return f"{surplus} {_PLURALS.get(last, last)}: quote them"

    def fit(self, statement: Statement) -> dict[str, Term]:
        """Give a statement's terms and options their names. A flag takes no term; other options take one."""
        terms: list[Term] = []
        given: dict[str, Term] = {}
        waiting: Option | None = None
        for item in statement.items:
            if isinstance(item, Term):
                if waiting is None:
                    terms.append(item)
                else:
                    given[waiting.name] = item
                    waiting = None
                continue
            if waiting is not None:
                raise Misuse(f"--{waiting.name} takes a value: {self.usage}")
            if item.name in given:
                raise Misuse(f"--{item.name} is there twice")
            if self.option(item.name).kind == "flag":
                given[item.name] = Term(True, None, item.place)
            else:
                waiting = item
        if waiting is not None:
            raise Misuse(f"--{waiting.name} takes a value: {self.usage}")
        return self.fit_terms(terms) | given

    def option(self, name: str) -> Parameter:
        """The option of this name.

        Raises:
            Misuse: there is none.
        """
        for option in self.options:
            if option.name == name:
                return option
        raise Misuse(f"{self.name} has no option --{name}; to make it text, quote it: {self.usage}")


def as_key(term: Term) -> Any:
    """Return the term's value as a key.

    Raises:
        Misuse: a bare number, or something else that is no key, and what to write instead.
    """
    value = term.value
    if isinstance(value, str | bytes | tuple):
        return value
    if isinstance(value, list | dict):
        raise Misuse('a key is a string, b"..." or a tuple such as ("a", 1)')
    if isinstance(value, UUID):
        raise Misuse(f"write ({show(value)},)")
    text = term.text if term.text is not None else show(value)
    raise Misuse(f"write ({text},) or {show(text)}")


def _term_of(option: Parameter) -> str:
    return {"number": "N", "text": "TEXT"}.get(option.kind, "KEY")
