"""The failure coordinator survives its own failure: its record is kept by a majority of hosts (contracts B1).

    1. PREPARE: a coordinator that starts, or that is to begin an epoch, takes an epoch number that no other
       coordinator can take, above every epoch it knows. A host that promises this epoch accepts no record of
       a lower epoch from then on, and returns the record it keeps.
    2. With the promises of a majority the newest of their records counts, by (epoch, counter), and the
       epoch change begins (``failure_coordinator.py``).
    3. SAVE: a changed record goes to all hosts, and the messages that follow from it are held back until a
       majority keeps it. So a coordinator that was paused and replaced sends nothing any more.

This is Paxos with the epoch as its ballot. A coordinator that starts always begins an epoch, so it need not
know which messages the last coordinator was about to send: the logs show their effects.

INVARIANTS
    MAJORITY-1  No message follows from a record that is not at a majority.
    MAJORITY-2  Of two coordinators, the one of the higher epoch knows every decision that the other one sent:
        no two coordinators take one epoch, and the record that counts is of an earlier epoch.
    MAJORITY-3  The record that a host keeps never goes back, by (epoch, counter), nor behind its promise.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from kvstore.eris.coordinator_state import CoordinatorRecord, decode_record, encode_record
from kvstore.eris.effects import CoordinatorAddress, Dropped, Effect, HostAddress, Send, SetTimer
from kvstore.eris.failure_coordinator import FailureCoordinator
from kvstore.eris.messages import (
    CoordinatorMessage,
    EpochChangeRequest,
    HostMessage,
    Prepare,
    Prepared,
    RecordSaved,
    SaveRecord,
)
from kvstore.ports import Table
from kvstore.types import ClientId, Epoch

RECORD_KEY, PROMISED_KEY, REJOIN_KEY = b"coordinator", b"promised", b"rejoin"
"""Keys of the record, the promise and the rejoin epoch in the host's table."""
NONE_ENDED, NO_EPOCH = ClientId(0), Epoch(0)
PREPARE_MS = 40
SAVE_MS = 20
"""The time after which hosts that have not answered are asked again."""


class RecordKeeper:
    """A host's part: it keeps one record and one promise, through its host's open batch."""

    def __init__(self, host: int, table: Table) -> None:
        self._host = host
        self._table = table

    def record(self) -> CoordinatorRecord:
        """Return the kept record, or an empty one if no coordinator has saved any."""
        stored = self._table.get(RECORD_KEY)
        return CoordinatorRecord() if stored is None else decode_record(stored)

    def keep(self, record: CoordinatorRecord) -> None:
        kept = self.record()
        assert (record.epoch, record.counter) >= (kept.epoch, kept.counter), (
            f"MAJORITY-3: host {self._host} keeps record {kept.counter} of epoch {kept.epoch}, and is given "
            f"{record.counter} of {record.epoch}"
        )
        self._table.put(RECORD_KEY, encode_record(record))

    def promised(self) -> Epoch:
        """Return the promised epoch; records of lower epochs are refused."""
        return max(self._promise()[0], self.record().epoch)

    def _promise(self) -> tuple[Epoch, int]:
        """Return the promised epoch, and the start of the coordinator that it was promised to."""
        stored = self._table.get(PROMISED_KEY) or b""
        return Epoch(int.from_bytes(stored[:8], "big")), int.from_bytes(stored[8:], "big")

    def promise(self, epoch: Epoch, life: int = 0) -> None:
        promised = self.promised()
        assert epoch >= promised, f"MAJORITY-3: host {self._host} promised {promised}, and promises {epoch}"
        self._table.put(PROMISED_KEY, epoch.to_bytes(8, "big") + life.to_bytes(8, "big"))

    def forget(self, rejoin: Epoch) -> None:
        """Note that the disk cannot be trusted: answer nothing until a record of a later epoch arrives."""
        self.promise(rejoin)
        began = self.record().epoch
        assert rejoin > began, f"IMAGE-4: host {self._host} is to wait for epoch {rejoin}, and keeps {began}"
        self._table.put(REJOIN_KEY, rejoin.to_bytes(8, "big"))

    def handle(self, message: HostMessage) -> list[Effect]:
        """Answer a coordinator."""
        match message:
            case Prepare():
                return self._on_prepare(message)
            case SaveRecord():
                return self._on_save(message)

    def _on_prepare(self, message: Prepare) -> list[Effect]:
        rejoin = int.from_bytes(self._table.get(REJOIN_KEY) or b"", "big")
        if self.record().epoch < rejoin:
            return [Dropped(message, "what was kept here is forgotten")]
        promised = self.promised()
        if message.epoch > promised:
            promised = message.epoch
            self.promise(promised, message.life)
        elif message.epoch == promised and self._promise() != (promised, message.life):
            if self._promise()[0] < promised:
                return [Dropped(message, "a record of this epoch came without its promise")]
            promised = Epoch(promised + 1)  # the epoch is taken, by an earlier start of this coordinator
        record = encode_record(self.record())
        answer = Prepared(self._host, message.epoch, promised, record)
        return [Send(CoordinatorAddress(message.coordinator), answer)]

    def _on_save(self, message: SaveRecord) -> list[Effect]:
        kept, to = self.record(), CoordinatorAddress(message.coordinator)
        if message.epoch < self.promised():
            return [Send(to, Prepared(self._host, message.epoch, self.promised(), encode_record(kept)))]
        if (message.epoch, message.counter) > (kept.epoch, kept.counter):
            promised = self._promise()[0]
            assert message.epoch >= promised, (
                f"MAJORITY-3: host {self._host} promised {promised}, and is to keep epoch {message.epoch}"
            )
            self._table.put(RECORD_KEY, message.record)
        return [Send(to, RecordSaved(self._host, message.epoch, message.counter))]


def _tells(effect: Effect) -> bool:
    """Return whether the effect is a message to another node than a host that is asked to keep a record."""
    return type(effect) is Send and type(effect.to) is not HostAddress


class Unsaved(NamedTuple):
    """Effects that wait until a majority keeps the record of this counter."""

    counter: int
    effects: list[Effect]


@dataclass(slots=True, kw_only=True)
class ReplicatedCoordinator:
    """One of several coordinators: prepares, then leads until another one prepares."""

    number: int
    life: int = 0
    """Number of the coordinator's start; the driver never uses a number twice."""
    coordinators: int
    hosts: int
    shards: int
    clients_from: ClientId = NONE_ENDED
    epoch: Epoch = NO_EPOCH
    """The epoch that this coordinator prepares or leads."""
    leading: FailureCoordinator | None = None
    is_preparing: bool = False
    """Whether hosts are being asked for promises. A coordinator that another one has replaced neither
    prepares nor leads until a replica sends it a request."""
    prepared: dict[int, CoordinatorRecord] = field(default_factory=dict)
    unsaved: deque[Unsaved] = field(default_factory=deque)
    saved: dict[int, int] = field(default_factory=dict)
    """Counter of the record that each host keeps, by host."""

    def prepare(self, at_least: Epoch) -> list[Effect]:
        """Step 1: ask for promises of this coordinator's first epoch from ``epoch`` on."""
        lowest = max(at_least, Epoch(self.epoch + 1))
        self.epoch = Epoch(lowest + (self.number - lowest) % self.coordinators)
        assert self.epoch % self.coordinators == self.number, (
            f"MAJORITY-2: coordinator {self.number} takes epoch {self.epoch}, which is for "
            f"{self.epoch % self.coordinators} of {self.coordinators}"
        )
        self.leading = None
        self.is_preparing = True
        self.prepared.clear()
        self.unsaved.clear()
        self.saved.clear()
        return self._ask_for_promises()

    def _ask_for_promises(self) -> list[Effect]:
        prepare = Prepare(self.number, self.epoch, self.life)
        return self._to_hosts(prepare, SetTimer("prepare", PREPARE_MS))

    def _to_hosts(self, message: HostMessage, timer: SetTimer) -> list[Effect]:
        return [*(Send(HostAddress(host), message) for host in range(self.hosts)), timer]

    def handle(self, message: CoordinatorMessage | Prepared | RecordSaved) -> list[Effect]:
        """Take one message and return the effects that are to leave."""
        if isinstance(message, RecordSaved):
            return self._on_saved(message)
        effects = self._on_prepared(message) if isinstance(message, Prepared) else self._take(message)
        said = sum(map(_tells, effects)) if self.unsaved else 0
        assert not said, (
            f"MAJORITY-1: {said} messages follow from record {self.unsaved[-1].counter} of epoch "
            f"{self.epoch}, and hosts keep {self.saved}"
        )
        return effects

    def _take(self, message: CoordinatorMessage) -> list[Effect]:
        if self.leading is None:
            ignored = Dropped(message, "this coordinator does not lead yet")
            return [ignored] if self.is_preparing else [ignored, *self.prepare(self.epoch)]
        if type(message) is EpochChangeRequest and message.epoch > self.leading.record.epoch:
            return self.prepare(message.epoch)
        return self._hold_back(self.leading, self.leading.handle(message))

    def on_timer(self, name: str) -> list[Effect]:
        """Process a timer that has expired; return the effects.

        prepare     not enough hosts have promised
        save        not enough hosts keep the record
        epoch       not enough replicas have shown their logs
        """
        leading = self.leading
        if name == "prepare":
            return self._ask_for_promises() if self.is_preparing else []
        if leading is None:
            return []
        if name == "save":
            return self._save(leading) if self.unsaved else []
        return self._hold_back(leading, leading.on_timer(name))

    def _on_prepared(self, message: Prepared) -> list[Effect]:
        """Step 2: count a promise; stop if another coordinator has prepared a later epoch."""
        if message.epoch != self.epoch:
            return [Dropped(message, f"of epoch {message.epoch}, this is epoch {self.epoch}")]
        if message.promised > self.epoch:
            return self._on_refused(message.promised)
        if not self.is_preparing:
            return [Dropped(message, "there are enough promises")]
        self.prepared[message.host] = decode_record(message.record)
        if 2 * len(self.prepared) <= self.hosts:
            return []
        record = max(self.prepared.values(), key=lambda kept: (kept.epoch, kept.counter))
        assert record.epoch < self.epoch, (
            f"MAJORITY-2: epoch {self.epoch} was prepared, and a record of epoch {record.epoch} is kept"
        )
        self.is_preparing = False
        self.leading = leading = FailureCoordinator(
            record=record, shards=self.shards, replicas=self.hosts, clients_from=self.clients_from
        )
        return self._hold_back(leading, leading.begin(self.epoch))

    def _on_refused(self, promised: Epoch) -> list[Effect]:
        """Prepare a higher epoch; a coordinator that led gives up, and drops the messages it held back."""
        if self.is_preparing:
            return self.prepare(Epoch(promised + 1))
        assert promised > self.epoch, f"MAJORITY-2: epoch {self.epoch} is over for epoch {promised}"
        self.leading = None
        self.epoch = promised
        self.unsaved.clear()
        return []

    def _hold_back(self, leading: FailureCoordinator, effects: list[Effect]) -> list[Effect]:
        """Step 3: hold back the messages that follow from an unsaved record, and all later ones."""
        counter = leading.record.counter
        known = self.unsaved[-1].counter if self.unsaved else self._saved_by_majority()
        assert counter >= known, f"MAJORITY-1: the record has counter {counter}, and {known} was kept"
        if counter != known:
            self.unsaved.append(Unsaved(counter, effects))
            return self._save(leading)
        if self.unsaved:
            self.unsaved[-1].effects.extend(effects)
            return []
        return effects

    def _save(self, leading: FailureCoordinator) -> list[Effect]:
        record = leading.record
        message = SaveRecord(self.number, record.epoch, record.counter, encode_record(record))
        return self._to_hosts(message, SetTimer("save", SAVE_MS))

    def _on_saved(self, message: RecordSaved) -> list[Effect]:
        if message.epoch != self.epoch or self.leading is None:
            return [Dropped(message, f"of epoch {message.epoch}, this is epoch {self.epoch}")]
        self.saved[message.host] = max(message.counter, self.saved.get(message.host, 0))
        saved, effects = self._saved_by_majority(), list[Effect]()
        keepers = sum(counter >= saved for counter in self.saved.values())
        assert not saved or 2 * keepers > self.hosts, (
            f"MAJORITY-1: record {saved} of epoch {self.epoch} is kept by {keepers} of {self.hosts} hosts"
        )
        while self.unsaved and self.unsaved[0].counter <= saved:
            effects += self.unsaved.popleft().effects
        return effects

    def _saved_by_majority(self) -> int:
        counters = sorted(self.saved.values(), reverse=True)
        majority = self.hosts // 2 + 1
        return counters[majority - 1] if len(counters) >= majority else 0
