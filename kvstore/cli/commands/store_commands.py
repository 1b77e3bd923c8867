"""The verbs, one function each, and the tuple that lists them. Verbs use the store, and no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from typing import Any, Final

import kvstore
from kvstore.cli.commands.command import FORMAT, Command, Invocation, Parameter, did_you_mean
from kvstore.cli.commands.geo_commands import GEO_COMMANDS
from kvstore.cli.commands.reports import route_line, status_lines, time_text, verify_lines
from kvstore.cli.commands.session import NO_REGIONS
from kvstore.cli.commands.transaction_commands import TRANSACTION_COMMANDS, commit
from kvstore.cli.failures import EXPECTED, CommandFailed, EndOfSession, Misuse, sentence
from kvstore.cli.formats.tables import FORMATS, Settings, fact_lines, row_lines, value_text
from kvstore.cli.language.grammar import Statement
from kvstore.cli.language.printing import show, type_name

_KEY: Final = Parameter("KEY", "key")
_PREFIX: Final = Parameter("PREFIX", "key", required=False)
_START: Final = Parameter("start", "key", "the first key")
_STOP: Final = Parameter("stop", "key", "the first key after the range")
_RAW: Final = Parameter("raw", "flag", "print text without quotes")
_JSON: Final = Parameter("json", "flag", "print JSON")


def get(call: Invocation) -> None:
    key = call.given["KEY"]
    try:
        value = call.records[key]
    except kvstore.NotFound:
        raise CommandFailed(f"no value at {show(key)}") from None
    call.out(value_text(value, call.style()))


def put(call: Invocation) -> None:
    key, value = call.given["KEY"], call.given["VALUE"]
    call.records.put(key, value)
    call.out(f"{show(key)} = {show(value, as_stored=True)}  {type_name(value)}")


def delete(call: Invocation) -> None:
    key = call.given["KEY"]
    call.records.delete(key)
    call.out(f"{show(key)} deleted")


def add(call: Invocation) -> None:
    key, number = call.given["KEY"], call.given.get("N", 1)
    value = call.records.add(key, number)
    if call.session.transaction is not None:  # where add reads nothing, so that it cannot conflict
        call.out(f"{show(key)} += {show(number)}  {type_name(number)}")
        return
    call.out(f"{show(key)} = {show(value)}  {type_name(value)}")


def version(call: Invocation) -> None:
    key = call.given["KEY"]
    found = call.db.version(key)
    if found is None:
        raise CommandFailed(f"no value at {show(key)}")
    call.out(value_text(found, call.style()))


def scan(call: Invocation) -> None:
    records: Iterator[tuple[Any, Any]] = call.records.scan(
        **_range(call), reverse="reverse" in call.given, limit=call.limit()
    )
    first = list(islice(records, 1))
    if not first and call.given.get("limit") != 0:
        _explain_prefix(call, "scan")
    call.out_all(row_lines(("key", "value"), chain(first, records), call.style()))


def count(call: Invocation) -> None:
    found = call.records.count(**_range(call))
    call.out(value_text(found, call.style()))
    if not found:
        _explain_prefix(call, "count")


def explain(call: Invocation) -> None:
    what = call.given.get("KEY", call.session.transaction)
    if what is None:
        raise Misuse("KEY is missing: without KEY, explain needs an open transaction")
    route = call.db.explain(what)
    facts = {"path": route.path, "shards": list(route.shards), "rounds": route.rounds}
    call.out_all(fact_lines(facts, call.style()))


def status(call: Invocation) -> None:
    call.out_all(status_lines(call.db.status(), call.style()))


def verify(call: Invocation) -> None:
    report = call.db.verify()
    call.out_all(verify_lines(report, call.style()))
    if not report["ok"]:
        raise CommandFailed(f"{len(report['problems'])} problems found")


def backup(call: Invocation) -> None:
    target = call.given["FOLDER"]
    call.db.backup(target)
    call.out(f"backed up to {target}")


def choose_format(call: Invocation) -> None:
    name = call.given["NAME"]
    call.settings.format = None if name == "auto" else name


def switch_timing(call: Invocation) -> None:
    call.settings.timing = call.given["WHEN"] == "on"


def leave(call: Invocation) -> None:
    raise EndOfSession


def watch(call: Invocation) -> None:
    style = call.style()
    changes = call.db.watch(
        prefix=call.given.get("PREFIX"), since=call.given.get("since"), timeout=call.given.get("timeout")
    )
    if "timeout" not in call.given:
        call.note("watching; Ctrl-C ends it")
    for line in _change_lines(changes, style):
        call.out(line)
        call.flush()


def _change_lines(changes: Iterator[kvstore.Change], style: Settings) -> Iterator[str]:
    if style.row_format() == "table":  # a table would wait for all of its rows
        return map(_change_line, changes)
    rows = (change._replace(cursor=_as_text(change.cursor)) for change in changes)
    return row_lines(kvstore.Change._fields, rows, style)


def _as_text(cursor: Any) -> Any:
    """Return the cursor with str keys, as JSON requires."""
    return {str(shard): slot for shard, slot in cursor.items()}


def _change_line(change: kvstore.Change) -> str:
    key = show(change.key)
    return f"{key} deleted" if change.deleted else f"{key} = {show(change.value)}"


def call_procedure(call: Invocation) -> None:
    results = call.db.call(call.given["NAME"], call.given.get("ARGUMENTS"))
    call.out_all(row_lines(("shard", "result"), results.items(), call.style()))


def compact(call: Invocation) -> None:
    call.out_all(fact_lines(call.db.compact(), call.style()))


def explain_commands(call: Invocation) -> None:
    if "COMMAND" in call.given:
        command = command_named(call.given["COMMAND"])
        call.out(command.usage)
        call.out(f"  {command.about}")
        for option in command.options:
            call.out(f"  --{option.name}: {option.about}")
        call.out(f"  for example: {command.example}")
        return
    width = max(len(command.name) for command in COMMANDS)
    for command in COMMANDS:
        call.out(f"{command.name:{width}} {command.about}")


def retry(call: Invocation) -> None:
    session = call.session
    if not session.to_retry:
        raise Misuse("nothing to retry: no commit has failed with a conflict")
    session.begin()
    try:
        _run_again(session.to_retry, call)
    except KeyboardInterrupt:
        session.rollback()
        raise
    commit(call)


def _run_again(statements: Sequence[Statement], call: Invocation) -> None:
    for number, statement in enumerate(statements, 1):
        try:
            execute(statement, call)
        except BrokenPipeError:
            raise
        except EXPECTED as error:
            place = f"command {number} of {len(statements)}, {statement.word}"
            raise CommandFailed(f"{place}: {sentence(error)}; the transaction is open") from error


COMMANDS: Final = (
    Command(
        name="get",
        about="Print the value of a key.",
        example='get ("acct", "eu", 1)',
        run=get,
        in_transaction="takes part",
        terms=(_KEY,),
        options=(_RAW, FORMAT),
    ),
    Command(
        name="put",
        about="Store a value, and print the key and value as understood.",
        example='put ("acct", "eu", 1) 100',
        run=put,
        in_transaction="takes part",
        terms=(_KEY, Parameter("VALUE", "value")),
        writes=True,
    ),
    Command(
        name="delete",
        about="Remove a key; a missing key is no error.",
        example='delete ("acct", "eu", 1)',
        run=delete,
        in_transaction="takes part",
        terms=(_KEY,),
        writes=True,
    ),
    Command(
        name="add",
        about="Add a number, 1 if none is given, and print the sum; a missing key counts as 0.",
        example="add hits -2",
        run=add,
        in_transaction="takes part",
        terms=(_KEY, Parameter("N", "number", required=False)),
        writes=True,
    ),
    Command(
        name="version",
        about="Print the slot of the key's last write.",
        example="version hits",
        run=version,
        in_transaction="refused",
        terms=(_KEY,),
        options=(FORMAT,),
    ),
    Command(
        name="scan",
        about="Print all records, or those whose key begins with PREFIX, in key order.",
        example='scan ("acct",) --limit 10',
        run=scan,
        in_transaction="takes part",
        terms=(_PREFIX,),
        options=(
            _START,
            _STOP,
            Parameter("reverse", "flag", "the last key first"),
            Parameter("limit", "number", "the most records to print"),
            _RAW,
            FORMAT,
        ),
    ),
    Command(
        name="count",
        about="Print the number of all records, or of those whose key begins with PREFIX.",
        example='count ("acct",)',
        run=count,
        in_transaction="takes part",
        terms=(_PREFIX,),
        options=(_START, _STOP, FORMAT),
    ),
    Command(
        name="explain",
        about="Print the route of a write to the key, or without KEY, of the open transaction.",
        example='explain ("acct", "eu", 1)',
        run=explain,
        terms=(Parameter("KEY", "key", required=False),),
        options=(FORMAT,),
    ),
    Command(
        name="status",
        about="Print whether the store is healthy, and its state.",
        example="status --json",
        run=status,
        options=(_JSON, FORMAT),
    ),
    Command(
        name="verify",
        about="Read and check all data; damage is an error.",
        example="verify",
        run=verify,
        options=(_JSON, FORMAT),
    ),
    Command(
        name="backup",
        about="Write a snapshot of the store to a new folder.",
        example="backup copy.db",
        run=backup,
        terms=(Parameter("FOLDER", "text"),),
    ),
    Command(
        name="watch",
        about="Print changes as they come, until Ctrl-C: of all keys, or of keys that begin with PREFIX.",
        example='watch ("acct",) --since 0 --timeout 0',
        run=watch,
        terms=(_PREFIX,),
        options=(
            Parameter("since", "value", "a change's cursor, or 0 for the oldest; without it, from now on"),
            Parameter("timeout", "number", "end after N seconds without a change"),
            FORMAT,
        ),
    ),
    Command(
        name="call",
        about="Run a stored procedure, and print its result on each shard.",
        example="call bank.settle {day: 7}",
        run=call_procedure,
        in_transaction="refused",
        terms=(Parameter("NAME", "text"), Parameter("ARGUMENTS", "value", required=False)),
        options=(FORMAT,),
        writes=True,
    ),
    Command(
        name="compact",
        about="Rewrite the store's files without their free space.",
        example="compact",
        run=compact,
        in_transaction="refused",
        options=(FORMAT,),
        writes=True,
        creates=False,
    ),
    *TRANSACTION_COMMANDS,
    *GEO_COMMANDS,
    Command(
        name="retry",
        about="Run the last transaction again, command by command, after its commit conflicted.",
        example="retry",
        run=retry,
        tells_time=True,
        shell_only=True,
    ),
    Command(
        name="format",
        about="Set the format of results; auto is a table on a terminal, and JSON lines elsewhere.",
        example="format jsonl",
        run=choose_format,
        terms=(Parameter("NAME", "text", choices=("auto", *FORMATS)),),
        shell_only=True,
    ),
    Command(
        name="timing",
        about="Print, or stop printing, how long each command took.",
        example="timing on",
        run=switch_timing,
        terms=(Parameter("WHEN", "text", choices=("on", "off")),),
        shell_only=True,
    ),
    *(
        Command(name=name, about="End the session.", example=name, run=leave, shell_only=True)
        for name in ("exit", "quit")
    ),
    Command(
        name="help",
        about="Explain all commands, or one command.",
        example="help scan",
        run=explain_commands,
        terms=(Parameter("COMMAND", "text", required=False),),
        shell_only=True,
    ),
)


def command_named(name: str) -> Command:
    """Return the command of this name.

    Raises:
        Misuse: there is no such command; the message suggests a similar name.
    """
    names = [command.name for command in COMMANDS]
    if name in names:
        return COMMANDS[names.index(name)]
    raise Misuse(f"no command {show(name[:40])}{did_you_mean(name, names) or '; try help'}")


def execute(statement: Statement, call: Invocation) -> None:
    """Run a statement with this call's session and output; keep it for retry if a transaction is open.

    Raises:
        Misuse: the statement does not fit, or is refused in a transaction. Errors of the command.
    """
    command = command_named(statement.word)
    if command.of_regions and call.session.world is None:
        raise Misuse(f"{command.name}: {NO_REGIONS}")
    call = replace(call, given=command.fit(statement))
    if call.session.transaction is not None and command.in_transaction == "refused":
        raise Misuse(f"{command.name} cannot run in a transaction: commit or rollback first")
    began = time.monotonic()
    command.run(call)
    if call.settings.timing and not command.tells_time:
        call.note(_time_line(command, call, time.monotonic() - began))
    if command.in_transaction == "takes part":
        call.session.record(statement)


def _time_line(command: Command, call: Invocation, seconds: float) -> str:
    """Return the time; for a write outside a transaction, with its route."""
    if command.writes and "KEY" in call.given and call.session.transaction is None:
        return route_line(call.db.explain(call.given["KEY"]), seconds)
    return time_text(seconds)


def _range(call: Invocation) -> dict[str, Any]:
    return {
        "prefix": call.given.get("PREFIX"),
        "start": call.given.get("start"),
        "stop": call.given.get("stop"),
    }


def _explain_prefix(call: Invocation, verb: str) -> None:
    """Print how to write a tuple prefix, since a str prefix never matches tuples."""
    prefix = call.given.get("PREFIX")
    if isinstance(prefix, str):
        call.note(f"tuples begin so: {verb} {show((prefix,))}")
