"""The text of the transcripts in ``tests/transcripts/fuzzylog``: reads operations, and shows messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from kvstore import keys, values
from kvstore.eris.messages import Answer
from kvstore.execution.crdt import cells
from kvstore.execution.crdt.cells import Cell
from kvstore.execution.crdt.escrow import rights
from kvstore.execution.operations import (
    Add,
    Append,
    ChainItem,
    Check,
    Credit,
    Delete,
    Grant,
    Import,
    Marker,
    Operation,
    Piece,
    Put,
    Reserve,
    Segment,
    SetAdd,
    SetRemove,
    Skip,
    Spend,
)
from kvstore.fuzzylog.messages import LinkMessage, News, Pull, Shipment, Vector, Want
from kvstore.types import RegionId, ShardId, Slot, Timestamp
from tests.support.neighbours import SECOND, START, Imported

Names = tuple[str, ...]


def parsed(parts: Iterable[str], names: Names) -> dict[int, list[Operation]]:
    """Return what is asked of each shard by parts of the form SHARD:VERB:ARGUMENT..."""
    made: dict[int, list[Operation]] = {}
    for part in parts:
        shard, verb, *arguments = part.split(":")
        made.setdefault(int(shard), []).append(operation(verb, names, *arguments))
    return made


def operation(verb: str, names: Names, key: str = "", value: str = "", region: str = "") -> Operation:
    """Return the operation that a part of a command names."""
    encoded = keys.encode(key)
    match verb:
        case "put":
            return Put(encoded, values.encode(parsed_value(value)))
        case "delete":
            return Delete(encoded)
        case "add":
            return Add(encoded, values.encode(int(value)))
        case "include":
            return SetAdd(encoded, values.encode(parsed_value(value)))
        case "exclude":
            return SetRemove(encoded, values.encode(parsed_value(value)))
        case "credit":
            return Credit(encoded, int(value), RegionId(names.index(region)))
        case "spend":
            return Spend(encoded, int(value))
        case "grant":
            return Grant(encoded, int(value), RegionId(names.index(region)))
        case "check":
            return Check(encoded, int(value) or None)
        case "reserve":
            return Reserve(encoded)
        case "append":
            return Append(key.encode() or None)
        case _:
            raise AssertionError(f"there is no operation {verb}")


def parsed_value(text: str) -> int | str:
    """Return the number that the text is, else the text."""
    return int(text) if text.lstrip("-").isdigit() else text


# -- messages ----------------------------------------------------------------------------------


def shown_message(message: LinkMessage, names: Names) -> list[str]:
    """Return the lines of a message; a shipment has one more for each part of a chain."""
    match message:
        case News(sender):
            return [f"News of {names[sender]}"]
        case Pull(identity, received, applied, wants, tails):
            lines = [f"Pull of {identity.region}, has {shown_vector(received, names)}"]
            if applied != received:
                lines[0] += f", applied {shown_vector(applied, names)}"
            last = [
                f"{names[region]} {shown_slots({shard: slot for shard, (slot, _) in nodes.items()})}"
                for region, nodes in sorted(tails.items())
            ]
            lines[0] += f"; last nodes {', '.join(last)}" if last else ""
            return lines + [f"  {shown_want(want, names)}" for want in wants]
        case Shipment(identity, chains, ends, fresh):
            times = ", ".join(
                f"{names[region]} at {shown_time(time)}" for region, time in sorted(fresh.items())
            )
            head = f"Shipment of {identity.region}, reaches {shown_vector(ends, names)}; complete {times}"
            parts = ((shard, segment) for shard, segments in sorted(chains.items()) for segment in segments)
            return [head, *(f"  {shown_segment(shard, segment, names)}" for shard, segment in parts)]


def shown_vector(vector: Vector, names: Names) -> str:
    """Return a cut by region: ``eu 2/1`` is slot 2 of its chain of shard 0 and slot 1 of that of shard 1."""
    return ", ".join(
        f"{names[region]} {'/'.join(map(str, slots))}" for region, slots in sorted(vector.items())
    )


def shown_slots(slots: Mapping[ShardId, Slot]) -> str:
    """Return one slot for each shard: ``s0#2 s1#1``."""
    return " ".join(f"s{shard}#{slot}" for shard, slot in sorted(slots.items()))


def shown_want(want: Want, names: Names) -> str:
    """Return a request for rights."""
    hops = f"{want.hops} hop{'s' if want.hops != 1 else ''}"
    return f"{names[want.taker]} wants {want.amount} of {shown_key(want.key)}, for {hops}"


def shown_segment(shard: ShardId, segment: Segment, names: Names) -> str:
    """Return a part of a chain, item by item."""
    return f"{names[segment.region]} s{shard}: {'; '.join(shown_items(segment.first, segment.items, names))}"


def shown_items(first: Slot, items: Sequence[ChainItem], names: Names) -> Iterator[str]:
    """Yield each item with its slots, the first of which is ``first``."""
    for item in items:
        yield f"{shown_range(Slot(first - 1), item.last)} {shown_item(item, names)}"
        first = Slot(item.last + 1)


def shown_range(after: Slot, last: Slot) -> str:
    """Return the slots of a chain after one slot, up to another."""
    return f"#{last}" if last == after + 1 else f"#{after + 1}-{last}"


def shown_item(item: ChainItem, names: Names) -> str:
    """Return what an item says besides its slots."""
    match item:
        case Marker(_, chains):
            ends = ", ".join(f"{names[region]} #{slot}" for region, slot in sorted(chains.items()))
            return f"imported {ends}"
        case Skip(_, edges):
            return f"skip{shown_edges(edges)}"
        case Piece(_, time, effects, places, edges, payload):
            what = [shown_operation(effect, names) for effect in effects]
            what += [f"payload {payload.decode()}"] if payload is not None else []
            whole = f" of {shown_slots(places)}" if places else ""
            return f"{', '.join(what) or 'piece'} at {shown_time(time)}{whole}{shown_edges(edges)}"


def shown_edges(edges: Mapping[ShardId, Slot]) -> str:
    """Return what a piece or a skip depends on besides its chains."""
    return f", depends on {shown_slots(edges)}" if edges else ""


def shown_operation(operation: Operation, names: Names) -> str:
    """Return an operation as one reads it."""
    match operation:
        case Put(key, value):
            return f"put {shown_key(key)}={values.decode(value)}"
        case Delete(key):
            return f"delete {shown_key(key)}"
        case Add(key, amount):
            return f"add {shown_key(key)} {values.decode(amount)}"
        case SetAdd(key, member):
            return f"include {shown_key(key)} {values.decode(member)}"
        case SetRemove(key, member):
            return f"exclude {shown_key(key)} {values.decode(member)}"
        case Credit(key, amount, owner):
            return f"credit {shown_key(key)} {amount} to {names[owner]}"
        case Spend(key, amount):
            return f"spend {shown_key(key)} {amount}"
        case Grant(key, amount, taker):
            return f"grant {shown_key(key)} {amount} to {names[taker]}"
        case _:
            raise AssertionError(f"{operation} is never shipped")


def shown_key(encoded: bytes) -> str:
    """Return a key as a command names it."""
    return str(keys.decode(encoded))


def shown_time(time: Timestamp) -> str:
    """Return a time as seconds after the start, and the nanoseconds that the clock of a region counted on."""
    seconds, rest = divmod(time - START, SECOND)
    return f"{seconds}s+{rest}" if rest else f"{seconds}s"


# -- a region ----------------------------------------------------------------------------------


def shown_answer(answer: Answer, refusals: Sequence[Exception]) -> str:
    """Return the slots of a transaction and what came of it."""
    refused = any(outcome.refused for outcome in answer.outcomes.values())
    results = [
        str(result if isinstance(result, bool) else values.decode(result))
        for shard in sorted(answer.outcomes)
        for result in answer.outcomes[shard].results
        if not answer.outcomes[shard].refused
    ]
    said = [f"{type(error).__name__}: {error.args[0]}" for error in refusals] or (
        ["refused"] if refused else []
    )
    return f"{shown_slots(answer.slots)} {said[0] if said else ' '.join(['done', *results])}"


def shown_import(imported: Imported, names: Names) -> list[str]:
    """Return the slots of an import, and below them the parts of chains that it brought."""
    lines = [f"{shown_slots(imported.slots)} import"]
    for shard, (brought,) in sorted(imported.run.operations.items()):
        assert isinstance(brought, Import)
        lines += [f"  {shown_segment(shard, segment, names)}" for segment in brought.segments]
    return lines


def shown_cell(key: bytes, cell: Cell, names: Names) -> str:
    """Return what a key shows, and of a bounded counter whose rights make it up."""
    name, value = shown_key(key), cells.shown(cell)
    if cell.kind is None:
        return f"{name} absent"
    if cell.escrow is None:
        return f"{name}={value}"
    parts = ", ".join(
        f"{region} {rights(cell.escrow, RegionId(number))}" for number, region in enumerate(names)
    )
    return f"{name}={value} (rights: {parts})"
