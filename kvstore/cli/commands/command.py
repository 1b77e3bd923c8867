"""What a command is, and how what was typed is fitted to it.

A ``Command`` is one verb with two faces: a line of the shell and arguments of the program. Both come down to
a ``Invocation``, so that a verb is written, checked and explained once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

import kvstore
from kvstore.cli.commands.session import Session
from kvstore.cli.failures import Misuse
from kvstore.cli.formats.tables import FORMATS, Settings
from kvstore.cli.language.grammar import Option, Statement, Term
from kvstore.cli.language.printing import show

ArgumentKind: TypeAlias = Literal["key", "value", "number", "text", "region", "flag"]
"""What a term is for. On the program's command line a "text" (a path, a name) is never read as a term."""

_NAME_CHARS_MAX: Final = 40
"""Of a mistyped name, what is compared with the right ones."""
_PLURALS: Final = {"KEY": "keys", "VALUE": "values", "PREFIX": "prefixes", "N": "numbers", "NAME": "names"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A term that a command takes by its position, or ``--name`` and what follows it."""

    name: str
    kind: ArgumentKind
    about: str = ""
    required: bool = True
    choices: tuple[str, ...] = ()
    """What a text has to be one of, if it is not free."""

    def fit(self, term: Term) -> Any:
        """The term's value, if it is of this kind.

        Raises:
            Misuse: it is not; the message says what to write instead.
        """
        match self.kind:
            case "key":
                return as_key(term)
            case "number":
                return self._as_number(term)
            case "text" | "region":
                return self._as_text(term)
            case "value" | "flag":
                return term.value

    def _as_number(self, term: Term) -> int | float:
        if type(term.value) not in (int, float):
            raise Misuse(f"{self.name} is a number, not {show(term.value)}")
        number: int | float = term.value
        return number

    def _as_text(self, term: Term) -> str:
        """What was typed, if it was typed without brackets."""
        text = term.value if term.text is None else term.text
        if not isinstance(text, str):
            raise Misuse(f"{self.name} is text, not {show(text)}")
        if self.choices and text not in self.choices:
            choices = ", ".join(self.choices)
            raise Misuse(
                f"{self.name} is one of {choices}, not {show(text)}{did_you_mean(text, self.choices)}"
            )
        return text


FORMAT: Final = Parameter("format", "text", f"one of {', '.join(FORMATS)}", choices=FORMATS)

Given: TypeAlias = dict[str, Any]
"""Values by the names of the parameters; what was not given is missing."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One command about to run: what it was given, and where its words go."""

    session: Session
    given: Given
    out: Callable[[str], None]
    """Takes a line of the result."""
    note: Callable[[str], None]
    """Takes a remark that is not the result."""
    flush: Callable[[], object] = lambda: None
    """Lets what was written so far be seen, where that is long before the end."""

    @property
    def db(self) -> kvstore.Database:
        """The store, as it is committed."""
        return self.session.db

    @property
    def records(self) -> kvstore.Database | kvstore.Transaction:
        """What a command reads and writes: the open transaction, or the store."""
        return self.session.records

    @property
    def settings(self) -> Settings:
        """Those of the session; a command that changes them changes them for the commands that follow."""
        return self.session.settings

    def out_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.out(line)

    @property
    def region(self) -> kvstore.Region:
        """The region the session stands in."""
        return self.session.region

    def limit(self) -> int | None:
        """The limit that was given, if one was."""
        limit: int | float | None = self.given.get("limit")
        if isinstance(limit, float):
            raise Misuse(f"limit is a whole number, not {show(limit)}")
        return limit

    def style(self) -> Settings:
        """The session's settings with the format that this command asks for."""
        asked = [name for name in ("raw", "json") if name in self.given]
        asked += [self.given["format"]] if "format" in self.given else []
        if len(asked) > 1:
            raise Misuse(f"--{asked[0]} is a format already: leave out --format")
        return replace(self.settings, format=asked[0]) if asked else self.settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One verb: what it takes, what it does, and how to explain it."""

    name: str
    about: str
    example: str
    run: Callable[[Invocation], None]
    terms: tuple[Parameter, ...] = ()
    options: tuple[Parameter, ...] = ()
    writes: bool = False
    creates: bool = True
    """Whether a command that writes makes a store that is missing."""
    shell_only: bool = False
    in_transaction: Literal["takes part", "beside", "refused"] = "beside"
    """What it does while a transaction is open. Beside it, it sees what is committed."""
    of_regions: bool = False
    """Whether it works in a shell of a world of regions only."""
    tells_time: bool = False
    """Whether it says itself how long it took."""
    usage: str = field(init=False)

    def __post_init__(self) -> None:
        terms = [term.name if term.required else f"[{term.name}]" for term in self.terms]
        options = [
            f"[--{o.name}]" if o.kind == "flag" else f"[--{o.name} {_term_of(o)}]" for o in self.options
        ]
        object.__setattr__(self, "usage", " ".join([self.name, *terms, *options]))

    def fit_terms(self, terms: Sequence[Term]) -> Given:
        """Give the terms their names.

        Raises:
            Misuse: too few or too many, or one is not of its kind.
        """
        if len(terms) > len(self.terms):
            raise Misuse(self._too_many(len(terms)))
        missing = [term.name for term in self.terms[len(terms) :] if term.required]
        if missing:
            raise Misuse(f"{missing[0]} is missing: {self.usage}")
        return {
            parameter.name: parameter.fit(term) for parameter, term in zip(self.terms, terms, strict=False)
        }

    def _too_many(self, count: int) -> str:
        if not self.terms:
            return f"{self.name} takes no terms: {self.usage}"
        last = self.terms[-1].name
        surplus = count - len(self.terms) + 1
        return f"{surplus} {_PLURALS.get(last, last)}: quote them"

    def fit(self, statement: Statement) -> Given:
        """Give a statement's terms and options their names. A flag takes no term; other options take one.

        Raises:
            Misuse: they do not fit.
        """
        terms: list[Term] = []
        options: Given = {}
        items = iter(statement.items)
        for item in items:
            if isinstance(item, Term):
                terms.append(item)
            elif item.name in options:
                raise Misuse(f"--{item.name} is there twice")
            else:
                options[item.name] = self._option_value(self.option(item.name), items)
        return self.fit_terms(terms) | options

    def _option_value(self, option: Parameter, items: Iterator[Term | Option]) -> Any:
        if option.kind == "flag":
            return True
        term = next(items, None)
        if not isinstance(term, Term):
            raise Misuse(f"--{option.name} takes a value: {self.usage}")
        return option.fit(term)

    def option(self, name: str) -> Parameter:
        """The option of this name.

        Raises:
            Misuse: there is none.
        """
        for option in self.options:
            if option.name == name:
                return option
        similar = did_you_mean(name, [option.name for option in self.options], "--")
        advice = similar or f"; to make it text, quote it: {self.usage}"
        raise Misuse(f"{self.name} has no option --{name}{advice}")


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


def did_you_mean(name: str, names: Sequence[str], before: str = "") -> str:
    """``; did you mean scan?``, or nothing if no name is similar."""
    similar = difflib.get_close_matches(name[:_NAME_CHARS_MAX], names, n=1)
    return f"; did you mean {before}{similar[0]}?" if similar else ""


def _term_of(option: Parameter) -> str:
    return {"number": "N", "text": "NAME", "value": "VALUE", "region": "REGION"}.get(option.kind, "KEY")
