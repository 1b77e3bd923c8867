"""Scenes while all is well: business, shards, and contention."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from demo.bank import account
from demo.stage import Stage, money, scene

EVENINGS = 12
"""How often each of the clerks evens out two accounts."""


@scene(
    "business",
    "Ordinary business",
    "Customers pay in, take out and transfer, within and between regions. One asks for interest twice.",
)
def business(stage: Stage) -> list[str]:
    customers = stage.customers
    done, refused = customers.done, customers.refused
    with stage.looking():
        stage.business(40)
    stage.say(f"{customers.done - done} orders done, {customers.refused - refused} refused.")
    number = stage.chance.choice(list(customers.homes))
    period = f"year {customers.done}"
    paid = [customers.take_interest(number, period, 20) for _ in range(2)]
    stage.say(f"Interest on account {number}: {money(paid[0])}; the second request paid nothing more.")
    stage.say(f"Account {number} in {stage.bank.home_of(number)}, the end of its statement:")
    for entry in list(stage.bank.statement(number))[-3:]:
        stage.say(f"    {entry.kind:<12}{money(entry.cents):>10}  {entry.other or ''}")
    return [
        "no moment of any region showed one side of a transfer without the other",
        "in each of these moments every balance was the sum of its statement",
    ]


@scene(
    "shards",
    "One transaction over shards",
    "Keys lie on several shards of a region. A transfer takes effect on all that it touches at once.",
)
def shards(stage: Stage) -> list[str]:
    at = stage.chance.choice(stage.regions)
    region = stage.geo[at]
    source, target = stage.chance.sample(stage.customers.of(at), 2)
    for number in (source, target):
        stage.say(f"In {at}, account {number} lies on shard {region.explain(account(number)).shards[0]}.")
    stage.customers.deposit(source, 1000)
    commit = stage.customers.transfer(source, target, 1000)
    paid_in = stage.customers.deposit(target, 500)
    for what, result in (("the transfer", commit), ("a deposit", paid_in)):
        if result is not None:
            places = ", ".join(f"{shard} at slot {slot}" for shard, slot in sorted(result.slots.items()))
            stage.say(f"{what}: path {result.route.path}, rounds: {result.route.rounds}; on shards {places}")
    return [
        "a deposit reads nothing, so it is done in one round, however many shards it is on",
        "a transfer may be refused: all shards judge first, and then all of them do it",
    ]


@scene(
    "contention",
    "Many clerks, two accounts",
    "Four clerks at once move half of the difference between accounts. Each reads before it writes.",
)
def contention(stage: Stage) -> list[str]:
    at = stage.chance.choice(stage.regions)
    pair = stage.chance.sample(stage.customers.of(at), 2)
    before = sum(stage.bank.balance(number) for number in pair)
    chances = [stage.chance.randrange(1, 50_000) for _ in range(4 * EVENINGS)]

    def clerk(number: int) -> int:
        own = chances[number * EVENINGS : (number + 1) * EVENINGS]
        moved = 0
        for cents in own:
            stage.customers.transfer(pair[cents % 2], pair[1 - cents % 2], cents)
            moved += stage.customers.even_out(pair[0], pair[1]) + stage.customers.even_out(pair[1], pair[0])
        return moved

    with stage.looking(), ThreadPoolExecutor(4) as clerks:
        moved = sum(clerks.map(clerk, range(4)))
    after = [stage.bank.balance(number) for number in pair]
    stage.say(f"{money(moved)} moved by {8 * EVENINGS} transactions that read both balances first.")
    stage.say(f"Before, the two held {money(before)}; after, {' and '.join(map(money, after))}.")
    return ["whoever read what had changed was run again: no transfer got lost"]
