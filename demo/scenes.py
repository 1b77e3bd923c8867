"""Scenes while all is well: business, shards, and contention."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from demo.bank import Evened, account
from demo.stage import Stage, money, scene, times

CLERKS, EVENINGS = 4, 12
"""How often each of the clerks evens out two accounts, to and fro; once more while none met another."""
EVENINGS_MAX = 2_000


@scene(
    "business",
    "Ordinary business",
    "Customers pay in, take out and transfer, within and between regions. One asks for interest twice.",
)
def business(stage: Stage) -> list[str]:
    customers = stage.customers
    done, refused = customers.done, customers.refused
    stage.business(40)
    stage.say(f"{customers.done - done} orders done, {customers.refused - refused} refused.")
    number = stage.chance.choice(list(customers.homes))
    period = f"the year before order {customers.done}"
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
    source, *others = stage.chance.sample(stage.customers.of(at), len(stage.customers.of(at)))
    shard = {number: region.explain(account(number)).shards[0] for number in (source, *others)}
    target = max(others, key=lambda number: shard[number] != shard[source])
    for number in (source, target):
        stage.say(f"In {at}, account {number} lies on shard {shard[number]}.")
    stage.customers.deposit(source, 1000)
    commit = stage.customers.transfer(source, target, 1000)
    paid_in = stage.customers.deposit(target, 500)
    for what, result in (("the transfer", commit), ("a deposit", paid_in)):
        if result is not None:
            places = ", ".join(f"{shard} at slot {slot}" for shard, slot in sorted(result.slots.items()))
            rounds = "one round" if result.route.rounds == 1 else f"{result.route.rounds} rounds"
            stage.say(f"{what} took {rounds} of messages (route: {result.route.path}); on shards {places}")
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
    stage.say(f"Another clerk had changed what they read {times(again)}: the store ran them again.")
    stage.say(f"Before, the two held {money(before)}; after, {' and '.join(map(money, after))}.")
    stage.expect(again > 0, "no clerk got in another's way")
    return ["whoever read what had changed was run again: no transfer got lost"]
