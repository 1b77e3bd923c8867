"""What can go wrong on the command line, and the exit code that says so.

0   done
1   a command failed: no value at the key, a malformed CSV line, damage found
2   what was typed cannot be right: grammar, an unknown command or option, no key, no value
3   nothing was decided, and the same may succeed later (``kvstore.RetryLater``)
4   the store cannot be opened
130 interrupted; 141 whoever read the output went away
"""

from __future__ import annotations

from typing import Final

import kvstore
from kvstore.cli.language.grammar import GrammarError
from kvstore.cli.language.integers import Unprintable

FAILED: Final = 1
MISUSED: Final = 2
RETRY_LATER: Final = 3
CANNOT_OPEN: Final = 4
INTERRUPTED: Final = 130
OUTPUT_CLOSED: Final = 141

_MISUSE_BY_TYPE: Final = (kvstore.KeyInvalid, kvstore.ValueNotSupported, kvstore.LimitExceeded)
"""Errors of the store that depend on nothing but what was typed."""


class CommandFailed(Exception):
    """A command could not do what it was asked."""


class Misuse(Exception):
    """A command was written wrongly; nothing happened."""


class CannotOpen(Exception):
    """The store at the given path could not be opened."""


class EndOfSession(Exception):
    """The user has had enough: nothing went wrong."""


EXPECTED: Final = (kvstore.Error, CommandFailed, Misuse, CannotOpen, GrammarError, OSError, Unprintable)
"""Errors that are told in a sentence. Any other is a fault of this program and shows where."""


def exit_code(error: Exception) -> int:
    """The exit code that stands for this error."""
    match error:
        case CannotOpen():
            return CANNOT_OPEN
        case kvstore.RetryLater():
            return RETRY_LATER
        case Misuse() | GrammarError():
            return MISUSED
        case _:
            return MISUSED if isinstance(error, _MISUSE_BY_TYPE) else FAILED


def sentence(error: Exception) -> str:
    """What to tell the user about it: never empty, on one line."""
    message = str(error)
    if isinstance(error, OSError) and not isinstance(error, kvstore.Error) and error.filename:
        message = f"{error.filename}: {error.strerror}"
    return " ".join(message.splitlines()) or type(error).__name__
