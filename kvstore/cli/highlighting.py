"""Colors for the text being typed, which the shell's own lexer takes apart.

Any text is accepted: half-typed or wrong text is the usual case here. Text after a mistake is marked as a
mistake up to the end of its line, and the next line begins a new statement, as it does when it is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from prompt_toolkit.document import Document
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.lexers import Lexer as PromptLexer
from prompt_toolkit.styles import Style

from kvstore.cli.commands.store_commands import COMMANDS
from kvstore.cli.language.lexer import GrammarError, Lexeme, Lexer, TextPosition

STYLE: Final = Style.from_dict(
    {
        "command": "ansigreen bold",
        "option": "ansicyan",
        "string": "ansiyellow",
        "number": "ansiblue",
        "constant": "ansimagenta",
        "comment": "ansibrightblack",
        "mistake": "ansired",
        "continuation": "ansibrightblack",
        "auto-suggestion": "ansibrightblack",
    }
)

PLAIN: Final = Style.from_dict({"auto-suggestion": "dim"})
"""The style without colors, where a suggestion must still differ from typed text."""

_NAMES: Final = {command.name for command in COMMANDS}


class Highlight(NamedTuple):
    """The style of the text from ``place`` up to the next mark."""

    place: TextPosition
    style: str


class Highlighter(PromptLexer):
    """The lexer that prompt_toolkit calls for the styles of a line."""

    def lex_document(self, document: Document) -> Callable[[int], StyleAndTextTuples]:
        lines = [_fragments(line, found) for line, found in _by_line(document.lines)]
        return lambda number: lines[number] if number < len(lines) else []


def marks(lines: list[str]) -> list[Highlight]:
    """Return the places where the style changes: each token, comment and mistake. Never raises."""
    found: list[Highlight] = []
    lexer = Lexer()
    for number, line in enumerate(lines, 1):
        mistake = _mistake(lexer, line)
        if lexer.comment is not None and lexer.comment.line == number:
            found.append(Highlight(lexer.comment, "class:comment"))
        if mistake is None and lexer.open_since is not None and number < len(lines):
            continue  # style a statement as a whole: its first token is the command
        found += [mark for mark in _token_marks(lexer) if mistake is None or mark.place < mistake]
        if mistake is not None:
            found.append(Highlight(mistake, "class:mistake"))
        lexer = Lexer(line=number)
    return sorted(found)


def _mistake(lexer: Lexer, line: str) -> TextPosition | None:
    try:
        lexer.feed(f"{line}\n")
    except GrammarError as error:
        return error.place
    return None


def _token_marks(lexer: Lexer) -> Iterator[Highlight]:
    opening = lexer.open_since
    half_typed = [opening] if opening is not None and opening.kind != "open" else []
    at_command = True
    for token in [*lexer.tokens, *half_typed]:
        yield Highlight(token.place, _style(token, at_command))
        at_command = token.kind == ";"


def _style(token: Lexeme, at_command: bool) -> str:
    if token.kind in ("string", "bytes", "uuid"):
        return "class:string"
    if token.kind != "bare":
        return ""
    if at_command:
        return "class:command" if token.text in _NAMES else ""
    if token.text.startswith("--"):
        return "class:option"
    if isinstance(token.value, str):
        return ""
    return "class:constant" if token.value is None or isinstance(token.value, bool) else "class:number"


def _by_line(lines: list[str]) -> Iterator[tuple[str, list[Highlight]]]:
    """Yield each line and its marks; the first mark has the style that the previous line ended with."""
    found = marks(lines)
    at, style = 0, ""
    for number, line in enumerate(lines, 1):
        here = [Highlight(TextPosition(number, 1), style)]
        while at < len(found) and found[at].place.line == number:
            here.append(found[at])
            at += 1
        style = here[-1].style
        yield line, here


def _fragments(line: str, found: list[Highlight]) -> StyleAndTextTuples:
    ends = [mark.place.column - 1 for mark in found[1:]] + [len(line)]
    return [(mark.style, line[mark.place.column - 1 : end]) for mark, end in zip(found, ends, strict=True)]
