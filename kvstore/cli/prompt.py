"""The shell on a terminal: reads lines from the user, runs them like a script, and continues after errors.

While a bracket or quote is open, Enter continues on the next line. Ctrl-C clears the line or interrupts the
command that is running, Ctrl-D or ``exit`` ends the session.
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
from kvstore.cli.commands.session import Session
from kvstore.cli.completion import ShellCompleter
from kvstore.cli.failures import EndOfSession, sentence
from kvstore.cli.formats.streams import say_aside, say_error
from kvstore.cli.highlighting import PLAIN, STYLE, Highlighter
from kvstore.cli.history import ShellHistory, history_file
from kvstore.cli.language.grammar import GrammarError, StatementReader
from kvstore.cli.shell import failures

_CONTINUATION = "...> "


def run_session(session: Session, path: str) -> int:
    """Run commands until the user ends the session; return the exit code."""
    history = ShellHistory(history_file())
    prompt = _prompt(session, history)
    say_aside(f"kvstore {kvstore.__version__} on {path}; help lists the commands, Ctrl-D ends")
    told = False
    while True:
        try:
            if history.trouble is not None and not told:
                say_aside(f"the history ends with this session: {sentence(history.trouble)}")
                told = True
            run_text(session, prompt.prompt())
        except KeyboardInterrupt:
            continue
        except (EOFError, EndOfSession):
            break
    if lost := session.close():
        say_aside(lost)
    return 0


def run_text(session: Session, text: str) -> None:
    """Run the lines of a text; after a failure, continue with the next line unless a transaction is open.

    Raises:
        EndOfSession: a command was ``exit``.
    """
    lines = text.split("\n")
    coming = (f"{line}\n" for line in lines)
    try:
        for failure in failures(session, coming):
            place = f"line {failure.line}: " if len(lines) > 1 else ""
            say_error(place + sentence(failure.error), color=session.settings.color)
            if session.transaction is not None:
                if failure.has_more or any(line.strip() for line in coming):
                    say_aside("the rest was not run: the transaction is open")
                break
    except KeyboardInterrupt:
        say_aside("interrupted")
    sys.stdout.flush()


def is_open(text: str) -> bool:
    """Return whether a bracket or quote is open at the end of the text, so that it continues."""
    reader = StatementReader()
    for line in text.split("\n"):
        try:
            reader.feed(f"{line}\n")
        except GrammarError:
            continue  # the line is refused; the next one begins a new statement
    try:
        reader.end()
    except GrammarError:
        return True
    return False


def prompt_text(session: Session) -> str:
    """Return ``kvstore> ``, or with two writes pending in an open transaction ``kvstore*2> ``.

    In a region the prompt is ``kvstore eu> `` or ``kvstore eu*2> ``.
    """
    name = "kvstore" if session.world is None else f"kvstore {session.region.name}"
    return f"{name}> " if session.transaction is None else f"{name}*{session.pending}> "


def _prompt(session: Session, history: ShellHistory) -> PromptSession[str]:
    is_colored = session.settings.color
    return PromptSession(
        lambda: prompt_text(session),
        multiline=Condition(lambda: is_open(get_app().current_buffer.text)),
        prompt_continuation=_continuation,
        history=history,
        auto_suggest=AutoSuggestFromHistory(),
        enable_history_search=True,
        completer=ShellCompleter(session),
        complete_in_thread=True,
        complete_while_typing=False,
        lexer=Highlighter() if is_colored else None,
        style=STYLE if is_colored else PLAIN,
        include_default_pygments_style=False,
        color_depth=ColorDepth.DEPTH_4_BIT if is_colored else ColorDepth.DEPTH_1_BIT,
    )


def _continuation(width: int, _line: int, _is_wrapped: int) -> StyleAndTextTuples:
    return [("class:continuation", _CONTINUATION.rjust(width))]
