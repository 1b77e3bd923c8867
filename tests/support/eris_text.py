"""How transcripts of ``tests/eris`` write addresses, messages and logs, and how they read them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import msgspec

from kvstore import keys, values
from kvstore.eris import messages
from kvstore.eris.coordinator_state import decode_record
from kvstore.eris.effects import (
    Address,
    ClientAddress,
    CoordinatorAddress,
    GroupAddress,
    HostAddress,
    ReplicaAddress,
    RoleAddress,
)
from kvstore.eris.messages import (
    Conclusory,
    EpochChange,
    EpochChangeAck,
    EpochChangeRequest,
    FindTransaction,
    Flush,
    HasTransaction,
    Image,
    ImageRequest,
    LogEntry,
    Preliminary,
    Prepare,
    Prepared,
    RecordSaved,
    Reply,
    Request,
    ResendRequest,
    SaveRecord,
    SlotAnswer,
    SlotRequest,
    Stamped,
    StartEpoch,
    StartView,
    SyncCommit,
    SyncReply,
    TempDroppedTransaction,
    TransactionDropped,
    TransactionFound,
    TransactionRequest,
    ViewChange,
    ViewChangeRequest,
)
from kvstore.eris.shard_state import ShardRecord
from kvstore.eris.shard_state import decode_record as decode_shard_record
from kvstore.execution.operations import Add, Check, CheckRange, Delete, Operation, Outcome, Put, Reserve
from kvstore.execution.stored_value import decoded_value
from kvstore.execution.validation import decode_current, digest_of
from kvstore.types import Epoch, SequenceNumber, ShardId, TransactionId
from tests.support.cluster import Packet, add, check, delete, put, reserve

SCANNED = [(put(key, 0).key, (1).to_bytes(8, "big")) for key in ("a", "b")]
"""What ``scan`` expects: the keys a and b, both at version 1."""


def operation(verb: str, key: str, value: str = "0") -> Operation:
    """Return the operation that ``SHARD:verb:key:value`` asks of the shard."""
    match verb:
        case "put":
            return put(key, int(value))
        case "add":
            return add(key, int(value))
        case "delete":
            return delete(key)
        case "take":
            return delete(key, report=True)
        case "check":
            return check(key, int(value) or None)
        case "reserve":
            return reserve(key)
        case "scan":
            return CheckRange(put(key, 0).key, put(value, 0).key, digest_of(SCANNED))
        case _:
            raise AssertionError(f"there is no operation {verb}")


def parsed(parts: Iterable[str]) -> dict[int, list[Operation]]:
    """Return the operations by shard. A part without a verb adds 1 to ``n``."""
    made: dict[int, list[Operation]] = {}
    for part in parts:
        shard, *rest = part.split(":")
        made.setdefault(int(shard), []).append(operation(*rest) if rest else add("n"))
    return made


def parsed_replica(text: str) -> ReplicaAddress:
    shard, replica = text[1:].split(".r")
    return ReplicaAddress(ShardId(int(shard)), int(replica))


def parsed_name(text: str, epoch: int) -> TransactionId:
    """Read ``s0#1``, of the given epoch, or ``2:s0#1``, of epoch 2."""
    before, _, place = text.rpartition(":")
    shard, number = place[1:].split("#")
    return TransactionId(Epoch(int(before or epoch)), ShardId(int(shard)), SequenceNumber(int(number)))


def shown_address(address: Address) -> str:
    match address:
        case ReplicaAddress(shard, replica):
            return f"s{shard}.r{replica}"
        case GroupAddress(shard):
            return f"s{shard}"
        case ClientAddress():
            return "client"
        case RoleAddress(name):
            return name
        case HostAddress(host):
            return f"h{host}"
        case CoordinatorAddress(coordinator):
            return f"coordinator {coordinator}"


def shown_packets(packets: Iterable[Packet]) -> list[str]:
    """Return one line for each message; neighbours that are equal share it."""
    lines = ((shown_address(packet.to), shown_message(packet.message)) for packet in packets)
    return [
        f"{joined(name for name, _ in group)} <- {text}"
        for text, group in groupby(lines, lambda line: line[1])
    ]


def joined(names: Iterable[str]) -> str:
    """Return the names of replicas or hosts in a row as one: ``s0.r0..2``."""
    runs: list[tuple[str, int, int]] = []
    others: list[str] = []
    for name in names:
        stem = name.rstrip("0123456789")
        number = name[len(stem) :]
        if not number:
            others.append(name)
        elif runs and (runs[-1][0], runs[-1][2] + 1) == (stem, int(number)):
            runs[-1] = stem, runs[-1][1], int(number)
        else:
            runs.append((stem, int(number), int(number)))
    shown = (f"{stem}{first}" + (f"..{last}" if last > first else "") for stem, first, last in runs)
    return ", ".join([*shown, *others])


def shown_message(message: msgspec.Struct) -> str:
    match message:
        case Request():
            return f"{shown_request(message)}: {shown_parts(message.operations)}"
        case Stamped():
            return f"Stamped {shown_stamped(message)}"
        case Reply():
            outcome = "" if message.outcome is None else f": {shown_outcome(message.outcome)}"
            who = f"s{message.shard}.r{message.replica} in epoch {message.epoch} view {message.view}"
            return f"Reply {message.request} of {who}, slot {message.slot}{outcome}"
        case SyncReply():
            return f"SyncReply of s{message.shard}.r{message.replica}, slot {message.slot}"
        case SyncCommit():
            dropped = "".join(f", dropped {shown_name(name)}" for name in message.dropped)
            return f"SyncCommit slot {message.slot}{dropped}"
        case _:
            return shown_loss(message)


def shown_loss(message: msgspec.Struct) -> str:
    """Messages about what was lost, and about views."""
    match message:
        case Flush():
            return f"Flush number {message.number}"
        case ResendRequest():
            return f"ResendRequest of s{message.shard}.r{message.replica}, number {message.number}"
        case SlotRequest():
            return f"SlotRequest of s{message.shard}.r{message.replica}, slot {message.slot}"
        case SlotAnswer():
            content = "truncated" if message.is_truncated else shown_stamped(message.stamped)
            return f"SlotAnswer slot {message.slot} {content}"
        case FindTransaction():
            return f"FindTransaction of s{message.shard}.r{message.replica}, {shown_name(message.id)}"
        case TransactionRequest():
            return f"TransactionRequest {shown_name(message.id)}"
        case HasTransaction():
            return f"HasTransaction {shown_name(message.id)}: {shown_stamped(message.stamped)}"
        case TempDroppedTransaction():
            who = f"s{message.shard}.r{message.replica} in view {message.view}"
            return f"TempDroppedTransaction of {who}, {shown_name(message.id)}"
        case TransactionFound():
            return f"TransactionFound {shown_stamped(message.stamped)}"
        case TransactionDropped():
            return f"TransactionDropped {', '.join(map(shown_name, message.ids))}"
        case ViewChangeRequest():
            last = "" if message.last is None else f", the learner's log ends at {message.last}"
            return f"ViewChangeRequest of r{message.replica}, view {message.view}{last}"
        case ViewChange():
            log = f"log {message.since + 1}..{message.last}"
            return f"ViewChange of r{message.replica}, view {message.view}, {log}{shown_drops(message)}"
        case StartView():
            entries = shown_entries(message.entries)
            return f"StartView {message.view}, after slot {message.since}{entries}{shown_drops(message)}"
        case _:
            return shown_change(message)


def shown_change(message: msgspec.Struct) -> str:
    """Messages about epochs and images."""
    match message:
        case EpochChange():
            since = "" if message.since is None else f" from slot {message.since + 1} on"
            return f"EpochChange {message.epoch}{since}"
        case EpochChangeAck():
            began = f"epoch {message.last_normal_epoch} after slot {message.base}"
            who = f"s{message.shard}.r{message.replica} of {began}"
            entries = shown_entries(message.entries)
            waits = "".join(f", unresolved {shown_stamped(stamped)}" for stamped in message.unresolved)
            return f"EpochChangeAck {message.epoch} of {who}, stable {message.stable}{entries}{waits}"
        case StartEpoch():
            place = f"view {message.view}, follows {message.follows}, stable {message.stable}"
            dropped = "".join(f", dropped {shown_name(name)}" for name in message.dropped)
            return f"StartEpoch {message.epoch}, {place}{shown_entries(message.entries)}{dropped}"
        case EpochChangeRequest():
            return f"EpochChangeRequest of s{message.shard}.r{message.replica}, epoch {message.epoch}"
        case ImageRequest():
            return f"ImageRequest of s{message.shard}.r{message.replica}, of epoch {message.epoch} or later"
        case Image():
            rows = sum(map(len, message.tables))
            entries = shown_entries(message.entries)
            if len(message.entries) > 3:
                entries = f", log {message.entries[0].slot}..{message.entries[-1].slot}"
            extra = extras(decode_shard_record(message.record))
            return f"Image of epoch {message.epoch}, {rows} rows{entries}{extra}"
        case _:
            return shown_record(message)


def shown_record(message: msgspec.Struct) -> str:
    """Messages between coordinators and hosts."""
    match message:
        case Prepare():
            return f"Prepare epoch {message.epoch}"
        case Prepared():
            record = decode_record(message.record)
            kept = f"record {record.epoch}.{record.counter}"
            return f"Prepared of h{message.host}, epoch {message.epoch}, promised {message.promised}, {kept}"
        case SaveRecord():
            record = decode_record(message.record)
            found = f", found {', '.join(map(shown_stamped, record.found))}" if record.found else ""
            dropped = "".join(f", dropped {shown_name(name)}" for name in sorted(record.dropped))
            state = f"epoch {record.last_started} started{found}{dropped}"
            return f"SaveRecord {message.epoch}.{message.counter}: {state}"
        case RecordSaved():
            return f"RecordSaved of h{message.host}, {message.epoch}.{message.counter}"
        case _:
            raise AssertionError(f"{message} was never on the wire")


def shown_name(name: TransactionId) -> str:
    return f"s{name.shard}#{name.sequence}"


def shown_drops(message: ViewChange | StartView | ShardRecord) -> str:
    kinds = (
        ("promised", message.temp_drops),
        ("dropped", message.perm_drops),
        ("found", message.un_drops),
    )
    return "".join(f", {kind} {' '.join(map(shown_name, sorted(names)))}" for kind, names in kinds if names)


def extras(record: ShardRecord) -> str:
    """What a record has besides the ordinary."""
    waiting = f", waiting {' '.join(map(str, record.waiting))}" if record.waiting else ""
    diverged = ", diverged" if record.diverged else ""
    rejoin = f", rejoins with an image of epoch {record.rejoin} or later" if record.rejoin else ""
    return f"{waiting}{shown_drops(record)}{diverged}{rejoin}"


def shown_request(request: Request) -> str:
    match request.half:
        case None:
            kind = "Request"
        case Preliminary():
            kind = "Preliminary"
        case Conclusory(_, preliminary, commit):
            kind = f"{'Commit' if commit else 'Abort'} of {preliminary}, request"
    ranges = ", ".join(f"{first}-{last}" for first, last in request.unanswered)
    but = f" but {ranges}" if ranges else ""
    return f"{kind} {request.request}, answered {request.answered}{but}"


def shown_parts(parts: dict[ShardId, tuple[Operation, ...]]) -> str:
    return "; ".join(
        f"s{shard} {', '.join(map(shown_operation, part)) or 'nothing'}" for shard, part in parts.items()
    )


def shown_operation(operation: Operation) -> str:
    match operation:
        case Put(key, value):
            return f"put {shown_key(key)}={values.decode(value)}"
        case Add(key, amount):
            return f"add {shown_key(key)} {values.decode(amount)}"
        case Delete(key):
            return f"delete {shown_key(key)}"
        case Check(key, version):
            return f"check {shown_key(key)} at {version}"
        case Reserve(key):
            return f"reserve {shown_key(key)}"
        case CheckRange(start, stop, _):
            return f"scan {shown_key(start)} to {shown_key(stop)}"
        case _:
            return str(operation)


def shown_key(encoded: bytes) -> str:
    return str(keys.decode(encoded))


def shown_stamped(stamped: Stamped | None) -> str:
    if stamped is None:
        return "NO-OP"
    places = " ".join(f"s{shard}#{number}" for shard, number in stamped.stamp.numbers.items())
    half = stamped.request.half
    kind = "request" if half is None else type(half).__name__.lower()
    return f"[{places}] of epoch {stamped.stamp.epoch}: {kind} {stamped.request.request}"


def shown_entries(entries: Iterable[LogEntry]) -> str:
    shown = ", ".join(f"{entry.slot} {shown_stamped(entry.stamped)}" for entry in entries)
    return f", log {shown}" if shown else ""


def shown_outcome(outcome: Outcome) -> str:
    if outcome.refused and outcome.results:
        found = outcome.results[0]
        assert isinstance(found, bytes)
        try:
            now = decode_current(found)
        except msgspec.ValidationError:  # it is no vote, but the key that has changed
            return f"refused for {shown_key(found)}"
        cells = (f"{shown_key(key)}={cell and decoded_value(cell)}" for key, cell in now.cells.items())
        return f"changed: {shown_key(now.changed)}; now {', '.join(cells) or 'nothing'}"
    results = ", ".join(
        str(what if isinstance(what, bool) else values.decode(what)) for what in outcome.results
    )
    return "refused" if outcome.refused else f"done {results}".strip()


def shown_answer(answer: messages.Answer) -> str:
    parts = (
        f"s{shard} slot {slot}: {shown_outcome(answer.outcomes[shard])}"
        for shard, slot in sorted(answer.slots.items())
    )
    how = {None: "", True: " committed", False: " aborted"}[answer.committed]
    return f"Answer {answer.request}{how}, {'; '.join(parts)}"
