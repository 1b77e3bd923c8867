"""Errors of the command line, and their exit codes.

0   done
1   a command failed: no value at the key, a malformed CSV line, damage found
2   the input is wrong: grammar, an unknown command or option, an invalid key or value
3   nothing was decided, and the command may succeed later (``kvstore.RetryLater``)
4   the store cannot be opened
130 interrupted; 141 the reader of the output closed it
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
"""Errors of the store that depend only on the input."""


class CommandFailed(Exception):
    """A command could not be carried out."""


class Misuse(Exception):
    """A command was written wrongly; nothing happened."""


class CannotOpen(Exception):
    """The store at the given path could not be opened."""


class EndOfSession(Exception):
    """The user ended the session; this is no failure."""


EXPECTED: Final = (kvstore.Error, CommandFailed, Misuse, CannotOpen, GrammarError, OSError, Unprintable)
"""Errors that are printed as a sentence. Any other error is a bug and prints a traceback."""


def exit_code(error: Exception) -> int:
    """Return the exit code for this error."""
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
    """Return the message for the user, which is one line and never empty."""
    message = str(error)
    if isinstance(error, OSError) and not isinstance(error, kvstore.Error) and error.filename:
        message = f"{error.filename}: {error.strerror}"
    return " ".join(message.splitlines()) or type(error).__name__
