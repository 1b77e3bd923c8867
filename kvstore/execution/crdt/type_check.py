"""The refusal of a local write of another type than the type that is shown (contracts D5)."""

from __future__ import annotations

from kvstore.errors import TypeClash
from kvstore.execution.crdt import cells
from kvstore.execution.crdt.cells import Cell
from kvstore.keys import Key
from kvstore.types import Kind

_HINTS: dict[Kind, str] = {
    "register": "it holds a value: put replaces it, delete removes it; counter(k) counts on a key of its own",
    "counter": "it is a counter: use counter(k), or another key",
    "set": "it is a set: use set(k), or delete it first",
    "bounded": "it is a bounded counter: use bounded(k), or another key",
}


def kind_of(payload: bytes | None) -> Kind | None:
    """Return the type that a key shows; ``payload`` is the key's encoded value, None if it has none."""
    if payload is None:
        return None
    return cells.decode(payload).kind if cells.is_record(payload) else "register"


def refuse_other(key: Key, payload: bytes | None, wanted: Kind, *, deletes: bool = False) -> None:
    """Raise ``TypeClash`` unless the key shows nothing or ``wanted``; ``deletes`` also permits a set."""
    refuse_kind(key, kind_of(payload), wanted, deletes=deletes)


def refuse_kind(key: Key, found: Kind | None, wanted: Kind, *, deletes: bool = False) -> None:
    """Raise ``TypeClash`` unless ``found`` is None or ``wanted``; ``deletes`` also permits a set."""
    if found is None or found == wanted or (deletes and found == "set"):
        return
    message = f"{key!r} shows a {found}, and this would write a {wanted}"
    raise TypeClash(message, hint=_HINTS[found], key=key, found=found)


def cell_of(payload: bytes | None) -> Cell:
    """Return the cells of an encoded value; empty cells if it holds none."""
    return cells.NOTHING if payload is None or not cells.is_record(payload) else cells.decode(payload)
