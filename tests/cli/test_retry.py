"""A conflicting transaction of the shell: its messages, and the commands that ``retry`` runs again."""

from __future__ import annotations

import pytest

import kvstore
from kvstore.cli.commands.session import Session
from kvstore.cli.failures import RETRY_LATER
from kvstore.cli.shell import run_scripts
from tests.cli.conftest import Shell, lines


class TestAConflict:
    KEY = ("acct", "eu", 1)
    OFFER = "type `retry` to run the {} of the transaction again"

    @pytest.fixture(autouse=True)
    def account(self, db: kvstore.Database) -> None:
        db.put(self.KEY, 100)
        db.put("b", 0)

    def conflicting(self, db: kvstore.Database, shell: Shell) -> str:
        """Run a transaction of three commands that conflicts; return the output of its commit."""
        shell('begin; get ("acct", "eu", 1); put b 7; add ("acct", "eu", 1) -30')
        db.add(self.KEY, 5)
        out, err = shell("commit")
        assert out == ""
        return err

    def test_names_its_key_and_offers_retry(self, db: kvstore.Database, shell: Shell) -> None:
        assert self.conflicting(db, shell) == (
            'error: ("acct", "eu", 1) changed under the transaction; nothing happened '
            f"({self.OFFER.format('3 commands')})\n"
        )
        assert shell.prompt == "kvstore> "
        assert (db[self.KEY], db["b"]) == (105, 0)

    def test_of_a_scan_names_what_came(self, db: kvstore.Database, shell: Shell) -> None:
        shell('begin; scan ("acct",); put b 1')
        db.put(("acct", "us", 7), 1)

        assert shell("commit")[1].startswith('error: ("acct", "us", 7) changed under the transaction')

    def test_ends_a_script_with_its_own_exit_code(
        self, db: kvstore.Database, capsys: pytest.CaptureFixture[str]
    ) -> None:
        script = lines("begin", "get b", "put b 1", lambda: db.put("b", 5), "commit", "put never 1")

        assert run_scripts(Session(db), [script], keep_going=False) == RETRY_LATER
        assert capsys.readouterr().err == (
            'error: script:4: "b" changed under the transaction; nothing happened '
            f"({self.OFFER.format('2 commands')})\n"
        )
        assert "never" not in db

    def test_is_retried_by_a_script_that_keeps_going(self, db: kvstore.Database) -> None:
        script = lines("begin", "get b", "put b 1", lambda: db.put("b", 5), "commit", "retry", "put then 1")

        assert run_scripts(Session(db), [script], keep_going=True) == RETRY_LATER
        assert (db["b"], db["then"]) == (1, 1)

    def test_is_retried_with_what_is_there_now(self, db: kvstore.Database, shell: Shell) -> None:
        self.conflicting(db, shell)

        assert shell("retry") == ('105\n"b" = 7  int\n("acct", "eu", 1) += -30  int\n', "(route)\n")
        assert (db[self.KEY], db["b"]) == (75, 7)
        assert shell.prompt == "kvstore> "
        assert shell("retry")[1].startswith("error: nothing to retry")

    def test_may_be_met_again(
        self, db: kvstore.Database, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.conflicting(db, shell)
        commit = kvstore.Transaction.commit
        meanwhile = iter([110, 0])

        def late(transaction: kvstore.Transaction) -> None:
            if (balance := next(meanwhile, None)) is not None:
                db.put(self.KEY, balance)
            commit(transaction)

        monkeypatch.setattr(kvstore.Transaction, "commit", late)
        for balance in (105, 110):
            out, err = shell("retry")
            assert out.startswith(f"{balance}\n")
            assert err.startswith('error: ("acct", "eu", 1) changed')
            assert err.endswith(f"({self.OFFER.format('3 commands')})\n")
        assert shell("retry") == ('0\n"b" = 7  int\n("acct", "eu", 1) += -30  int\n', "(route)\n")
        assert db[self.KEY] == -30

    def test_replays_what_took_part_and_succeeded(self, db: kvstore.Database, shell: Shell) -> None:
        shell("begin; get nothing")
        shell("gte b")
        shell("put b (x)")
        shell(
            "get b; status; help get; savepoint p; put c 1; rollback --to p; diff --format raw; put d 1; diff"
        )
        db.put("b", 5)

        assert self.OFFER.format("7 commands") in shell("commit")[1]
        out, err = shell("retry")
        assert out == '5\n"c" = 1  int\n"d" = 1  int\n{"key": "d", "after": 1}\n'
        assert err == "rolled back to p: 0 writes pending\nno writes are pending\n(route)\n"
        assert dict(db.scan(prefix="")) == {"b": 5, "d": 1}

    def test_stays_open_where_a_command_fails_that_is_run_again(
        self, db: kvstore.Database, shell: Shell
    ) -> None:
        shell("begin; put a 1; get b; put b 1")
        db.delete("b")
        shell("commit")

        assert shell("retry") == (
            '"a" = 1  int\n',
            'error: command 2 of 3, get: no value at "b"; the transaction is open\n',
        )
        assert shell.prompt == "kvstore*1> "
        assert shell("retry") == ("", "error: a transaction is open: commit or rollback first\n")
        assert shell("put b 2; commit") == ('"b" = 2  int\n', "(route)\n")
        assert (db["a"], db["b"]) == (1, 2)
        assert shell("retry")[1].startswith("error: nothing to retry")

    def test_can_be_retried_after_a_retry_that_was_rolled_back(
        self, db: kvstore.Database, shell: Shell
    ) -> None:
        shell("begin; get b; put b 1")
        db.delete("b")
        shell("commit")
        shell("retry")
        shell("rollback")
        db.put("b", 5)

        assert shell("retry") == ('5\n"b" = 1  int\n', "(route)\n")

    def test_is_rolled_back_when_its_retry_is_interrupted(
        self, db: kvstore.Database, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.conflicting(db, shell)
        with monkeypatch.context() as patched:
            patched.setattr(kvstore.Transaction, "add", interrupt)
            assert shell("retry")[1] == "interrupted\n"
        assert shell.prompt == "kvstore> "
        assert (db[self.KEY], db["b"]) == (105, 0)

        assert shell("retry")[1] == "(route)\n"
        assert db[self.KEY] == 75


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


class TestACommitThatFails:
    def test_for_want_of_room_is_retried(
        self, db: kvstore.Database, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_transaction: kvstore.Transaction) -> None:
            raise kvstore.DiskFull("there is no room", path="s")

        shell("begin; put a 1")
        with monkeypatch.context() as patched:
            patched.setattr(kvstore.Transaction, "commit", full)
            said = shell("commit")[1]

        assert said.startswith("error: there is no room (free some space; no reopening is needed; then type")
        assert said.endswith("`retry` to run the 1 command of the transaction again)\n")
        assert shell("retry") == ('"a" = 1  int\n', "(route)\n")
        assert db["a"] == 1

    def test_with_an_unknown_outcome_is_not(self, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(_transaction: kvstore.Transaction) -> None:
            raise kvstore.OutcomeUnknown("the commit failed")

        shell("begin; put a 1")
        monkeypatch.setattr(kvstore.Transaction, "commit", unknown)

        assert shell("commit")[1].startswith("error: the commit failed (open the store again and read")
        assert shell.prompt == "kvstore> "
        assert shell("retry")[1].startswith("error: nothing to retry")

    def test_by_an_interrupt_says_that_its_outcome_is_not_known(
        self, shell: Shell, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shell("begin; put a 1")
        monkeypatch.setattr(kvstore.Transaction, "commit", interrupt)

        assert (
            shell("commit")[1] == "interrupted during the commit: check whether it took effect\ninterrupted\n"
        )
        assert shell.prompt == "kvstore> "
