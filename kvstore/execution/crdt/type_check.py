"""Refusing a local write of another type than what is shown (contracts D5)."""

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
    """The type that a key shows; ``payload`` is its encoded record, None where there is none."""
    if payload is None:
        return None
    return cells.decode(payload).kind if cells.is_record(payload) else "register"


def refuse_other(key: Key, payload: bytes | None, wanted: Kind, *, deletes: bool = False) -> None:
    """Raise ``TypeClash`` unless the key shows nothing, or this type; ``deletes``: a set may go as well."""
    refuse_kind(key, kind_of(payload), wanted, deletes=deletes)


def refuse_kind(key: Key, found: Kind | None, wanted: Kind, *, deletes: bool = False) -> None:
    """The same, where the type is known."""
    if found is None or found == wanted or (deletes and found == "set"):
        return
    message = f"{key!r} shows a {found}, and this would write a {wanted}"
    raise TypeClash(message, hint=_HINTS[found], key=key, found=found)


def cell_of(payload: bytes | None) -> Cell:
    """The record, where there is one."""
    return cells.NOTHING if payload is None or not cells.is_record(payload) else cells.decode(payload)
