"""The definition of a command, and the fitting of typed terms and options to it.

A ``Command`` is a verb with two forms: a line of the shell and arguments of the program. Both become an
``Invocation``, so that a verb is written, checked and explained once.
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
"""The use of a term. On the program's command line a "text" (a path, a name) is never parsed as a term."""

_NAME_CHARS_MAX: Final = 40
"""The longest part of a mistyped name that is compared for a suggestion."""
_PLURALS: Final = {"KEY": "keys", "VALUE": "values", "PREFIX": "prefixes", "N": "numbers", "NAME": "names"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A term that a command takes by position, or an option ``--name`` with its term."""

    name: str
    kind: ArgumentKind
    about: str = ""
    required: bool = True
    choices: tuple[str, ...] = ()
    """The texts that are allowed; empty if any text is."""

    def fit(self, term: Term) -> Any:
        """Return the term's value.

        Raises:
            Misuse: the term is not of this kind; the message says what to write instead.
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
        """Return the source of a bare word, or the value of a string."""
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
"""Values by parameter name, without the parameters that were not given."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """A command about to run: its arguments, and where its output goes."""

    session: Session
    given: Given
    out: Callable[[str], None]
    """The function that prints a line of the result."""
    note: Callable[[str], None]
    """The function that prints a remark, which is not part of the result."""
    flush: Callable[[], object] = lambda: None
    """The function that flushes the result so far, for commands that run on."""

    @property
    def db(self) -> kvstore.Database:
        """The store, with committed data only."""
        return self.session.db

    @property
    def records(self) -> kvstore.Database | kvstore.Transaction:
        """The object that a command reads and writes: the open transaction, or the store."""
        return self.session.records

    @property
    def settings(self) -> Settings:
        """The settings of the session; a change holds for the commands that follow."""
        return self.session.settings

    def out_all(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.out(line)

    @property
    def region(self) -> kvstore.Region:
        """The current region of the session."""
        return self.session.region

    def limit(self) -> int | None:
        """Return the ``--limit``, or None."""
        limit: int | float | None = self.given.get("limit")
        if isinstance(limit, float):
            raise Misuse(f"limit is a whole number, not {show(limit)}")
        return limit

    def style(self) -> Settings:
        """Return the session's settings with the format that this command asks for."""
        asked = [name for name in ("raw", "json") if name in self.given]
        asked += [self.given["format"]] if "format" in self.given else []
        if len(asked) > 1:
            raise Misuse(f"--{asked[0]} is a format already: leave out --format")
        return replace(self.settings, format=asked[0]) if asked else self.settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A verb: its parameters, its function, and its help."""

    name: str
    about: str
    example: str
    run: Callable[[Invocation], None]
    terms: tuple[Parameter, ...] = ()
    options: tuple[Parameter, ...] = ()
    writes: bool = False
    creates: bool = True
    """Whether the command, if it writes, creates a missing store."""
    shell_only: bool = False
    in_transaction: Literal["takes part", "beside", "refused"] = "beside"
    """The effect of an open transaction: a command beside it sees committed data only."""
    of_regions: bool = False
    """Whether the command works only in a shell that was started with ``--geo``."""
    tells_time: bool = False
    """Whether the command itself prints how long it took."""
    usage: str = field(init=False)

    def __post_init__(self) -> None:
        terms = [term.name if term.required else f"[{term.name}]" for term in self.terms]
        options = [
            f"[--{o.name}]" if o.kind == "flag" else f"[--{o.name} {_term_of(o)}]" for o in self.options
        ]
        object.__setattr__(self, "usage", " ".join([self.name, *terms, *options]))

    def fit_terms(self, terms: Sequence[Term]) -> Given:
        """Return the terms by parameter name.

        Raises:
            Misuse: there are too few or too many terms, or a term is of the wrong kind.
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
        """Return a statement's terms and options by name. A flag takes no term; other options take one.

        Raises:
            Misuse: the terms or options do not fit the command.
        """
        terms: list[Term] = []
        options: Given = {}
        items = iter(statement.items)
        for item in items:
            if isinstance(item, Term):
                terms.append(item)
            elif item.name in options:
                raise Misuse(f"--{item.name} is given twice")
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
        """Return the option of this name.

        Raises:
            Misuse: the command has no such option.
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
        Misuse: the term is not a key; the message says what to write instead.
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
    """Return ``; did you mean scan?``, or "" if no name is similar."""
    similar = difflib.get_close_matches(name[:_NAME_CHARS_MAX], names, n=1)
    return f"; did you mean {before}{similar[0]}?" if similar else ""


def _term_of(option: Parameter) -> str:
    return {"number": "N", "text": "NAME", "value": "VALUE", "region": "REGION"}.get(option.kind, "KEY")
