"""What may be imported next, piece by piece: causes first, whole nodes, chains in their order (IMPORT-1,
IMPORT-2)."""

from __future__ import annotations

from kvstore.execution.operations import ChainItem, Import, Marker, Piece, Put, Segment, Skip
from kvstore.fuzzylog import importing
from kvstore.fuzzylog.importing import Importer, Run, dominates, lacking
from kvstore.fuzzylog.messages import Identity, Shipment, Vector
from kvstore.types import RegionId, ShardId, Slot, Timestamp

OWN, EU, US = map(RegionId, range(3))
A, B = map(ShardId, range(2))
NOW = Timestamp(1_000_000)
IDENTITY = Identity("eu", ("ap", "eu", "us"), "world", 2, None)


def piece(slot: int, time: int, **more: object) -> Piece:
    return Piece(Slot(slot), Timestamp(time), (Put(b"k", b"v"),), **more)  # type: ignore[arg-type]  # by name


def shipped(region: RegionId, chains: dict[ShardId, tuple[int, list[ChainItem]]]) -> Shipment:
    parts: dict[ShardId, tuple[Segment, ...]] = {
        shard: (Segment(region, Slot(first), tuple(items)),) for shard, (first, items) in chains.items()
    }
    return Shipment(IDENTITY, parts, {}, {})


def importer(skew: int = 1_000) -> Importer:
    nothing = (Slot(0), Slot(0))
    return Importer(OWN, {EU: nothing, US: nothing}, {}, skew)


def imported(run: Run | None) -> list[tuple[int, int, int]]:
    """Region, shard and slot of each piece of a run."""
    assert run is not None
    found = []
    for shard, (operation,) in run.operations.items():
        assert type(operation) is Import
        for segment in operation.segments:
            for item in segment.items:
                if type(item) is Piece:
                    found.append((int(segment.region), int(shard), int(item.last)))
    return sorted(found)


def test_a_node_is_imported_when_all_its_pieces_are_here() -> None:
    waiting = importer()
    places = {A: Slot(1), B: Slot(1)}
    waiting.receive(shipped(EU, {A: (1, [piece(1, 10, places=places)])}))
    assert waiting.next_run(NOW) is None
    waiting.receive(shipped(EU, {B: (1, [piece(1, 10, places=places)])}))
    assert imported(waiting.next_run(NOW)) == [(EU, A, 1), (EU, B, 1)]


def test_an_edge_is_waited_for() -> None:
    waiting = importer()
    waiting.receive(shipped(EU, {A: (1, [piece(1, 20, edges={B: Slot(1)})])}))
    assert waiting.next_run(NOW) is None
    waiting.receive(shipped(EU, {B: (1, [piece(1, 10)])}))
    assert imported(waiting.next_run(NOW)) == [(EU, A, 1), (EU, B, 1)]


def test_what_the_other_region_had_imported_is_waited_for() -> None:
    waiting = importer()
    waiting.receive(shipped(EU, {A: (1, [Marker(Slot(1), {US: Slot(2)}), piece(2, 30)])}))
    assert waiting.next_run(NOW) is None
    waiting.receive(shipped(US, {A: (1, [piece(1, 10)])}))
    run = waiting.next_run(NOW)
    assert imported(run) == [(US, A, 1)]
    assert run is not None
    waiting.imported(run)
    waiting.receive(shipped(US, {A: (2, [piece(2, 20)])}))
    assert imported(waiting.next_run(NOW)) == [(EU, A, 2), (US, A, 2)]


def test_a_skip_waits_for_the_edges_that_were_to_go_with_it() -> None:
    waiting = importer()
    waiting.receive(shipped(EU, {A: (1, [Skip(Slot(1), {B: Slot(1)}), piece(2, 20)])}))
    assert waiting.next_run(NOW) is None
    waiting.receive(shipped(EU, {B: (1, [piece(1, 10)])}))
    assert imported(waiting.next_run(NOW)) == [(EU, A, 2), (EU, B, 1)]


def test_what_is_behind_the_last_node_is_noted_and_goes_with_the_next() -> None:
    waiting = importer()
    waiting.receive(shipped(EU, {A: (1, [piece(1, 10), Skip(Slot(4))])}))
    run = waiting.next_run(NOW)
    assert run is not None
    waiting.imported(run)
    assert waiting.next_run(NOW) is None
    assert waiting.applied()[EU] == (4, 0)
    waiting.receive(shipped(EU, {A: (5, [piece(5, 20)])}))
    again = waiting.next_run(NOW)
    assert again is not None
    (operation,) = again.operations[A]
    assert type(operation) is Import
    assert operation.segments == (Segment(EU, Slot(2), (Skip(Slot(4)), piece(5, 20))),)


def test_markers_alone_are_never_imported() -> None:
    waiting = importer()
    waiting.receive(shipped(EU, {A: (1, [Marker(Slot(1), {OWN: Slot(9)})])}))
    assert waiting.next_run(NOW) is None
    assert waiting.applied()[EU] == (1, 0)


def test_copies_gaps_and_late_parts_do_no_harm() -> None:
    waiting = importer()
    first = shipped(EU, {A: (1, [piece(1, 10), piece(2, 20)])})
    waiting.receive(shipped(EU, {A: (3, [piece(3, 30)])}))
    assert (waiting.ignored, waiting.received()[EU]) == (1, (0, 0))
    waiting.receive(first)
    waiting.receive(first)
    waiting.receive(shipped(EU, {A: (2, [piece(2, 20), piece(3, 30)])}))
    assert imported(waiting.next_run(NOW)) == [(EU, A, 1), (EU, A, 2), (EU, A, 3)]


def test_a_node_that_is_too_far_ahead_holds_its_chain_and_no_other() -> None:
    waiting = importer(skew=1_000)
    late = Timestamp(NOW + 1_001)
    waiting.receive(shipped(EU, {A: (1, [piece(1, late), piece(2, late + 1)])}))
    waiting.receive(shipped(US, {A: (1, [piece(1, 10)])}))
    assert imported(waiting.next_run(NOW)) == [(US, A, 1)]
    assert waiting.held == {EU: late}


def test_what_is_larger_than_a_run_is_one_of_its_own() -> None:
    waiting = importer()
    large = Piece(Slot(2), Timestamp(20), (Put(b"k", bytes(importing.BYTES_MAX + 1)),))
    waiting.receive(shipped(EU, {A: (1, [piece(1, 10), large, piece(3, 30)])}))
    for slots in ([1], [2], [3]):
        run = waiting.next_run(NOW)
        assert imported(run) == [(EU, A, slot) for slot in slots]
        assert run is not None
        waiting.imported(run)


def test_cuts_are_compared_place_by_place() -> None:
    one: Vector = {EU: (Slot(3), Slot(1))}
    other: Vector = {EU: (Slot(2), Slot(2)), US: (Slot(1), Slot(0))}
    assert not dominates(one, other)
    assert dict(lacking(one, other)) == {EU: 1, US: 1}
    assert dominates(other | {EU: (Slot(3), Slot(2))}, one)


def test_the_last_node_of_a_copy_is_known_and_no_skip_or_marker_is_one() -> None:
    waiting = importer()
    assert waiting.tails() == {}
    waiting.receive(
        shipped(
            EU, {A: (1, [piece(1, 10), Skip(Slot(2)), piece(3, 30), Skip(Slot(4))]), B: (1, [Skip(Slot(1))])}
        )
    )
    run = waiting.next_run(NOW)
    assert run is not None
    assert waiting.tails() == {}, "it is not imported yet"
    waiting.imported(run)
    assert waiting.tails() == {EU: {A: (Slot(3), Timestamp(30))}}
