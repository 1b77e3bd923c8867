"""Runs of the whole protocol, recorded in ``tests/transcripts/eris``: read those. ``UPDATE=1`` rewrites them.

    cluster SHARDS REPLICAS       a new cluster; it comes with epoch 1 begun
    submit PART...                a part is SHARD:put:KEY:VALUE, SHARD:add:KEY:AMOUNT or SHARD:delete:KEY
    general PART... | PART...     what a preliminary locks, also SHARD:check:KEY:VERSION (0: absent) and
                                  SHARD:reserve:KEY, and what its second half writes; keep PART... | says
                                  that the client gets the votes if something has changed
    conclude REQUEST PART...      commit it; abort REQUEST aborts it
    release                       abort what a dead client left between its halves
    late REQUEST PART...          the Commit of client 1, which is dead, comes now
    step [COUNT]                  deliver what is on the wire, in one batch for each host
    run                           deliver until nothing is under way, and show only what was answered
    run without HOST...           the same, and lose what these hosts would get
    deliver HOST                  deliver what is on the wire for one host
    lose KIND [host=N] [shard=N]  take messages off the wire
    fire                          the client's retry timer
    gap HOST [SHARD]              nobody answered a replica that misses a number
    suspect HOST [SHARD]          nothing was heard of the learner for long
    heartbeat HOST [SHARD]        a learner says that it is there
    flush                         the sequencer says how far it has come
    crash HOST... | restart HOST...
    epoch [HOST...]               begin an epoch change; only these hosts are consulted
    stamp                         the sequencer and the client of the new epoch begin
    stamp on                      only the sequencer does, and the client goes on
    coordinator NUMBER            one that keeps its record at the hosts begins; those before it live on
    timer NUMBER prepare|save     hosts have not answered a coordinator
    silence HOST                  nothing was heard of the sequencer for long
    wire | status | log

Messages are shown as ``to <- message``; s0.r1 is replica 1 of shard 0, and runs on host 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

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
from kvstore.execution.operations import Add, Check, Delete, Operation, Outcome, Put, Reserve
from kvstore.execution.stored_value import decoded_value
from kvstore.execution.validation import decode_current
from kvstore.types import ClientId, RequestId, ShardId, TransactionId
from tests.support.cluster import Cluster, Packet, add, check, delete, put, reserve
from tests.support.transcript import check_transcript

FILES = sorted((Path(__file__).parent.parent / "transcripts" / "eris").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    check_transcript(path, Player().play)


def test_there_are_transcripts() -> None:
    assert len(FILES) >= 5


class Player:
    """Carries out the commands of one transcript."""

    def __init__(self) -> None:
        self.cluster: Cluster
        self.shown = 0
        """Answers that were printed already."""

    def play(self, verb: str, arguments: list[str]) -> list[str]:
        command = getattr(self, f"_{verb}", None)
        assert command is not None, f"there is no command {verb}"
        lines: list[str] = command(*arguments)
        return [*lines, *self._new_answers()]

    def _new_answers(self) -> list[str]:
        answers = self.cluster.answered
        new, self.shown = answers[self.shown :], len(answers)
        return [f"caller <- {shown_answer(answer)}" for answer in new]

    def _cluster(self, shards: str, replicas: str) -> list[str]:
        self.cluster = Cluster(shards=int(shards), replicas=int(replicas))
        self.shown = 0
        return []

    def _submit(self, *parts: str) -> list[str]:
        self.cluster.submit(parsed(parts))
        return self._wire()

    def _general(self, *parts: str, keeps_locks: bool = False) -> list[str]:
        middle = parts.index("|")
        locked, writes = parsed(parts[:middle]), parsed(parts[middle + 1 :])
        self.cluster.submit_general(locked, writes, keeps_locks=keeps_locks)
        return self._wire()

    def _keep(self, *parts: str) -> list[str]:
        return self._general(*parts, keeps_locks=True)

    def _conclude(self, request: str, *parts: str) -> list[str]:
        self.cluster.conclude(RequestId(int(request)), parsed(parts))
        return self._wire()

    def _abort(self, request: str) -> list[str]:
        self.cluster.conclude(RequestId(int(request)), None)
        return self._wire()

    def _release(self) -> list[str]:
        self.cluster.release_dead()
        return self._wire()

    def _late(self, request: str, *parts: str) -> list[str]:
        self.cluster.conclude_for(ClientId(1), RequestId(int(request)), parsed(parts), commit=True)
        return self._wire()

    def _step(self, count: str = "1") -> list[str]:
        for _ in range(int(count)):
            self.cluster.step()
        return self._wire()

    def _run(self, without: str = "", *hosts: str) -> list[str]:
        assert without in ("", "without")
        self.cluster.run_without(*map(int, hosts))
        return []

    def _deliver(self, host: str) -> list[str]:
        self.cluster.deliver(int(host))
        return self._wire()

    def _lose(self, kind: str, *where: str) -> list[str]:
        bounds = {name: int(number) for name, number in (part.split("=") for part in where)}
        self.cluster.lose(getattr(messages, kind), **bounds)
        return self._wire()

    def _fire(self) -> list[str]:
        self.cluster.carry(self.cluster.client.on_timer("retry"))
        return self._wire()

    def _gap(self, host: str, shard: str = "0") -> list[str]:
        return self._fire_replica(host, shard, "gap")

    def _suspect(self, host: str, shard: str = "0") -> list[str]:
        return self._fire_replica(host, shard, "suspect")

    def _heartbeat(self, host: str, shard: str = "0") -> list[str]:
        return self._fire_replica(host, shard, "heartbeat")

    def _fire_replica(self, host: str, shard: str, name: str) -> list[str]:
        self.cluster.fire(int(host), int(shard), name)
        return self._wire()

    def _flush(self) -> list[str]:
        self.cluster.carry(self.cluster.sequencer.on_timer("flush"))
        return self._wire()

    def _crash(self, *hosts: str) -> list[str]:
        self.cluster.crash(*map(int, hosts))
        return []

    def _restart(self, *hosts: str) -> list[str]:
        self.cluster.restart(*map(int, hosts))
        return []

    def _epoch(self, *hosts: str) -> list[str]:
        self.cluster.wire.clear()
        self.cluster.begin_epoch(*map(int, hosts))
        return self._wire()

    def _stamp(self, on: str = "") -> list[str]:
        self.cluster.begin_stamping(keep_client=bool(on))
        if on:
            return []
        self.cluster.answered.clear()
        self.shown = 0
        return []

    def _coordinator(self, number: str) -> list[str]:
        self.cluster.start_coordinator(int(number))
        return self._wire()

    def _timer(self, number: str, name: str) -> list[str]:
        self.cluster.fire_coordinator(int(number), name)
        return self._wire()

    def _silence(self, host: str) -> list[str]:
        return self._fire_replica(host, "0", "silence")

    def _wire(self) -> list[str]:
        return [shown_packet(packet) for packet in self.cluster.wire]

    def _status(self) -> list[str]:
        return [
            self._status_of(host, shard)
            for host in sorted(self.cluster.hosts)
            for shard in range(self.cluster.shards)
        ]

    def _status_of(self, host: int, shard: int) -> str:
        record = self.cluster.record(host, shard)
        learner = " learner" if self.cluster.replica(host, shard).is_learner else ""
        waiting = f" but {', '.join(map(str, record.waiting))}" if record.waiting else ""
        state = ", ".join("=".join(map(str, item)) for item in self.cluster.values(host, shard).items())
        return (
            f"s{shard}.r{host} epoch {record.epoch} view {record.view} log 1..{record.head[1]}"
            f" stable {record.stable} executed {record.executed}{waiting}{learner}: {state or 'empty'}"
        )

    def _log(self) -> list[str]:
        return [
            f"s{shard}.r{host}: " + (", ".join(map(shown_stamped, self.cluster.log(host, shard))) or "empty")
            for host in sorted(self.cluster.hosts)
            for shard in range(self.cluster.shards)
        ]


def parsed(parts: Iterable[str]) -> dict[int, list[Operation]]:
    """What is asked of each shard."""
    made: dict[int, list[Operation]] = {}
    for part in parts:
        shard, verb, key, *value = part.split(":")
        made.setdefault(int(shard), []).append(operation(verb, key, *map(int, value)))
    return made


def operation(verb: str, key: str, value: int = 0) -> Operation:
    match verb:
        case "put":
            return put(key, value)
        case "add":
            return add(key, value)
        case "delete":
            return delete(key)
        case "check":
            return check(key, value or None)
        case "reserve":
            return reserve(key)
        case _:
            raise AssertionError(f"there is no operation {verb}")


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


def shown_packet(packet: Packet) -> str:
    return f"{shown_address(packet.to)} <- {shown_message(packet.message)}"


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
            return f"SyncCommit slot {message.slot}"
        case EpochChange():
            return f"EpochChange {message.epoch}"
        case EpochChangeAck():
            who = f"s{message.shard}.r{message.replica} of epoch {message.last_normal_epoch}"
            entries = shown_entries(message.entries)
            return f"EpochChangeAck {message.epoch} of {who}, stable {message.stable}{entries}"
        case StartEpoch():
            place = f"view {message.view}, stable {message.stable}"
            return f"StartEpoch {message.epoch}, {place}{shown_entries(message.entries)}"
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
            return f"SlotAnswer slot {message.slot} {shown_stamped(message.stamped)}"
        case FindTransaction():
            return f"FindTransaction of s{message.shard}.r{message.replica}, {shown_name(message.id)}"
        case TransactionRequest():
            return f"TransactionRequest {shown_name(message.id)}"
        case HasTransaction():
            return f"HasTransaction {shown_stamped(message.stamped)}"
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
        case EpochChangeRequest():
            return f"EpochChangeRequest of s{message.shard}.r{message.replica}, epoch {message.epoch}"
        case ImageRequest():
            return f"ImageRequest of s{message.shard}.r{message.replica}, of epoch {message.epoch} or later"
        case Image():
            rows = sum(map(len, message.tables))
            return f"Image of epoch {message.epoch}, {rows} rows{shown_entries(message.entries)}"
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
            state = f"epoch {record.last_started} started{found}"
            return f"SaveRecord {message.epoch}.{message.counter}: {state}"
        case RecordSaved():
            return f"RecordSaved of h{message.host}, {message.epoch}.{message.counter}"
        case _:
            raise AssertionError(f"{message} was never on the wire")


def shown_name(name: TransactionId) -> str:
    return f"s{name.shard}#{name.sequence}"


def shown_drops(message: ViewChange | StartView) -> str:
    kinds = (
        ("promised", message.temp_drops),
        ("dropped", message.perm_drops),
        ("found", message.un_drops),
    )
    return "".join(f", {kind} {' '.join(map(shown_name, sorted(names)))}" for kind, names in kinds if names)


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
    return "; ".join(f"s{shard} {', '.join(map(shown_operation, part))}" for shard, part in parts.items())


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
        now = decode_current(outcome.results[0])  # type: ignore[arg-type]  # a vote has bytes
        cells = (f"{shown_key(key)}={cell and decoded_value(cell)}" for key, cell in now.cells.items())
        return f"changed: {shown_key(now.changed)}; now {', '.join(cells)}"
    found = ", ".join(
        str(what if isinstance(what, bool) else values.decode(what)) for what in outcome.results
    )
    return "refused" if outcome.refused else f"done {found}".strip()


def shown_answer(answer: messages.Answer) -> str:
    parts = (
        f"s{shard} slot {slot}: {shown_outcome(answer.outcomes[shard])}"
        for shard, slot in sorted(answer.slots.items())
    )
    how = {None: "", True: " committed", False: " aborted"}[answer.committed]
    return f"Answer {answer.request}{how}, {'; '.join(parts)}"
