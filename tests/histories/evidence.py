"""What a history says key by key: who wrote what, and who read which version of it.

Reads inside a transaction that follow from what it did itself are checked here and then left out, so of
each transaction and key there is at most one read left, of the state before the transaction. Left out are
also the transactions that failed, and of those with unknown outcome all whose writes nobody saw: for them
"it never happened" is always an allowed story. What a transaction with unknown outcome read proves nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.histories.history import History, Outcome, Transaction
from tests.histories.verdict import Anomaly, Undecidable

Shape = Literal["list", "register"]

_BY_SEVERITY = [
    "internal", "future-read", "G1a", "G1b", "unwritten-read", "duplicate-elements", "incompatible-order",
]  # fmt: skip


@dataclass
class KeyEvidence:
    """Of one key. Transactions are numbers into ``Evidence.transactions``."""

    key: Any
    shape: Shape
    reads: list[tuple[int, Any]] = field(default_factory=list)
    """Reader and value: of a list the tuple as it was before the reader's own appends."""
    writes: list[tuple[int, list[Any]]] = field(default_factory=list)
    """Writer and all it wrote, in its order."""
    writer_of: dict[Any, int] = field(default_factory=dict)
    """Value, or element of a list, and who wrote it."""
    failed: set[Any] = field(default_factory=set)
    """What transactions wrote that failed."""


@dataclass
class Evidence:
    """Of all keys. ``numbers`` says where in the history each transaction stands."""

    transactions: list[Transaction] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    keys: dict[Any, KeyEvidence] = field(default_factory=dict)
    anomalies: list[Anomaly] = field(default_factory=list)

    def worst_read(self) -> Anomaly | None:
        """Of the reads that nothing can explain the one that says most."""
        return min(self.anomalies, key=lambda one: _BY_SEVERITY.index(one.name), default=None)

    def name(self, transaction: int) -> str:
        return f"T{self.numbers[transaction]}"

    def described(self, transaction: int) -> str:
        return f"{self.name(transaction)} = {self.transactions[transaction]}"


def gather(history: History) -> Evidence:
    """Read a history.

    Raises:
        Undecidable: two transactions wrote the same to one key, or a key is both a list and a register.
    """
    evidence = Evidence()
    shapes = _shapes(history)
    seen = _seen(history)
    for number, one in enumerate(history):
        if one.outcome is Outcome.OK or (one.outcome is Outcome.UNKNOWN and _was_seen(one, seen)):
            evidence.transactions.append(one)
            evidence.numbers.append(number)
            _take(evidence, shapes, one)
    _take_failed(evidence, shapes, history)
    return evidence


def _shapes(history: History) -> dict[Any, Shape]:
    """A key is a list when something was appended to it or a tuple read, otherwise a register."""
    shapes: dict[Any, Shape] = {}
    for one in history:
        for kind, key, value in one.operations:
            shape: Shape = "list" if kind == "append" or isinstance(value, tuple) else "register"
            if (kind != "read" or value is not None) and shapes.setdefault(key, shape) != shape:
                raise Undecidable(f"key {key!r} is a list to some and a register to others")
    return shapes


def _seen(history: History) -> set[tuple[Any, Any]]:
    """Key and value, or element, of all that was read by those who were told it is so."""
    return {
        (key, element)
        for one in history
        if one.outcome is Outcome.OK
        for kind, key, value in one.operations
        if kind == "read"
        for element in (value if isinstance(value, tuple) else (value,))
    }


def _was_seen(one: Transaction, seen: set[tuple[Any, Any]]) -> bool:
    return any(kind != "read" and (key, value) in seen for kind, key, value in one.operations)


def _take(evidence: Evidence, shapes: dict[Any, Shape], one: Transaction) -> None:
    """Add the transaction that was appended last."""
    number = len(evidence.transactions) - 1
    before: dict[Any, Any] = {}
    written: defaultdict[Any, list[Any]] = defaultdict(list)
    for kind, key, value in one.operations:
        if kind != "read":
            written[key].append(value)
        elif one.outcome is Outcome.OK:
            expected = _read_inside(shapes.get(key, "register"), key, value, written[key], before)
            if expected is not None:
                told = f"{evidence.described(number)}\n  read {key!r} as {value!r}, it had to be {expected}"
                evidence.anomalies.append(Anomaly("internal", told))
    for key, value in before.items():
        _of_key(evidence, shapes, key).reads.append((number, value))
    for key, values in written.items():
        if values:
            _take_writes(_of_key(evidence, shapes, key), number, values)


def _read_inside(shape: Shape, key: Any, value: Any, own: list[Any], before: dict[Any, Any]) -> str | None:
    """Learn from a read what was there before; or what it had to be, when it contradicts its transaction."""
    if shape == "register" and own:
        return None if value == own[-1] else repr(own[-1])
    if shape == "list":
        value = value or ()
        if value[len(value) - len(own) :] != tuple(own):
            return f"something that ends with {tuple(own)!r}"
        value = value[: len(value) - len(own)]
    if before.setdefault(key, value) != value:
        return repr((*before[key], *own) if shape == "list" else before[key])
    return None


def _of_key(evidence: Evidence, shapes: dict[Any, Shape], key: Any) -> KeyEvidence:
    if key not in evidence.keys:
        evidence.keys[key] = KeyEvidence(key, shapes.get(key, "register"))
    return evidence.keys[key]


def _take_writes(of_key: KeyEvidence, number: int, values: list[Any]) -> None:
    of_key.writes.append((number, values))
    for value in values:
        if value is None or value in of_key.writer_of:
            raise Undecidable(f"{value!r} was written to key {of_key.key!r} twice, or is what it began with")
        of_key.writer_of[value] = number


def _take_failed(evidence: Evidence, shapes: dict[Any, Shape], history: History) -> None:
    for one in history:
        for kind, key, value in one.operations if one.outcome is Outcome.FAILED else ():
            if kind != "read":
                _of_key(evidence, shapes, key).failed.add(value)


def misread_values(evidence: Evidence, of_key: KeyEvidence) -> Iterator[Anomaly]:
    """Reads of what nobody wrote, what failed, what its writer replaced, or what its reader wrote later.

    What failed, was tried again and then written is that of the one who wrote it.
    """
    own = {writer: set(values) for writer, values in of_key.writes}
    replaced = {value for _, values in of_key.writes for value in values[:-1]}
    for reader, value in of_key.reads:
        read = value if of_key.shape == "list" else (value,) * (value is not None)
        told = f"{evidence.described(reader)}\n  read key {of_key.key!r} as {value!r}: "
        for element in set(read).difference(of_key.writer_of):
            if element in of_key.failed:
                yield Anomaly("G1a", f"{told}{element!r} was written by a transaction that failed")
            else:
                yield Anomaly("unwritten-read", f"{told}nobody wrote {element!r}")
        for element in own.get(reader, set()).intersection(read):
            yield Anomaly("future-read", f"{told}it wrote {element!r} itself, and later")
        if read and read[-1] in replaced and of_key.writer_of[read[-1]] != reader:
            writer = evidence.described(of_key.writer_of[read[-1]])
            yield Anomaly("G1b", f"{told}{read[-1]!r} is not the last that its writer wrote\n{writer}")
