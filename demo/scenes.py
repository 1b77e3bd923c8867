"""Scenes without faults: business, shards, and contention."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from demo.bank import Evened, account
from demo.stage import Stage, money, scene, times

CLERKS, EVENINGS = 4, 12
"""The number of clerks, and how often each evens out in a round; rounds repeat until clerks conflict."""
EVENINGS_MAX = 2_000


@scene(
    "business",
    "Ordinary business",
    "Customers deposit, withdraw and transfer, within and between regions. One requests interest twice.",
)
def business(stage: Stage) -> list[str]:
    customers = stage.customers
    done, refused = customers.done, customers.refused
    stage.business(40)
    stage.say(f"{customers.done - done} orders carried out, {customers.refused - refused} refused.")
    number = stage.chance.choice(list(customers.homes))
    period = f"the year before order {customers.done}"
    paid = [customers.take_interest(number, period, 20) for _ in range(2)]
    stage.say(f"Interest on account {number}: {money(paid[0])}; the second request paid nothing more.")
    stage.say(f"Account {number} in {stage.bank.home_of(number)}, last lines of its statement:")
    for entry in list(stage.bank.statement(number))[-3:]:
        stage.say(f"    {entry.kind:<12}{money(entry.cents):>10}  {entry.other or ''}")
    return [
        "no snapshot of any region showed one side of a transfer without the other",
        "in every snapshot each balance was the sum of its statement",
    ]


@scene(
    "shards",
    "One transaction over several shards",
    "Keys lie on several shards of a region. A transfer takes effect on all of its shards at once.",
)
def shards(stage: Stage) -> list[str]:
    at = stage.chance.choice(stage.regions)
    region = stage.geo[at]
    source, *others = stage.chance.sample(stage.customers.of(at), len(stage.customers.of(at)))
    shard = {number: region.explain(account(number)).shards[0] for number in (source, *others)}
    target = max(others, key=lambda number: shard[number] != shard[source])
    for number in (source, target):
        stage.say(f"In {at}, account {number} is on shard {shard[number]}.")
    stage.customers.deposit(source, 1000)
    commit = stage.customers.transfer(source, target, 1000)
    paid_in = stage.customers.deposit(target, 500)
    for what, result in (("the transfer", commit), ("a deposit", paid_in)):
        if result is not None:
            places = ", ".join(f"{shard} at slot {slot}" for shard, slot in sorted(result.slots.items()))
            rounds = "one round" if result.route.rounds == 1 else f"{result.route.rounds} rounds"
            stage.say(f"{what} took {rounds} of messages (route: {result.route.path}); shards: {places}")
    return [
        "a deposit reads nothing, so it takes one round, whatever the number of its shards",
        "a transfer may be refused, so all shards vote before any of them changes a balance",
    ]


@scene(
    "contention",
    "Many clerks, two accounts",
    "Four clerks concurrently even out two accounts. Each reads both balances before it writes.",
)
def contention(stage: Stage) -> list[str]:
    at = stage.chance.choice(stage.regions)
    pair = stage.chance.sample(stage.customers.of(at), 2)
    before = sum(stage.bank.balance(number) for number in pair)

    def clerk(amounts: list[int]) -> list[Evened]:
        evened = []
        for cents in amounts:
            stage.customers.transfer(pair[cents % 2], pair[1 - cents % 2], cents)
            evened += [stage.customers.even_out(*pair), stage.customers.even_out(*reversed(pair))]
        return evened

    evened: list[Evened] = []
    with ThreadPoolExecutor(CLERKS) as clerks:
        while len(evened) == sum(one.runs for one in evened) and len(evened) < EVENINGS_MAX:
            chances = [[stage.chance.randrange(1, 50_000) for _ in range(EVENINGS)] for _ in range(CLERKS)]
            evened += [one for found in clerks.map(clerk, chances) for one in found]
    after = [stage.bank.balance(number) for number in pair]
    again = sum(one.runs for one in evened) - len(evened)
    moved = money(sum(one.cents for one in evened))
    stage.say(f"{moved} moved by {len(evened)} transactions that read both balances first.")
    stage.say(f"Another clerk changed a balance after the read {times(again)}: each time the store retried.")
    stage.say(f"Before, the two held {money(before)} together; after, {' and '.join(map(money, after))}.")
    stage.expect(again > 0, "no two clerks conflicted")
    return ["a transaction whose reads had changed was run again: no transfer was lost"]
