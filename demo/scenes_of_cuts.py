"""Scenes with cut or slow links: one region alone, spending on both sides, the heal, and causality."""

from __future__ import annotations

import time

from demo.stage import SETTLE_S, Stage, money, scene, times

ORDERS = 20
TRIES = 60


@scene(
    "cut",
    "A region is cut off",
    "No message reaches or leaves one region. That region continues to work, and so do the others.",
)
def cut(stage: Stage) -> list[str]:
    alone = stage.chance.choice(stage.regions)
    stage.cut_off(alone)
    stage.say(f"{alone} is cut off.")
    others = [region for region in stage.regions if region != alone]
    before, begin = stage.lines(alone), time.monotonic()
    stage.business(ORDERS, [alone])
    seconds = time.monotonic() - begin
    stage.business(ORDERS, others)
    stage.say(f"{alone}: {ORDERS} orders, {1000 * seconds / ORDERS:.0f} ms each. It did not wait for others.")
    here, there = stage.lines(alone) - before, stage.lines(others[0]) - before
    stage.say(f"{alone} has {len(here)} new statement lines, {others[0]} {len(there)}; no line is in both.")
    ages = ", ".join(
        f"{name} {stale.seconds:.1f} s ago" for name, stale in stage.geo[alone].staleness().items()
    )
    stage.say(f"When {alone} was last up to date with the others: {ages}.")
    stage.expect(bool(here and there) and here.isdisjoint(there), "data passed through the cut links")
    return ["a region that is cut off still does all its work", "each side shows complete, though old, data"]


@scene(
    "both-sides",
    "Spending on both sides of a cut",
    "Two regions share an account. Then one is cut off, and both try to spend the whole balance.",
)
def both_sides(stage: Stage) -> list[str]:
    one, other = stage.chance.sample(stage.regions, 2)
    number, bank = stage.customers.of(one)[0], stage.bank
    stage.customers.deposit(number, 10_000)
    balance = bank.balance(number)
    rights = stage.geo[one].bounded(("account", number)).rights()
    bank.share(number, max(1, rights // 2), other)
    stage.geo.settle(SETTLE_S)
    stage.cut_off(one)
    stage.say(
        f"Account {number} holds {money(balance)}; {one} and {other} may each spend half; their link is cut."
    )
    spent = {}
    for region in (one, other):
        refused = stage.customers.refused
        spent[region] = _spend_all(stage, number, region, balance // 5 + 1)
        refused = stage.customers.refused - refused
        stage.say(f"{region} paid out {money(spent[region])}, and refused {times(refused)} to pay more.")
        stage.expect(refused > 0, f"{region} refused nothing")
        seen = bank.balance(number, region)
        stage.say(f"It sees only its own withdrawals: {money(seen)} are left in the view of {region}.")
        stage.expect(seen == balance - spent[region], f"{region} saw withdrawals of the other side")
    left = balance - sum(spent.values())
    stage.say(f"Together {money(sum(spent.values()))} of {money(balance)}: {money(left)} must be left.")
    return ["both sides continued to pay, and together never paid more than the balance"]


def _spend_all(stage: Stage, number: int | tuple[str, str], region: str, cents: int) -> int:
    """Withdraw repeatedly, a quarter of the amount after each refusal; return the sum."""
    spent = 0
    for _ in range(TRIES):
        if not cents:
            break
        if stage.customers.withdraw(number, cents, region) is None:
            cents //= 4
        else:
            spent += cents
    return spent


@scene(
    "heal",
    "The heal",
    "All regions work alone. Then the links are healed, and the time until all regions agree is measured.",
)
def heal(stage: Stage) -> list[str]:
    for region in stage.regions:
        stage.cut_off(region)
    stage.business(2 * ORDERS)
    for region in stage.regions:
        stage.say(f"{region}, cut off, sees {money(_total(stage, region))} in the whole bank.")
    books = {frozenset(stage.lines(region)) for region in stage.regions}
    stage.expect(len(books) > 1, "the regions agreed before the links were healed")
    stage.heal_all()
    begin = time.monotonic()
    stage.geo.settle(SETTLE_S)
    seconds = time.monotonic() - begin
    totals = {_total(stage, region) for region in stage.regions}
    stage.say(f"Healed. After {seconds:.2f} s all show {' and '.join(map(money, totals))}.")
    return [
        f"the regions agreed {seconds:.2f} s after the heal, without manual resolution",
        "the total is what customers deposited and withdrew, to the cent",
    ]


def _total(stage: Stage, region: str) -> int:
    return sum(cents for _, cents in stage.geo[region].scan(prefix=("account",)))


@scene(
    "causality",
    "No reply before its letter",
    "A letter is written far away and answered nearby. Its answer has the faster link: does it overtake?",
    regions=3,
)
def causality(stage: Stage) -> list[str]:
    writer, replier, reader = stage.regions[:3]
    stage.geo.delay(writer, reader, 600)
    stage.say(f"Letters from {writer} take 600 ms to {reader}; {replier} answers over fast links.")
    board, seen, letters = stage.geo[reader], [0, 0], []
    early = 0
    for number in range(5):
        letters.append(stage.bank.write(f"question {number}", writer))
        _await(stage, ("letter", letters[-1]), replier)
        stage.bank.reply(letters[-1], "answer", replier)
        early += ("letter", letters[-1]) not in board
    stage.say(f"{early} of {len(letters)} letters were answered before {reader} had them.")
    stage.expect(early > 0, "no letter was answered before it arrived")
    deadline = time.monotonic() + SETTLE_S
    looks = 0
    while seen != [len(letters), len(letters)] and time.monotonic() < deadline:
        stage.look()
        with board.snapshot() as view:
            seen = [sum((kind, name) in view for name in letters) for kind in ("letter", "reply")]
        looks += 1
        time.sleep(0.01)
    stage.say(f"{reader} has all {len(letters)} letters and answers; its board was checked {times(looks)}.")
    return ["no region ever showed an answer without its letter"]


def _await(stage: Stage, key: tuple[str, str], region: str) -> None:
    deadline = time.monotonic() + SETTLE_S
    while key not in stage.geo[region] and time.monotonic() < deadline:
        time.sleep(0.002)
