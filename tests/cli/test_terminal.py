"""The shell on a real terminal: typed keys, and the screen that follows."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import kvstore
from tests.cli.conftest import ENVIRONMENT
from tests.support.terminal import Terminal

PROMPT = "kvstore>"
ENTER, TAB, UP, CTRL_C, CTRL_D, CTRL_R, RIGHT = "\r", "\t", "\x1b[A", "\x03", "\x04", "\x12", "\x1b[C"

Open = Callable[..., Terminal]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Open]:
    """Open a shell of the store ``s``, and wait for its prompt."""
    with ExitStack() as opened:

        def start(*options: str, path: str = "s", **environment: str) -> Terminal:
            env = ENVIRONMENT | {"TERM": "xterm-256color", "XDG_STATE_HOME": str(tmp_path / "state")}
            env = {name: value for name, value in env.items() if name != "NO_COLOR"} | environment
            command = [sys.executable, "-m", "kvstore", "shell", path, *options]
            terminal = opened.enter_context(Terminal(command, cwd=tmp_path, env=env))
            terminal.wait_for(PROMPT)
            return terminal

        yield start


def run(terminal: Terminal, line: str, answer: str) -> None:
    """Type a line, and wait for the answer and the next prompt below it."""
    before = terminal.text.count(f"\n{answer}")
    terminal.press(line + ENTER)
    terminal.wait_for(lambda text: at_prompt(text) and text.count(f"\n{answer}") > before)


def at_prompt(text: str) -> bool:
    return re.fullmatch(r"kvstore(\*\d+)?>", last_line(text)) is not None


def last_line(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[2]


def leave(terminal: Terminal) -> str:
    terminal.wait_for(at_prompt)
    terminal.press(CTRL_D)
    assert terminal.wait_for_end() == 0
    assert "Traceback" not in terminal.text
    return terminal.text


class TestASession:
    def test_runs_commands_and_goes_on_after_errors(self, shell: Open) -> None:
        terminal = shell()
        run(terminal, 'put ("acct", "eu", 1) 100', '("acct", "eu", 1) = 100  int')
        run(terminal, "gte x", 'error: no command "gte"; did you mean get?')
        run(terminal, "put (x) 1", "error: a one-element tuple needs a comma")
        run(terminal, "get x", 'error: no value at "x"')
        run(terminal, 'get ("acct", "eu", 1); count', "100\n1")

        assert leave(terminal)

    @pytest.mark.parametrize("word", ["exit", "quit", "put a 1; exit; put a 2"])
    def test_ends_when_told_to(self, shell: Open, word: str, tmp_path: Path) -> None:
        terminal = shell()
        terminal.press(word + ENTER)

        assert terminal.wait_for_end() == 0
        with kvstore.open(tmp_path / "s") as db:
            assert db.get("a", 1) == 1

    def test_goes_on_to_the_next_line_while_a_bracket_is_open(self, shell: Open) -> None:
        terminal = shell()
        terminal.press("put k [1," + ENTER)
        terminal.wait_for("    ...>")
        run(terminal, '2, "a]"]', '"k" = [1, 2, "a]"]  list')
        terminal.press("put k 'a" + ENTER)
        terminal.wait_for(lambda text: text.count("    ...>") == 2)
        run(terminal, "b'", '"k" = "a\\nb"  str')
        leave(terminal)

    def test_switches_formats_and_timing(self, shell: Open) -> None:
        terminal = shell("--format", "jsonl")
        run(terminal, "put k (1,)", '"k" = [1]  list')
        run(terminal, "scan", '{"key": "k", "value": [1]}')
        run(terminal, "format auto; scan", "key    value\n-----  -------\n")
        run(terminal, "format tabel", "error: NAME is one of")
        assert "did you mean table?" in terminal.text.replace("\n", "")
        terminal.press("timing on; count" + ENTER)
        terminal.wait_for(lambda text: re.search(r"^1\n\d+\.\d ms$", text, re.MULTILINE) is not None)
        terminal.wait_for(at_prompt)
        leave(terminal)

    def test_of_a_store_that_cannot_be_opened_ends_with_4(self, tmp_path: Path) -> None:
        (tmp_path / "s").mkdir()
        (tmp_path / "s" / "letter").write_text("dear")
        command = [sys.executable, "-m", "kvstore", "shell", "s"]
        with Terminal(command, cwd=tmp_path, env=ENVIRONMENT) as terminal:
            assert terminal.wait_for_end() == 4
            assert terminal.text.startswith("error: ")

    def test_reads_beside_an_application_that_writes(self, shell: Open, tmp_path: Path) -> None:
        with kvstore.open(tmp_path / "s") as db:
            db.put("k", 1)
            terminal = shell("--read-only")
            run(terminal, "get k", "1")
            db.put("k", 2)
            run(terminal, "get k", "2")
            run(terminal, "put k 3", "error: ")
            leave(terminal)

            assert db["k"] == 2


class TestATransaction:
    LOST = "the open transaction was rolled back: 1 write undone"

    def test_is_shown_by_the_prompt(self, shell: Open) -> None:
        terminal = shell()
        for line, answer, prompt in [
            ("begin; put a 2", '"a" = 2  int', "kvstore*1>"),
            ("add b", '"b" += 1  int', "kvstore*2>"),
            ("get nothing", "error: no value", "kvstore*2>"),
            ("begin", "error: a transaction is open", "kvstore*2>"),
            ("rollback", "rolled back: 2 writes undone", "kvstore>"),
        ]:
            run(terminal, line, answer)
            assert last_line(terminal.text) == prompt
        terminal.press("begin; put list [1," + ENTER)
        terminal.wait_for("\n    ...>")
        run(terminal, "2]", '"list" = [1, 2]  list\n')
        terminal.press("put list [1," + ENTER)
        terminal.wait_for("\n      ...>")
        run(terminal, "2]", '"list" = [1, 2]  list\n')
        run(terminal, "diff", "key     before    after\n")
        run(terminal, "commit", "independent, ")

        route = r"independent, 1 shard, 1 round, \d+\.\d ms\nkvstore>"
        assert re.search(rf"^{route}$", leave(terminal), re.MULTILINE)

    def test_is_completed_and_colored(self, shell: Open) -> None:
        terminal = shell("--color", "always")
        terminal.press("beg" + TAB)
        terminal.wait_for("kvstore> begin")
        terminal.press("; sav" + TAB)
        terminal.wait_for("kvstore> begin; savepoint")
        terminal.press(" p; rollb" + TAB)
        terminal.wait_for("p; rollback")
        terminal.press(" --" + TAB)
        terminal.wait_for("rollback --to")
        run(terminal, " p", "rolled back to p: 0 writes pending")
        run(terminal, "commit", "read-only, 0 rounds, ")
        leave(terminal)

        assert "\x1b[0;32;1mcommit" in terminal.written

    def test_survives_an_interrupt(self, shell: Open) -> None:
        terminal = shell()
        run(terminal, "begin; put a 1", '"a" = 1  int')
        terminal.press("put b [1," + ENTER)
        terminal.wait_for("...>")
        terminal.interrupt()
        terminal.wait_for(lambda text: last_line(text) == "kvstore*1>")
        run(terminal, "rollback", "rolled back: 1 write undone")
        leave(terminal)

    @pytest.mark.parametrize("end", [CTRL_D, "exit" + ENTER, "put b (x)" + ENTER + "quit" + ENTER])
    def test_is_rolled_back_at_the_end(self, shell: Open, end: str, tmp_path: Path) -> None:
        terminal = shell()
        run(terminal, "begin; put a 1", '"a" = 1  int')
        terminal.press(end)

        assert terminal.wait_for_end() == 0
        assert terminal.text.rstrip().endswith(self.LOST)
        with kvstore.open(tmp_path / "s", readonly=True) as db:
            assert list(db.scan()) == []

    def test_that_is_pasted_stops_at_an_error(self, shell: Open) -> None:
        terminal = shell()
        terminal.press("\x1b[200~begin\nput a 1\nget x\ncommit\x1b[201~")
        run(terminal, "", 'error: line 3: no value at "x"\nthe rest was not run')
        assert last_line(terminal.text) == "kvstore*1>"
        leave(terminal)


class TestCompletion:
    def test_of_a_command_an_option_and_a_format(self, shell: Open) -> None:
        terminal = shell()
        terminal.press("sc" + TAB)
        terminal.wait_for("kvstore> scan")
        terminal.press(" --rev" + TAB)
        terminal.wait_for("kvstore> scan --reverse")
        terminal.press(" --fo" + TAB)
        terminal.wait_for("--reverse --format")
        terminal.press(" ra" + TAB)
        terminal.wait_for("--format raw")
        terminal.press(CTRL_C)
        leave(terminal)

    def test_of_keys_that_are_there_now(self, shell: Open, tmp_path: Path) -> None:
        with kvstore.open(tmp_path / "s") as db:
            db.put(("acct", "eu", 1), 100)
            terminal = shell("--read-only")
            db.put("Ada Lovelace", "countess")
            terminal.press('get ("acct", "e' + TAB)
            terminal.wait_for('kvstore> get ("acct", "eu", 1)')
            terminal.press(ENTER)
            terminal.wait_for("\n100\n")
            terminal.wait_for(at_prompt)
            terminal.press("get Ad" + TAB)
            terminal.wait_for('kvstore> get "Ada Lovelace"')
            run(terminal, "", '"countess"')
            leave(terminal)


class TestHistory:
    def test_is_kept_for_the_next_session_and_searched(self, shell: Open, tmp_path: Path) -> None:
        first = shell()
        run(first, "put alpha 1", '"alpha" = 1  int')
        run(first, " put secret 2", '"secret" = 2  int')
        run(first, "put beta 3", '"beta" = 3  int')
        leave(first)

        second = shell()
        second.press(UP)
        second.wait_for("kvstore> put beta 3")
        second.press(CTRL_C)
        second.wait_for(at_prompt)
        second.press(CTRL_R + "alph")
        second.wait_for("put alpha 1")
        run(second, ENTER, '"alpha" = 1  int')
        second.press("put be")
        second.wait_for(lambda text: text.count("kvstore> put beta 3") == 2)
        run(second, RIGHT, '"beta" = 3  int')
        leave(second)

        file = tmp_path / "state" / "kvstore" / "history"
        assert "secret" not in file.read_text()
        assert file.stat().st_mode & 0o077 == 0

    def test_ends_with_the_session_where_it_cannot_be_kept(self, shell: Open, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        terminal = shell(XDG_STATE_HOME=str(tmp_path / "file"))
        terminal.wait_for("the history ends with this session: ")
        terminal.wait_for(at_prompt)
        run(terminal, "put a 1", '"a" = 1  int')
        terminal.press(UP)
        terminal.wait_for(lambda text: text.count("kvstore> put a 1") == 2)
        run(terminal, "", '"a" = 1  int')

        assert leave(terminal).count("the history ends") == 1


class TestAnInterrupt:
    def test_clears_the_line(self, shell: Open) -> None:
        terminal = shell()
        terminal.press("put k [1," + ENTER)
        terminal.wait_for("    ...>")
        terminal.interrupt()
        terminal.wait_for(at_prompt)
        run(terminal, "count", "0")
        leave(terminal)

    def test_ends_a_running_scan_and_not_the_session(self, shell: Open, tmp_path: Path) -> None:
        with kvstore.open(tmp_path / "s", durability="none") as db:
            for chunk in range(40):
                with db.batch() as batch:
                    for number in range(500):
                        batch.put(("many", chunk, number), "x" * 50)
        terminal = shell("--format", "jsonl")
        terminal.press("scan" + ENTER)
        terminal.wait_for('["many", 0, 400]')
        terminal.interrupt()
        terminal.wait_for(lambda text: "interrupted" in text.replace("\n", ""))  # the line may wrap anywhere
        terminal.wait_for(at_prompt)

        assert '["many", 39, 499]' not in terminal.text
        run(terminal, "count", "20000")
        leave(terminal)

    def test_ends_a_watch_and_not_the_session(self, shell: Open) -> None:
        terminal = shell()
        terminal.press("watch --since 0" + ENTER)
        terminal.wait_for("watching; Ctrl-C ends it")
        terminal.interrupt()
        terminal.wait_for("interrupted")
        terminal.wait_for(at_prompt)

        run(terminal, "put k 1", '"k" = 1  int')
        run(terminal, "watch --since 0 --timeout 0", '"k" = 1\n')
        leave(terminal)


class TestTheTerminal:
    def test_may_change_its_size_at_any_time(self, shell: Open, tmp_path: Path) -> None:
        terminal = shell()
        run(terminal, f"put key {'x' * 200}", '"key" = ')
        run(terminal, "scan", "key    value\n")
        terminal.press("put other " + "y" * 30)
        terminal.resize(30, 50)
        terminal.press("z" * 30)
        terminal.wait_for("z" * 9)
        terminal.press(ENTER)
        terminal.wait_for('"other" = "')
        terminal.wait_for(at_prompt)
        terminal.press("scan" + ENTER)
        terminal.wait_for(lambda text: text.count("are shortened") == 2)
        widths = {len(line) for line in terminal.text.splitlines() if line.endswith("…")}

        assert widths == {80, 50}
        terminal.resize(30, 20)
        run(terminal, "scan key", "key    ")
        leave(terminal)

    def test_takes_a_thousand_pasted_lines(self, shell: Open) -> None:
        lines = [f"put ({number},) {number}" for number in range(1000)]
        lines[500] = "put (500) 1"
        terminal = shell("--durability", "none")
        terminal.press("\x1b[200~" + "\n".join(lines) + "\x1b[201~")
        terminal.press(ENTER)
        terminal.wait_for("(999,) = 999  int\n")
        terminal.wait_for(at_prompt)

        assert "error: line 501: a one-element tuple needs a comma" in terminal.text
        run(terminal, "count", "999")
        leave(terminal)

    @pytest.mark.parametrize(
        ("options", "environment", "colored"),
        [
            ([], {"NO_COLOR": "1"}, False),
            (["--color", "never"], {}, False),
            (["--color", "always"], {"NO_COLOR": "1"}, True),
            ([], {}, True),
        ],
    )
    def test_shows_colors_where_they_are_wanted(
        self, shell: Open, options: list[str], environment: dict[str, str], colored: bool
    ) -> None:
        terminal = shell(*options, **environment)
        run(terminal, "put k 1; gte x", '"k" = 1  int\nerror: no command "gte"')
        terminal.press("sc" + TAB)
        terminal.wait_for("kvstore> scan")
        terminal.press(CTRL_C)
        leave(terminal)

        color_codes = re.findall(r"\x1b\[(?:\d+;)*(?:[349]\d|10\d)(?:;\d+)*m", terminal.written)
        assert bool(color_codes) is colored
        assert ("\x1b[0;32;1mput" in terminal.written) is colored
