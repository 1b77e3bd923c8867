"""The order in which the versions of a key replaced each other, as far as the reads alone tell.

A block is a run of versions without anything between: what follows from lists that were read, and from
transactions that read a version and wrote the next. Blocks are in some order; the first is known, as it
begins with the empty key. Which order the others are in is found by ``ordering``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from tests.histories.evidence import Evidence, KeyEvidence, misread_values
from tests.histories.verdict import Anomaly


@dataclass
class Version:
    """Who wrote it, ``None`` for the empty key, and who else read it."""

    writer: int | None
    readers: list[int] = field(default_factory=list)


@dataclass
class Block:
    """Versions of one key, each the next of the one before."""

    key: Any
    versions: list[Version]
    end: int = -1
    """The node of the graph behind which the next block may begin."""

    @property
    def head(self) -> int:
        """The transaction that begins it. The first block of a key has none."""
        writer = self.versions[0].writer
        assert writer is not None, "the first block has no head"
        return writer

    @property
    def tail(self) -> Version:
        return self.versions[-1]

    @property
    def is_point(self) -> bool:
        """Whether nobody ever saw it: such blocks stand anywhere, in any order to each other."""
        return len(self.versions) == 1 and not self.tail.readers


@dataclass
class KeyVersions:
    """The block that begins with the empty key, and all others."""

    first: Block
    others: list[Block]


def versions_of(evidence: Evidence, of_key: KeyEvidence) -> KeyVersions:
    """The versions of a key. What cannot be in any order is added to the anomalies of the evidence."""
    evidence.anomalies += misread_values(evidence, of_key)
    if of_key.shape == "register":
        return _register_versions(of_key)
    evidence.anomalies += _misread_lists(evidence, of_key)
    return _list_versions(of_key)


def _misread_lists(evidence: Evidence, of_key: KeyEvidence) -> Iterator[Anomaly]:
    """Lists that repeat an element, that are no beginnings of one another, or that leave something out."""
    longest = _longest(of_key)
    for reader, value in of_key.reads:
        told = f"{evidence.described(reader)}\n  read key {of_key.key!r} as {value!r}"
        if len(set(value)) < len(value):
            yield Anomaly("duplicate-elements", told)
        if value != longest[: len(value)]:
            yield Anomaly("incompatible-order", f"{told},\n  and another read it as {longest!r}")
    places = {element: place for place, element in enumerate(longest)}
    for writer, values in of_key.writes:
        found = [places[value] for value in values if value in places]
        if found and (found != sorted(found) or len(found) < len(values)):
            told = f"{evidence.described(writer)}\n  appended {values!r} to key {of_key.key!r}"
            yield Anomaly("incompatible-order", f"{told}, and it was read as {longest!r}")


def _longest(of_key: KeyEvidence) -> tuple[Any, ...]:
    """The longest list anybody saw: all others have to be beginnings of it."""
    own = dict(of_key.writes)
    seen = [(*value, *own.get(reader, ())) for reader, value in of_key.reads]
    return max(seen, key=len, default=())


def _list_versions(of_key: KeyEvidence) -> KeyVersions:
    """The longest list is the first block. Appends that nobody saw come after it, each by itself."""
    runs = [
        (writer, len(list(run)))
        for writer, run in groupby(of_key.writer_of.get(element) for element in _longest(of_key))
    ]
    versions, lengths = [Version(None)], {0: 0}
    for writer, length in runs:
        lengths[max(lengths) + length] = len(versions)
        versions.append(Version(writer))
    for reader, value in of_key.reads:
        if len(value) in lengths:
            versions[lengths[len(value)]].readers.append(reader)
    placed = {version.writer for version in versions}
    unseen = [writer for writer, _ in of_key.writes if writer not in placed]
    return KeyVersions(
        Block(of_key.key, versions), [Block(of_key.key, [Version(writer)]) for writer in unseen]
    )


def _register_versions(of_key: KeyEvidence) -> KeyVersions:
    """Whoever read a version and wrote is next to it. When several did, only one can be: cycles will tell."""
    read_by = dict(of_key.reads)
    versions = {None: Version(None)} | {values[-1]: Version(writer) for writer, values in of_key.writes}
    for reader, value in of_key.reads:
        if value in versions:
            versions[value].readers.append(reader)
    next_of: dict[Any, Any] = {}
    for writer, values in of_key.writes:
        if writer in read_by and read_by[writer] in versions:
            next_of.setdefault(read_by[writer], values[-1])
    chained = set(next_of.values())
    heads = [value for value in versions if value not in chained]
    blocks = [Block(of_key.key, [versions.pop(value) for value in _chain(next_of, value)]) for value in heads]
    # What is left read from each other in a circle. Which of them begins does not matter.
    while versions:
        chain = [value for value in _chain(next_of, next(iter(versions))) if value in versions]
        blocks.append(Block(of_key.key, [versions.pop(value) for value in chain]))
    return KeyVersions(blocks[0], blocks[1:])


def _chain(next_of: dict[Any, Any], value: Any) -> list[Any]:
    chain = dict.fromkeys([value])
    while value in next_of and next_of[value] not in chain:
        value = next_of[value]
        chain[value] = None
    return list(chain)
