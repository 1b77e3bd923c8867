"""The anomalies of the Hermitage suite, none of which may appear: sessions by ``begin``, interleaved by hand.

Two accounts, x with 10 and y with 20, and sessions one, two and three. Only the transactions are
concurrent: each step ends before the next begins. The second half uses threads.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

import kvstore
from kvstore import Database, Key, Transaction
from tests.support.transactions import PATIENCE_S, Later, key_on, run_all

SHARDS = 4
ROWS: Key = ("row",)
"""Prefix of the keys of ranges."""
THREADS, ROUNDS = 6, 40


class Scene:
    """A store with x, y and rows, all on one shard or on several."""

    def __init__(self, db: Database, *, across: bool) -> None:
        self.db = db
        ((of_rows,),) = {db.explain(row).shards for row in self.rows(1)}
        self.shards = (of_rows, (of_rows + 1) % SHARDS) if across else (of_rows, of_rows)
        self.x, self.y = self.keys("account")
        db.put(self.x, 10)
        db.put(self.y, 20)

    def keys(self, name: str) -> list[str]:
        """Return a key on each of the two shards."""
        return [key_on(self.db, shard, f"{name} {place}") for place, shard in enumerate(self.shards)]

    def rows(self, count: int) -> list[Key]:
        """Return keys of a range, on the shards that ``placement`` gives them."""
        return [("row", number) for number in range(count)]

    def pair(self) -> list[Any]:
        """Return the values of x and y as a new reader sees them."""
        return self.db.get_many([self.x, self.y])


@pytest.fixture(params=["one shard", "across shards"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scene(place: str, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Yield a scene; ``placement=1`` puts all rows on one shard."""
    across = place == "across shards"
    replicas = getattr(request, "param", 1)
    with kvstore.open(":memory:", shards=SHARDS, replicas=replicas, placement=None if across else 1) as db:
        scene = Scene(db, across=across)
        shards = {db.explain(key).shards for key in scene.rows(20)}
        assert len(shards) == (SHARDS if across else 1)
        yield scene


both_replications = pytest.mark.parametrize("scene", [1, 3], indirect=True, ids=["1 replica", "3 replicas"])


def values_of(transaction: Transaction) -> dict[Key, Any]:
    return dict(transaction.scan(prefix=ROWS))


def refused(transaction: Transaction, *keys: Key) -> None:
    """Check that the transaction cannot commit, because one of these keys has changed."""
    with pytest.raises(kvstore.Conflict) as found:
        transaction.commit()
    assert found.value.key in keys
    assert found.value.attempts == 1
    with pytest.raises(kvstore.Finished):
        transaction.commit()


@both_replications
class TestAnomalies:
    def test_g0_writes_of_two_are_not_mixed(self, scene: Scene) -> None:
        one, two = scene.db.begin(), scene.db.begin()
        one.put(scene.x, 11)
        two.put(scene.x, 12)
        one.put(scene.y, 21)
        one.commit()
        assert scene.pair() == [11, 21]
        two.put(scene.y, 22)
        two.commit()

        assert scene.pair() == [12, 22]

    def test_g0_nor_when_the_first_to_write_is_the_last_to_commit(self, scene: Scene) -> None:
        one, two = scene.db.begin(), scene.db.begin()
        one.put(scene.x, 11)
        two.put(scene.y, 22)
        two.put(scene.x, 12)
        one.put(scene.y, 21)
        two.commit()
        assert scene.pair() == [12, 22]
        one.commit()

        assert scene.pair() == [11, 21]

    def test_g1a_nobody_reads_what_was_rolled_back(self, scene: Scene) -> None:
        one, two = scene.db.begin(), scene.db.begin()
        one.put(scene.x, 101)
        assert two[scene.x] == 10
        one.rollback()
        assert two[scene.x] == 10
        two.put(scene.y, two[scene.x])
        two.commit()

        assert scene.pair() == [10, 10]

    def test_g1a_nor_what_was_refused(self, scene: Scene) -> None:
        one, two = scene.db.begin(), scene.db.begin()
        one.put(scene.x, one[scene.y] + 81)
        scene.db.add(scene.y)
        refused(one, scene.y)
        assert two[scene.x] == 10
        two.put(scene.y, two[scene.x])
        two.commit()

        assert scene.pair() == [10, 10]

    def test_g1b_nobody_reads_what_was_overwritten_before_the_end(self, scene: Scene) -> None:
        since = scene.db.cursor()
        one, two = scene.db.begin(), scene.db.begin()
        one.put(scene.x, 101)
        assert two[scene.x] == 10
        one.put(scene.x, 11)
        one.commit()
        assert two[scene.x] == 10
        two.commit()

        assert scene.pair() == [11, 20]
        assert [change.value for change in scene.db.watch(since=since, timeout=0)] == [11]

    def test_g1c_two_do_not_see_each_other_s_writes_in_a_circle(self, scene: Scene) -> None:
        one, two = scene.db.begin(), scene.db.begin()
        one.put(scene.x, 11)
        two.put(scene.y, 22)
        assert one[scene.y] == 20
        assert two[scene.x] == 10
        one.commit()
        refused(two, scene.x)

        assert scene.pair() == [11, 20]

    def test_otv_what_was_seen_does_not_vanish(self, scene: Scene) -> None:
        one, two, three = (scene.db.begin() for _ in range(3))
        one.put(scene.x, 11)
        one.put(scene.y, 19)
        two.put(scene.x, 12)
        one.commit()
        assert three[scene.x] == 11
        two.put(scene.y, 18)
        assert three[scene.y] == 19
        two.commit()
        assert (three[scene.x], three[scene.y]) == (11, 19)
        three.commit()

        assert scene.pair() == [12, 18]

    def test_otv_who_sees_the_second_sees_all_of_it(self, scene: Scene) -> None:
        one, two, three = (scene.db.begin() for _ in range(3))
        one.put(scene.x, 11)
        one.put(scene.y, 19)
        two.put(scene.y, 18)
        two.put(scene.x, 12)
        one.commit()
        two.commit()

        assert (three[scene.x], three[scene.y]) == (12, 18)

    def test_pmp_a_range_does_not_grow_under_a_reader(self, scene: Scene) -> None:
        first, second, third = scene.rows(3)
        scene.db.put(first, 1)
        one = scene.db.begin()
        assert values_of(one) == {first: 1}
        scene.db.put(second, 2)
        with scene.db.begin() as two:
            two.put(third, two[second] + 1)
        assert values_of(one) == {first: 1}
        assert one.get(third) is None
        one.commit()

        assert dict(scene.db.scan(prefix=ROWS)) == {first: 1, second: 2, third: 3}

    def test_pmp_nor_may_one_write_on_the_strength_of_it(self, scene: Scene) -> None:
        first, second, _ = scene.rows(3)
        scene.db.put(first, 1)
        one = scene.db.begin()
        one.put(scene.x, one.count(prefix=ROWS))
        scene.db.put(second, 2)
        refused(one, second)

        assert scene.pair() == [10, 20]

    def test_p4_no_update_is_lost(self, scene: Scene) -> None:
        one, two = scene.db.begin(), scene.db.begin()
        assert one[scene.x] == two[scene.x] == 10
        one.put(scene.x, 11)
        two.put(scene.x, 11)
        one.commit()
        refused(two, scene.x)

        assert scene.pair() == [11, 20]

    def test_p4_nor_where_the_other_writes_the_value_that_was_there(self, scene: Scene) -> None:
        one = scene.db.begin()
        one.put(scene.x, one[scene.x] + 1)
        scene.db.put(scene.x, 10)
        refused(one, scene.x)

    def test_p4_nor_where_it_was_decided_elsewhere(self, scene: Scene) -> None:
        """Both sessions take from x, and give to y."""
        one, two = scene.db.begin(), scene.db.begin()
        for session in (one, two):
            session.put(scene.x, session[scene.x] - 10)
            session.add(scene.y, 10)
        one.commit()
        refused(two, scene.x)

        assert scene.pair() == [0, 30]

    def test_g_single_a_reader_sees_a_pair_of_one_moment(self, scene: Scene) -> None:
        one, two = scene.db.begin(), scene.db.begin()
        assert one[scene.x] == 10
        assert (two[scene.x], two[scene.y]) == (10, 20)
        two.put(scene.x, 12)
        two.put(scene.y, 18)
        two.commit()
        assert one[scene.y] == 20
        one.commit()

        assert scene.pair() == [12, 18]

    def test_g_single_nor_may_one_write_on_the_strength_of_it(self, scene: Scene) -> None:
        one = scene.db.begin()
        assert one[scene.x] == 10
        with scene.db.begin() as two:
            two.put(scene.x, 12)
            two.put(scene.y, 18)
        one.delete(scene.y)
        refused(one, scene.x)

        assert scene.pair() == [12, 18]

    def test_g_single_by_a_range_and_a_key(self, scene: Scene) -> None:
        first, second, _ = scene.rows(3)
        scene.db.put(first, 1)
        one = scene.db.begin()
        assert values_of(one) == {first: 1}
        with scene.db.batch() as batch:
            batch.put(second, 2)
            batch.put(scene.y, 21)
        assert one[scene.y] == 20

    def test_g2_item_two_do_not_each_write_what_the_other_read(self, scene: Scene) -> None:
        one, two = scene.db.begin(), scene.db.begin()
        for session in (one, two):
            assert (session[scene.x], session[scene.y]) == (10, 20)
        one.put(scene.x, 11)
        two.put(scene.y, 21)
        one.commit()
        refused(two, scene.x)

        assert scene.pair() == [11, 20]

    def test_g2_item_of_keys_that_are_missing(self, scene: Scene) -> None:
        left, right = scene.keys("missing")
        one, two = scene.db.begin(), scene.db.begin()
        for session in (one, two):
            assert left not in session
            assert right not in session
        one.put(left, 1)
        two.put(right, 1)
        one.commit()
        refused(two, left)

        assert right not in scene.db

    def test_g2_two_do_not_each_add_to_the_range_the_other_read(self, scene: Scene) -> None:
        first, second, _ = scene.rows(3)
        one, two = scene.db.begin(), scene.db.begin()
        for session in (one, two):
            assert values_of(session) == {}
        one.put(first, 30)
        two.put(second, 42)
        one.commit()
        refused(two, first)

        assert dict(scene.db.scan(prefix=ROWS)) == {first: 30}

    def test_g2_of_three_in_a_circle(self, scene: Scene) -> None:
        """One writes the sum of the rows, two adds a row, three saw the new sum and not the row."""
        first, second, _ = scene.rows(3)
        scene.db.put(first, 10)
        one = scene.db.begin()
        total = sum(values_of(one).values())
        with scene.db.begin() as two:
            two.put(second, 25)
        three = scene.db.begin()
        assert values_of(three) == {first: 10, second: 25}
        assert three[scene.x] == 10
        three.commit()
        one.put(scene.x, total)
        refused(one, second)

    def test_what_nobody_read_conflicts_with_nothing(self, scene: Scene) -> None:
        first, second, third = scene.rows(3)
        one = scene.db.begin()
        assert one.get(first) is None
        assert list(one.scan(prefix=ROWS, stop=first)) == []
        scene.db.put(second, 2)
        scene.db.put(scene.x, 12)
        one.put(third, 3)
        one.put(scene.x, 11)
        one.commit()

        assert scene.db.get_many([scene.x, second, third]) == [11, 2, 3]


class TestPhantoms:
    """A range counts as read up to the point where its scan ended."""

    @pytest.mark.parametrize("change", ["insert", "delete", "overwrite", "delete and insert again"])
    @pytest.mark.parametrize("reverse", [False, True])
    @both_replications
    def test_a_change_within_what_was_scanned_is_a_conflict(
        self, scene: Scene, change: str, reverse: bool
    ) -> None:
        rows = scene.rows(9)
        for row in rows[::2]:
            scene.db.put(row, "old")
        one = scene.db.begin()
        assert len(list(one.scan(prefix=ROWS, reverse=reverse, limit=3))) == 3
        changed = rows[5 if reverse else 3] if change == "insert" else rows[6 if reverse else 2]
        if "delete" in change:
            scene.db.delete(changed)
        if change != "delete":
            scene.db.put(changed, "new")
        one.put(scene.x, 0)
        refused(one, changed)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_change_beyond_it_is_none(self, scene: Scene, reverse: bool) -> None:
        rows = scene.rows(9)
        for row in rows[::2]:
            scene.db.put(row, "old")
        one = scene.db.begin()
        assert len(list(one.scan(prefix=ROWS, reverse=reverse, limit=2))) == 2
        for row in rows[:5] if reverse else rows[5:]:
            scene.db.put(row, "new")
        one.put(scene.x, 0)
        one.commit()

        assert scene.db[scene.x] == 0

    def test_an_empty_range_is_read_too(self, scene: Scene) -> None:
        rows = scene.rows(9)
        one = scene.db.begin()
        assert one.count(start=rows[2], stop=rows[4]) == 0
        scene.db.put(rows[4], "beside it")
        one.put(scene.x, 0)
        scene.db.put(rows[3], "in it")
        refused(one, rows[3])


def increment(db: Database, key: Key) -> None:
    db.run(lambda transaction: transaction.put(key, transaction[key] + 1))


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Switch threads every tenth of a millisecond, so that their transactions overlap."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(before)


@both_replications
@pytest.mark.usefixtures("many_switches")
class TestInThreads:
    def test_no_increment_is_lost(self, scene: Scene) -> None:
        def work() -> None:
            for number in range(ROUNDS):
                increment(scene.db, scene.x if number % 2 else scene.y)

        run_all([work] * THREADS)

        assert sum(scene.pair()) == 30 + THREADS * ROUNDS

    def test_somebody_stays_on_call(self, scene: Scene) -> None:
        """Write skew: a doctor may leave if another is on call; two must not leave at one moment."""
        doctors = scene.keys("doctor")

        def leave(transaction: Transaction, doctor: Key, looked: list[bool]) -> bool:
            here = [transaction[other] for other in doctors]
            if not looked:
                looked.append(True)
                both_looked.wait(PATIENCE_S)
            if sum(here) < 2:
                return False
            transaction.put(doctor, False)
            return True

        both_looked = threading.Barrier(2)
        for _ in range(ROUNDS):
            with scene.db.batch() as batch:
                for doctor in doctors:
                    batch.put(doctor, True)
            calls = [Later(partial(scene.db.run, leave, doctor, [])) for doctor in doctors]

            assert sorted(call.result() for call in calls) == [False, True]
            assert sum(scene.db.get_many(doctors)) == 1

    def test_a_room_is_never_overbooked(self, scene: Scene) -> None:
        """Phantoms: each guest counts the guests, then adds itself."""
        most = 7

        def book(transaction: Transaction, guest: Key) -> bool:
            if transaction.count(prefix=ROWS) >= most:
                return False
            transaction.put(guest, "booked")
            transaction.put(scene.x, transaction.count(prefix=ROWS))
            return True

        booked: list[bool] = []

        def work(place: int) -> None:
            book_one = scene.db.transaction(max_retries=1000, timeout=None)(book)
            for guest in range(place, 3 * THREADS, THREADS):
                booked.append(book_one(("row", guest)))

        run_all([partial(work, place) for place in range(THREADS)])

        assert sum(booked) == scene.db.count(prefix=ROWS) == scene.db[scene.x] == most

    def test_readers_see_one_moment(self, scene: Scene) -> None:
        over = threading.Event()
        seen: list[int] = []

        def transfer(seed: int) -> None:
            randomly = random.Random(seed)
            for _ in range(ROUNDS):
                move(scene, randomly.randint(-5, 5))

        def audit(transaction: Transaction) -> int:
            found: int = transaction[scene.x] + transaction[scene.y]
            rows = transaction.count(prefix=ROWS)
            assert rows == transaction.get("rows", 0)
            return found

        def read() -> None:
            while not over.is_set():
                seen.append(scene.db.run(audit))
                with scene.db.begin() as transaction:
                    seen.append(audit(transaction))
                    assert transaction.route.path == "read-only"

        def write() -> None:
            try:
                run_all([partial(transfer, seed) for seed in range(THREADS)])
            finally:
                over.set()

        run_all([write, read, read])

        assert set(seen) == {30}

    def test_no_body_ever_sees_two_moments(self, scene: Scene) -> None:
        """This holds even for an attempt that will be refused: a wrong sum raises out of the body."""

        def look_and_write(transaction: Transaction, seed: int) -> None:
            randomly = random.Random(seed)
            keys = [scene.x, scene.y, "rows"]
            randomly.shuffle(keys)
            rows = values_of(transaction) if randomly.random() < 0.5 else None
            found = {key: transaction.get(key, 0) for key in keys}
            if rows is None:
                rows = values_of(transaction)
            assert found[scene.x] + found[scene.y] == 30
            assert len(rows) == found["rows"]
            transaction.put(("seen", seed % 5), found[scene.x])
            if randomly.random() < 0.5:
                transaction.put(scene.x, found[scene.x] - 1)
                transaction.put(scene.y, found[scene.y] + 1)

        def look(place: int) -> None:
            run = scene.db.transaction(max_retries=1000, timeout=None)(look_and_write)
            for number in range(ROUNDS):
                run(place * ROUNDS + number)

        def write() -> None:
            for number in range(2 * ROUNDS):
                move(scene, number % 7)

        run_all([write, *(partial(look, place) for place in range(THREADS))])

        assert sum(scene.pair()) == 30


NEW_ROWS = itertools.count(1000)


def move(scene: Scene, amount: int) -> None:
    """Move money from x to y and add a row; the writes depend on no read."""
    with scene.db.batch() as batch:
        batch.add(scene.x, -amount)
        batch.add(scene.y, amount)
        batch.put(("row", next(NEW_ROWS)), amount)
        batch.add("rows")
