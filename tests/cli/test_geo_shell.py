"""The shell in a store with regions: each command, refusals, the current region, and results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

import kvstore
from kvstore.cli.commands.command import Command
from kvstore.cli.commands.session import Session
from kvstore.cli.commands.store_commands import COMMANDS
from kvstore.cli.completion import ShellCompleter
from kvstore.cli.formats.tables import Settings
from kvstore.cli.highlighting import Highlighter
from tests.cli.conftest import Kv, Shell

GEO_COMMANDS = [command for command in COMMANDS if command.of_regions]


class GeoShell(Shell):
    """A shell in a region."""

    def __init__(self, world: kvstore.Geo, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(world["eu"], capsys)
        self.session = Session(world["eu"], Settings(format="jsonl"), world)

    def out(self, text: str) -> str:
        """Run a text that succeeds; return its output."""
        out, err = self(text)
        assert "error" not in err, err
        return out

    def err(self, text: str) -> str:
        """Run a text that fails without output; return its error."""
        out, err = self(text)
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        return err.removeprefix("error: ").rstrip("\n")


@pytest.fixture
def world() -> Iterator[kvstore.Geo]:
    with kvstore.Geo(":memory:", regions=["eu", "us", "ap"]) as world:
        yield world


@pytest.fixture
def geo(world: kvstore.Geo, capsys: pytest.CaptureFixture[str]) -> GeoShell:
    return GeoShell(world, capsys)


def facts(out: str) -> dict[str, object]:
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


class TestWhereItStands:
    def test_is_shown_and_changed_by_region(self, geo: GeoShell) -> None:
        assert geo.out("region") == "* eu\n  us\n  ap\n"
        assert geo.out("region us; region") == "  eu\n* us\n  ap\n"

    def test_is_in_the_prompt(self, geo: GeoShell) -> None:
        assert geo.prompt == "kvstore eu> "
        geo.out("region us; begin; put a 1")
        assert geo.prompt == "kvstore us*1> "

    def test_is_where_ordinary_commands_act(self, geo: GeoShell) -> None:
        geo.out("cut eu us; cut eu ap; put k 1; region us; put k 2")

        assert geo.out("get k; region eu; get k") == "2\n1\n"

    def test_does_not_change_in_a_transaction(self, geo: GeoShell) -> None:
        geo.out("begin; put k 1")

        assert geo.err("region us") == "a transaction is open in this region: commit or rollback first"
        assert geo.prompt == "kvstore eu*1> "

    def test_a_transaction_is_not_run_again_elsewhere(self, geo: GeoShell, world: kvstore.Geo) -> None:
        geo.out("put k 1; begin; get k; put k 2")
        world["eu"].put("k", 3)
        geo.err("commit")

        assert geo.err("region us; retry") == "nothing to retry: no commit has failed with a conflict"

    def test_is_never_nowhere(self, geo: GeoShell) -> None:
        assert geo.err("region mars") == "there is no region 'mars'; there are eu, us, ap"
        assert geo.prompt == "kvstore eu> "


class TestOrdinaryCommands:
    def test_all_work_in_a_region(self, kv: Kv) -> None:
        script = """
        put ("acct", 1) 100; get ("acct", 1); version ("acct", 1); add hits 2; add hits; get hits
        scan ("acct",); count; delete ("acct", 1); explain hits; status --json; verify
        begin; put a 1; savepoint s; put b 2; rollback --to s; diff; commit
        watch --since 0 --timeout 0; compact; backup copy; timing on; put c 3; format raw; get c; help region
        """
        done = kv("shell", "--geo", "w", "--regions", "eu,us", "-c", script)

        assert done.code == 0, done.err
        assert '"hits" = 2  int\n"hits" = 3  int\n3\n' in done.out
        assert '"region": "eu"' in done.out
        assert "\nok: " in done.out
        assert "\nbacked up to copy\n" in done.out

    def test_clash_with_another_type(self, geo: GeoShell) -> None:
        geo.out("put k 1; add hits")

        assert "counter" in geo.err("add k")
        assert "counter" in geo.err("put hits 1")


class TestOtherRegions:
    def test_are_behind_by_so_much(self, geo: GeoShell) -> None:
        geo.out("settle")
        rows = [json.loads(line) for line in geo.out("staleness").splitlines()]

        assert [(row["region"], row["nodes"], row["problem"]) for row in rows] == [
            ("ap", 0, ""), ("us", 0, "")
        ]  # fmt: skip
        assert all(0 <= row["seconds"] < 60 for row in rows)

    def test_win_over_writes_that_are_shown_then(self, geo: GeoShell) -> None:
        geo.out('cut eu us; cut eu ap; put ("a", 1) old; put b old; region us; put ("a", 1) new; put b new')
        geo.out("heal eu us; heal eu ap; settle")

        lost = [json.loads(line) for line in geo.out('lost-writes ("a",)').splitlines()]
        assert [(row["key"], row["value"], row["region"]) for row in lost] == [
            ({"$tuple": ["a", 1]}, "old", "eu")
        ]
        assert len(geo.out("lost-writes").splitlines()) == 2
        geo.out('put ("a", 1) newer; delete b')
        assert geo.out("lost-writes") == ""

    def test_are_cut_off_and_healed(self, geo: GeoShell) -> None:
        assert geo.out("cut eu us; cut eu ap") == (
            "the link of eu and us is cut\nthe link of eu and ap is cut\n"
        )
        geo.out("put k 1; settle; region us")
        assert geo.err("get k") == 'no value at "k"'
        assert geo.out("heal eu us") == "the link of eu and us is healed\n"
        assert geo.out("settle 5; get k") == "settled\n1\n"

    def test_take_their_time(self, geo: GeoShell) -> None:
        assert geo.out("delay eu us 5000; delay eu ap 5000.5") == (
            "the link of eu and us takes 5000 ms\nthe link of eu and ap takes 5000.5 ms\n"
        )
        geo.out("put k 1")
        assert "us" in geo.err("settle 0.1")
        assert geo.out("delay eu us 0; delay eu ap 0; settle; region us; get k").endswith("settled\n1\n")


class TestTypedKeys:
    def test_counters(self, geo: GeoShell) -> None:
        assert geo.out("counter hits; counter hits 2; counter hits -0.5; counter hits") == (
            '0\n"hits" = 2  int\n"hits" = 1.5  float\n1.5\n'
        )
        assert geo.out("begin; counter hits 1; counter hits; commit; get hits") == (
            '"hits" += 1  int\n2.5\n2.5\n'
        )

    def test_bounded_counters(self, geo: GeoShell) -> None:
        assert geo.out("bounded-add stock 10; bounded-add stock 5 --to us") == (
            '"stock" += 10, for eu to spend\n"stock" += 5, for us to spend\n'
        )
        assert geo.out("spend stock 3; grant stock 2 ap") == '"stock" -= 3\n2 of "stock" granted to ap\n'
        assert facts(geo.out("bounded stock")) == {"value": 12, "rights": {"eu": 5, "us": 5, "ap": 2}}

    def test_bounded_counters_in_a_transaction(self, geo: GeoShell) -> None:
        geo.out("begin; bounded-add stock 4; spend stock 1; grant stock 1 us")
        assert "holds 3, not 9" in geo.err("spend stock 9")
        assert facts(geo.out("commit; bounded stock")) == {"value": 3, "rights": {"eu": 2, "us": 1, "ap": 0}}

    def test_sets(self, geo: GeoShell) -> None:
        assert geo.out("set-add tags blue; set-add tags [a, 1]; set-add tags red; set-remove tags red") == (
            '"blue" added to "tags"\n["a", 1] added to "tags"\n'
            '"red" added to "tags"\n"red" removed from "tags"\n'
        )
        members = [json.loads(line)["member"] for line in geo.out("members tags").splitlines()]
        assert members == ["blue", {"$tuple": ["a", 1]}]
        assert geo.out("members nothing; set-remove tags never") == '"never" removed from "tags"\n'

    def test_sets_in_a_transaction(self, geo: GeoShell) -> None:
        assert geo.out("begin; set-add tags x; members tags; rollback; members tags") == (
            '"x" added to "tags"\n{"member": "x"}\n'
        )


class TestWhatIsWrong:
    """Each command reports its error in a sentence, and a script ends with the exit code of the error."""

    @pytest.mark.parametrize(
        ("script", "code", "message"),
        [
            ("region eu us", 2, "2 REGION: quote them"),
            ("region (1,)", 2, "REGION is text, not (1,)"),
            ("region mars", 1, "there is no region 'mars'"),
            ("staleness now", 2, "staleness takes no terms"),
            ("lost-writes 5", 2, 'write (5,) or "5"'),
            ("counter", 2, "KEY is missing: counter KEY [N]"),
            ("counter k x", 2, 'N is a number, not "x"'),
            ("put k 1; counter k", 1, ""),
            ("counter k 1; bounded k", 1, ""),
            ("bounded 5", 2, 'write (5,) or "5"'),
            ("bounded-add stock 1.5", 2, "an amount is an int"),
            ("bounded-add stock 0", 2, "an amount is an int from 1"),
            ("bounded-add stock 1 --to mars", 1, "there is no region 'mars'"),
            ("spend stock", 2, "N is missing: spend KEY N"),
            ("spend stock 1", 1, "'stock' holds 0, not 1"),
            ("bounded-add stock 5 --to us; spend stock 1", 3, "eu may spend 0 of the 5"),
            ("grant stock 1", 2, "REGION is missing: grant KEY N REGION"),
            ("bounded-add stock 5; grant stock 1 mars", 1, "there is no region 'mars'"),
            ("bounded-add stock 5 --to us; grant stock 1 us", 3, "eu may spend 0 of the 5"),
            ("set-add tags", 2, "MEMBER is missing: set-add KEY MEMBER"),
            ("set-add tags {a: 1}", 2, "a member of a set must not contain a map"),
            ("set-remove tags {a: 1}", 2, "a member of a set must not contain a map"),
            ("add hits; set-add hits x", 1, ""),
            ("add hits; members hits", 1, ""),
            ("cut eu", 2, "OTHER is missing: cut REGION OTHER"),
            ("cut eu eu", 1, "a link joins two regions, and 'eu' is one"),
            ("heal eu mars", 1, "there is no region 'mars'"),
            ("delay eu us", 2, "MS is missing"),
            ("delay eu us -1", 2, "a delay is from 0 to 3600000 ms, not -1"),
            ("settle soon", 2, 'SECONDS is a number, not "soon"'),
            ("settle -1", 2, "timeout is a number of seconds"),
            ("append 0", 2, "PAYLOAD is missing"),
            ("append 9 x", 1, "there is no color 9"),
            ("append 1.5 x", 1, "there is no color 1.5"),
            ("append eu x", 1, "colors are a list of numbers"),
            ("append null x", 1, "colors are a list of numbers"),
            ("append [[0]] x", 1, "there is no color [0]"),
            ("append [] x", 1, "a node has at least one color"),
            ("append 0 5", 2, "a payload is bytes, not int"),
            ("begin; append 0 x", 2, "append cannot run in a transaction"),
            ("log --limit 1.5", 2, "limit is a whole number"),
            ("log --limit -1", 2, "limit must be at least 0, not -1"),
            ("log --colors 9", 1, "there is no color 9"),
            ("log --graph --format csv", 2, "--graph draws a picture: leave out --format"),
        ],
    )
    def test_in_a_command(self, kv: Kv, script: str, code: int, message: str) -> None:
        done = kv("shell", "--geo", ":memory:", "--regions", "eu,us", "-c", script)

        assert done.code == code
        assert done.err.startswith(f"error: -c:1: {message}")
        assert len(done.err.splitlines()) == (2 if "begin" in script else 1)

    @pytest.mark.parametrize("command", GEO_COMMANDS, ids=lambda command: command.name)
    def test_where_there_are_no_regions(self, kv: Kv, command: Command) -> None:
        done = kv("shell", "s", "-c", command.name)

        assert done.code == 2
        assert done.err == (
            f"error: -c:1: {command.name}: this store has no regions:"
            " kvstore shell --geo PATH opens one that has\n"
        )

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["w"], 4, "there is no world of regions at "),
            (["w", "--regions", "eu,eu"], 2, "two regions are called 'eu'"),
            (["w", "--regions", "eu,"], 2, "a region's name has letters"),
            (["w", "--regions", "eu", "--region", "us"], 2, "--region us is not one of the regions eu"),
            (["w", "--regions", "eu", "--durability", "none"], 2, "a region does not take durability='none'"),
            (["w/w/w", "--regions", "eu"], 4, ""),
            (["w", "--regions", "eu", "--read-only"], 2, "--geo opens for writing"),
        ],
    )
    def test_at_the_opening(
        self, kv: Kv, tmp_path: Path, arguments: list[str], code: int, message: str
    ) -> None:
        done = kv("shell", "--geo", *arguments, "-c", "region")

        assert (done.code, done.out) == (code, "")
        assert done.err.startswith(f"error: {message}")
        assert not (tmp_path / "w").exists()

    @pytest.mark.parametrize("option", ["--region", "--regions"])
    def test_without_geo(self, kv: Kv, option: str) -> None:
        done = kv("shell", "s", option, "eu", "-c", "count")

        assert (done.code, done.err) == (2, "error: --regions and --region need --geo\n")


class TestAWorldThatIsThere:
    @pytest.fixture
    def made(self, tmp_path: Path) -> Path:
        """Create a store with regions in a program."""
        with kvstore.Geo(tmp_path / "w", regions=["us", "eu"], shards=2) as world:
            world["us"].put("k", "from us")
            world["eu"].counter("hits").add(3)
            world.settle()
        return tmp_path / "w"

    def test_is_explored_without_its_names(self, kv: Kv, made: Path) -> None:
        assert kv("shell", "--geo", "w", "-c", "region; get k; counter hits; log --limit 0").out == (
            '* eu\n  us\n"from us"\n3\n'
        )
        assert kv("shell", "--geo", "w", "--region", "us", "-c", "region; get hits").out == "  eu\n* us\n3\n"

    def test_is_read_by_a_program_again(self, kv: Kv, made: Path) -> None:
        kv("shell", "--geo", "w", "--regions", "us,eu", stdin=b"put k shell\nsettle")

        with kvstore.Geo(made, regions=["eu", "us"]) as world:
            assert world["eu"]["k"] == "shell"

    def test_keeps_its_regions(self, kv: Kv, made: Path) -> None:
        done = kv("shell", "--geo", "w", "--regions", "eu,ap", "-c", "region")

        assert done.code == 4
        assert "was created with regions=('eu', 'us')" in done.err
        assert kv("shell", "--geo", "w", "--shards", "3", "-c", "region").code == 4

    def test_is_not_opened_while_a_program_has_it(self, kv: Kv, made: Path) -> None:
        with kvstore.Geo(made, regions=["eu", "us"]):
            assert kv("shell", "--geo", "w", "-c", "region").code == 4

    def test_is_not_a_store_and_a_store_is_none(self, kv: Kv, made: Path) -> None:
        kv("put", "s", "k", "1")

        assert kv("shell", "--geo", "s", "-c", "region").code == 4
        asked = kv("get", "w", "k")
        assert asked.code == 4
        assert "shell --geo" in asked.err


class TestTab:
    @pytest.mark.parametrize(
        ("typed", "offered"),
        [
            ("lost", ["lost-writes"]),
            ("bounded", ["bounded", "bounded-add"]),
            ("region ", ["region eu", "region us", "region ap"]),
            ("region u", ["region us"]),
            ("cut eu a", ["cut eu ap"]),
            ("delay eu us ", []),
            ("bounded-add k 5 --", ["bounded-add k 5 --to"]),
            ("bounded-add k 5 --to e", ["bounded-add k 5 --to eu"]),
            ("grant k 5 ", ["grant k 5 eu", "grant k 5 us", "grant k 5 ap"]),
            ("spend sto", ["spend stock"]),
            ("log --g", ["log --graph"]),
            ("log --limit 5 --c", ["log --limit 5 --colors"]),
        ],
    )
    def test_offers_what_fits(self, geo: GeoShell, typed: str, offered: list[str]) -> None:
        geo.out("bounded-add stock 1")

        assert self.completed(geo, typed) == offered

    def test_offers_the_keys_of_the_region_one_stands_in(self, geo: GeoShell) -> None:
        completer = ShellCompleter(geo.session)
        geo.out("cut eu us; cut us ap; put here 1; region us; put there 1")

        assert self.completed(geo, "get ", completer) == ["get there"]
        geo.out("region eu")
        assert self.completed(geo, "get ", completer) == ["get here"]

    def test_offers_no_region_where_there_are_none(self) -> None:
        with kvstore.open(":memory:") as db:
            assert (
                list(ShellCompleter(Session(db)).get_completions(Document("region "), CompleteEvent())) == []
            )

    @staticmethod
    def completed(geo: GeoShell, typed: str, completer: ShellCompleter | None = None) -> list[str]:
        completer = completer or ShellCompleter(geo.session)
        offered = completer.get_completions(Document(typed, len(typed)), CompleteEvent())
        return [typed[: len(typed) + found.start_position] + found.text for found in offered]


def test_commands_are_highlighted() -> None:
    shown = Highlighter().lex_document(Document("lost-writes k; bounded-add k 1 --to us"))(0)

    assert [text for style, text, *_ in shown if style == "class:command"] == ["lost-writes ", "bounded-add "]


@pytest.mark.parametrize("command", GEO_COMMANDS, ids=lambda command: command.name)
def test_help_explains_them_and_their_examples_work(kv: Kv, command: Command) -> None:
    done = kv(
        "shell", "--geo", "w", "--regions", "eu,us", "-c", f"help {command.name}", "-c", command.example
    )

    assert done.code == 0, done.err
    assert done.out.startswith(f"{command.usage}\n  {command.about}\n")


NAME = re.compile(r"[0-9:.]{12}  (..)/[0-9]+/[0-9]+ *\[.*?\] +")
"""The time, name and colors in a node's line, which depend on when imports arrive."""
PLACE = re.compile(r"(..)/[0-9]+/[0-9]+")


def picture(out: str) -> str:
    """Return the graph, with the region and effects of each node."""
    return "\n" + PLACE.sub(r"\1", NAME.sub(r"\1 ", out))


class TestTheGraph:
    def test_shows_what_was_written_on_both_sides_of_a_cut(self, geo: GeoShell) -> None:
        geo.out("put a 1; settle; cut eu us; cut eu ap; put a 2; region us; put a 3; add hits; settle")
        geo.out("region ap; put b 4; heal eu us; heal eu ap; settle; region eu; put c 5; settle")

        expected = r"""
*     eu put "c" 5
|\__
|   * ap put "b" 4
|  /
| *   us add "hits" 1
| *   us put "a" 3
* |   eu put "a" 2
|/
*     eu put "a" 1
"""
        assert picture(geo.out("log --graph")) == expected
        assert picture(geo.out("region us; log --graph --limit 2")) == (
            '\n*     eu put "c" 5\n \\__\n    * ap put "b" 4\n'
        )

    def test_has_a_lane_for_a_region_that_wrote_nothing(self, geo: GeoShell) -> None:
        geo.out("region us; put a 1; settle; region ap; put b 2; append 0 payload")

        assert picture(geo.out("log --graph")) == (
            '\n    * ap b"payload"\n    * ap put "b" 2\n   /\n  *   us put "a" 1\n'
        )

    def test_names_what_no_line_can_lead_to(self, geo: GeoShell) -> None:
        """eu's second node depends on us's first, and us's second on eu's first: the lines would cross."""
        geo.out("cut eu us; cut eu ap; cut us ap; put a 1; region us; put b 2")
        geo.out("heal eu us; settle; cut eu us; put c 3; region eu; put d 4")
        assert (
            picture(geo.out("log --graph"))
            == r"""
*     eu put "d" 4
|\
| *   us put "b" 2
*     eu put "a" 1
"""
        )
        geo.out("heal eu us; settle")
        assert (
            picture(geo.out("log --graph"))
            == r"""
*     eu (behind us)  put "d" 4
| *   us put "c" 3
|/|
| *   us put "b" 2
*     eu put "a" 1
"""
        )

    def test_leaves_out_other_colors_and_leads_past_them(self, geo: GeoShell) -> None:
        geo.out("append 0 one; settle; region us; append 1 two; settle; region eu; append [0, 2] three")

        assert picture(geo.out("log --graph --colors 0")) == '\n*     eu b"three"\n*     eu b"one"\n'
        assert picture(geo.out("log --graph --colors [1, 2]")) == (
            '\n*     eu b"three"\n \\\n  *   us b"two"\n'
        )

    def test_of_nothing_is_nothing(self, geo: GeoShell) -> None:
        assert geo.out("log --graph; log; append 0 x").count("\n") == 1
        assert geo.out("log --graph --limit 0") == ""

    def test_says_what_was_done_as_one_would_type_it(self, geo: GeoShell) -> None:
        geo.out("delete a; bounded-add m 5 --to us; bounded-add m 3; spend m 1; grant m 1 us; set-add s x")
        geo.out("set-remove s x; begin; put a 1; put b 2; commit")

        lines = picture(geo.out("log --graph")).split("\n")[1:-1]
        assert [line.removeprefix("*     eu ") for line in lines] == [
            'put "a" 1; put "b" 2', 'set-remove "s" "x"', 'set-add "s" "x"', 'grant "m" 1 us', 'spend "m" 1',
            'bounded-add "m" 3 --to eu', 'bounded-add "m" 5 --to us', 'delete "a"',
        ]  # fmt: skip

    def test_is_as_wide_as_the_terminal(self, geo: GeoShell) -> None:
        geo.out(f"put k {'x' * 100}; append 0 {'y' * 100}; begin; put k {'z' * 100}; put l 1; commit")
        geo.session.settings.width = lambda: 60

        lines = geo.out("log --graph").splitlines()
        assert [len(line) for line in lines] == [60, 60, 60]
        assert all(line.endswith("…") for line in lines)
        geo.session.settings.width = lambda: 10
        assert [len(line) for line in geo.out("log --graph").splitlines()] == [10, 10, 10]

    def test_any_limit_is_a_limit(self, geo: GeoShell) -> None:
        geo.out("put k 1; put k 2")

        for limit, lines in ((0, 0), (1, 1), (10**20, 2)):
            assert len(geo.out(f"log --graph --limit {limit}").splitlines()) == lines
            assert len(geo.out(f"log --limit {limit}").splitlines()) == lines


class TestTheLogAsRows:
    def test_has_the_newest_first_and_what_each_is_behind(self, geo: GeoShell) -> None:
        geo.out("append 0 one; append [0, 1] b'\\x00'; put k 1")

        put, second, first = [json.loads(line) for line in geo.out("log").splitlines()]
        assert first["payload"] == {"$bytes": "b25l"}
        assert (second["colors"], second["behind"]) == ([0, 1], [first["id"]])
        assert (put["effects"], put["behind"], put["payload"]) == (['put "k" 1'], [second["id"]], None)
        assert json.loads(geo.out("log --limit 1"))["behind"] == [second["id"]], "shown or not"

    def test_append_prints_the_name(self, geo: GeoShell) -> None:
        name = geo.out("append [2, 1] x").strip()

        assert name == "eu/1/1"
        assert facts(geo.out("log"))["id"] == name
