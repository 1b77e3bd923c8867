"""The shell on a terminal: reads lines from a person, runs them as a script's, and goes on after errors.

What was typed ends where the grammar says: while a bracket or quote is open, Enter goes on to the next line.
Ctrl-C clears the line or interrupts the command that is running, Ctrl-D or ``exit`` ends the session.
"""

from __future__ import annotations

import sys

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.output import ColorDepth

import kvstore
from kvstore.cli.completion import ShellCompleter
from kvstore.cli.failures import EndOfSession, sentence
from kvstore.cli.formats import Settings
from kvstore.cli.grammar import GrammarError, Reader
from kvstore.cli.highlighting import PLAIN, STYLE, Highlighter
from kvstore.cli.history import ShellHistory, history_file
from kvstore.cli.shell import failures, say_aside, say_error

_PROMPT = "kvstore> "
_CONTINUATION = "    ...> "


def run_session(db: kvstore.Database, path: str, settings: Settings) -> int:
    """Take commands until the user has had enough; return the exit code."""
    history = ShellHistory(history_file())
    prompt = _prompt(db, history, settings)
    say_aside(f"kvstore {kvstore.__version__} on {path}; help lists the commands, Ctrl-D ends")
    told = False
    while True:
        try:
            if history.trouble is not None and not told:
                say_aside(f"the history ends with this session: {sentence(history.trouble)}")
                told = True
            run_text(db, prompt.prompt(), settings)
        except KeyboardInterrupt:
            continue
        except (EOFError, EndOfSession):
            return 0


def run_text(db: kvstore.Database, text: str, settings: Settings) -> None:
    """Run the lines of a text, each of them whatever became of those before it.

    Raises:
        EndOfSession: one of them was ``exit``.
    """
    lines = text.split("\n")
    try:
        for failure in failures(db, [f"{line}\n" for line in lines], settings):
            place = f"line {failure.line}: " if len(lines) > 1 else ""
            say_error(place + sentence(failure.error), color=settings.color)
    except KeyboardInterrupt:
        say_aside("interrupted")
    sys.stdout.flush()


def is_open(text: str) -> bool:
    """Whether a bracket or quote is open at the end of the text, so that there is more to come."""
    reader = Reader()
    for line in text.split("\n"):
        try:
            reader.feed(f"{line}\n")
        except GrammarError:
            continue  # its line is lost; the next one begins afresh
    try:
        reader.end()
    except GrammarError:
        return True
    return False


def _prompt(db: kvstore.Database, history: ShellHistory, settings: Settings) -> PromptSession[str]:
    return PromptSession(
        _PROMPT,
        multiline=Condition(lambda: is_open(get_app().current_buffer.text)),
        prompt_continuation=_continuation,
        history=history,
        auto_suggest=AutoSuggestFromHistory(),
        enable_history_search=True,
        completer=ShellCompleter(db),
        complete_in_thread=True,
        complete_while_typing=False,
        lexer=Highlighter() if settings.color else None,
        style=STYLE if settings.color else PLAIN,
        include_default_pygments_style=False,
        color_depth=ColorDepth.DEPTH_4_BIT if settings.color else ColorDepth.DEPTH_1_BIT,
    )


def _continuation(width: int, _line: int, _is_wrapped: int) -> StyleAndTextTuples:
    return [("class:continuation", _CONTINUATION[-width:])]
