"""Verification of every record that a store has on disk (contracts B4)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from kvstore import keys, values
from kvstore.engine.manifest import Manifest
from kvstore.eris.log import decode_changes, effects_key, read_body
from kvstore.eris.log_tail import log_record, shard_record
from kvstore.eris.shard_state import EFFECTS, REGISTERS, ShardRecord, log_name, table_name
from kvstore.errors import Damage
from kvstore.execution.procedure_context import Owns
from kvstore.execution.stored_value import VERSION_BYTES, stored_version
from kvstore.ports import CommitView, Environment
from kvstore.types import ShardId, Slot

CHUNK = 512
PROBLEMS_MAX = 1000
"""Most problems that are listed; one lost page may cause millions."""


def verify(environment: Environment, manifest: Manifest, owns: Owns) -> tuple[int, list[str]]:
    """Return the number of records in the environment, and a sentence for each problem.

    ``owns`` tells whether a shard owns an encoded key.
    """
    problems: list[str] = [] if environment.suspicion is None else [environment.suspicion]
    view = environment.view()
    try:
        for problem in _problems(view, manifest, environment.location, owns):
            problems.append(problem)
            if len(problems) >= PROBLEMS_MAX:
                problems.append("further problems are not listed")
                break
        return view.record_count(), problems
    finally:
        view.close()


def _problems(view: CommitView, manifest: Manifest, location: str, owns: Owns) -> Iterator[str]:
    try:
        yield from view.problems()
    except Damage as damage:
        yield str(damage.args[0])
    for number in range(manifest.shards):
        shard = ShardId(number)
        where = f"{location}: shard {shard}"
        try:
            record = shard_record(view, shard)
            yield from _log_problems(view, shard, record, where)
            yield from _effects_problems(view, shard, record, where)
            yield from _state_problems(view, shard, record, owns, where)
        except Damage as damage:
            yield str(damage.args[0])
        except ValueError as error:
            yield f"{where}: {error}"


def _log_problems(view: CommitView, shard: ShardId, record: ShardRecord, where: str) -> Iterator[str]:
    log = view.log(log_name(shard), record.head)
    log.check_end()
    first = log.first
    while first <= log.last:
        entries = log.read(first, CHUNK)
        for slot, body in entries:
            stamped = read_body(body, partial(log_record, view))
            if stamped is not None and shard not in stamped.stamp.numbers:
                yield f"{where}: slot {slot} holds another shard's transaction"
        first += len(entries)


def _effects_problems(view: CommitView, shard: ShardId, record: ShardRecord, where: str) -> Iterator[str]:
    table = view.table(table_name(shard, EFFECTS))
    first, last = record.head[0], record.executed
    start = b""
    while rows := table.scan(start, b"\xff" * 9, limit=CHUNK):
        for key, effects in rows:
            decode_changes(effects)
            if not effects_key(Slot(first)) <= key <= effects_key(last):
                yield f"{where}: effects of slot {key.hex()}, the log executed {first} to {last}"
        start = rows[-1][0] + b"\x00"


def _state_problems(
    view: CommitView, shard: ShardId, record: ShardRecord, owns: Owns, where: str
) -> Iterator[str]:
    table = view.table(table_name(shard, REGISTERS))
    start = b""
    while rows := table.scan(start, b"\xff", limit=CHUNK):
        for encoded, cell in rows:
            version = stored_version(cell)
            if version is None or not 0 < version <= record.executed:
                yield f"{where}: {encoded.hex()} has version {version}, beyond slot {record.executed}"
            if not owns(shard, encoded):
                yield f"{where}: {encoded.hex()} ({keys.decode(encoded)!r}) belongs to another shard"
            values.decode(cell[VERSION_BYTES:])
        start = rows[-1][0] + b"\x00"
