"""The bank without its scenes: transfers of money, and the regions that may spend it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import kvstore
from demo.bank import Bank, Refused, account


@pytest.fixture
def bank() -> Iterator[Bank]:
    with kvstore.Geo(":memory:", regions=["eu", "us"], shards=2) as geo:
        made = Bank(geo)
        made.open_account(1, "Ada", "eu", 10_000)
        made.open_account(2, "Bob", "us", 500)
        geo.settle()
        yield made


def rights(bank: Bank, number: int) -> dict[str, int]:
    """Return the amount of the account that each region may spend, as its home sees it."""
    held = bank.geo[bank.home_of(number)].bounded(account(number))
    return {name: held.rights(name) for name in bank.geo.regions()}


def test_what_comes_in_can_be_spent_at_home(bank: Bank) -> None:
    bank.transfer(1, 2, 300)
    bank.deposit(2, 50, at="eu")
    bank.geo.settle()

    assert (bank.balance(1), bank.balance(2)) == (9_700, 850)
    assert rights(bank, 1) == {"eu": 9_700, "us": 0}
    assert rights(bank, 2) == {"eu": 0, "us": 850}
    bank.geo.cut("eu", "us")
    bank.withdraw(2, 850)


def test_a_transfer_that_is_refused_leaves_no_line(bank: Bank) -> None:
    before = [list(bank.statement(number)) for number in (1, 2)]
    with pytest.raises(Refused):
        bank.transfer(2, 1, 501)

    assert [list(bank.statement(number)) for number in (1, 2)] == before
    assert (bank.balance(1), bank.balance(2)) == (10_000, 500)


def test_what_is_shared_can_be_spent_elsewhere(bank: Bank) -> None:
    bank.share(1, 4_000, "us")
    bank.geo.settle()
    bank.geo.cut("eu", "us")

    bank.withdraw(1, 4_000, at="us")
    with pytest.raises(kvstore.InsufficientRights):
        bank.withdraw(1, 1, at="us")
    bank.withdraw(1, 6_000)
    with pytest.raises(kvstore.InsufficientRights):
        bank.withdraw(1, 1)
