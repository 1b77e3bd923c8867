"""The verbs that manage a transaction. Verbs that read and write in it are in ``store_commands.py``."""

from __future__ import annotations

import time
from typing import Final

from kvstore.cli.commands.command import FORMAT, Command, Invocation, Parameter, did_you_mean
from kvstore.cli.commands.reports import route_line
from kvstore.cli.failures import Misuse
from kvstore.cli.formats.tables import ABSENT, row_lines
from kvstore.cli.language.printing import counted, show


def begin(call: Invocation) -> None:
    call.session.begin()


def commit(call: Invocation) -> None:
    began = time.monotonic()
    try:
        route = call.session.commit()
    except KeyboardInterrupt:
        call.note("interrupted during the commit: check whether it took effect")
        raise
    call.note(route_line(route, time.monotonic() - began))


def rollback(call: Invocation) -> None:
    if "to" not in call.given:
        call.note(f"rolled back: {counted(call.session.rollback(), 'write')} undone")
        return
    name = call.given["to"]
    _rollback_to(call, name)
    call.note(f"rolled back to {name}: {counted(call.session.pending, 'write')} pending")


def _rollback_to(call: Invocation, name: str) -> None:
    """Undo the writes after the savepoint, which is kept; remove later savepoints."""
    call.session.opened()
    savepoints = call.session.savepoints
    if name not in savepoints:
        raise Misuse(f"no savepoint {show(name[:40])}{did_you_mean(name, list(savepoints))}")
    savepoints[name].rollback()
    while next(reversed(savepoints)) != name:
        savepoints.popitem()


def savepoint(call: Invocation) -> None:
    name = call.given["NAME"]
    made = call.session.opened().savepoint()
    call.session.savepoints.pop(name, None)  # a name in use moves to this place
    call.session.savepoints[name] = made


def diff(call: Invocation) -> None:
    changes = call.session.opened().changes(missing=ABSENT)
    if not changes:
        call.note("no writes are pending")
    call.out_all(row_lines(("key", "before", "after"), changes, call.style()))


TRANSACTION_COMMANDS: Final = (
    Command(
        name="begin",
        about="Open a transaction: the commands that follow are part of it, until commit or rollback.",
        example='begin; add ("acct", "eu", 1) -30; add ("acct", "us", 7) 30; commit',
        run=begin,
        shell_only=True,
    ),
    Command(
        name="commit",
        about="Commit the open transaction, and print its route and how long it took.",
        example="begin; put hits 0; commit",
        run=commit,
        tells_time=True,
        shell_only=True,
    ),
    Command(
        name="rollback",
        about="Roll back the open transaction, or only the writes after a savepoint.",
        example="begin; savepoint before; put hits 0; rollback --to before; rollback",
        run=rollback,
        options=(Parameter("to", "text", "the name of a savepoint; the transaction stays open"),),
        in_transaction="takes part",
        shell_only=True,
    ),
    Command(
        name="savepoint",
        about="Name a place in the open transaction, for rollback --to.",
        example="begin; savepoint before; put hits 0; rollback --to before; commit",
        run=savepoint,
        terms=(Parameter("NAME", "text"),),
        in_transaction="takes part",
        shell_only=True,
    ),
    Command(
        name="diff",
        about="Print what the open transaction would change: each key, before and after.",
        example="begin; add hits; diff; rollback",
        run=diff,
        options=(FORMAT,),
        in_transaction="takes part",
        shell_only=True,
    ),
)
