"""The program ``kvstore``: run the command that the arguments name, and return an exit code.

The verbs of ``store_commands.py`` become click commands here; ``shell`` and commands that move data, such as
``import``, belong to the program only. Arguments follow the argv rule: an argument that is exactly one term
of the shell's grammar is that term; any other is text.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import click

import kvstore
from kvstore.cli.commands.command import ArgumentKind, Command, Given, Invocation
from kvstore.cli.commands.dump_commands import DUMP, LOAD
from kvstore.cli.commands.import_export import EXPORT, IMPORT
from kvstore.cli.commands.named_store import opened, opened_world
from kvstore.cli.commands.parameters import CREATION, STORE, StrictCommand
from kvstore.cli.commands.restore_command import RESTORE
from kvstore.cli.commands.session import Session
from kvstore.cli.commands.store_commands import COMMANDS
from kvstore.cli.failures import EXPECTED, INTERRUPTED, OUTPUT_CLOSED, Misuse, exit_code, sentence
from kvstore.cli.formats.streams import say, say_aside, say_error
from kvstore.cli.formats.tables import FORMATS, Settings, output_width
from kvstore.cli.language.grammar import Term, parse_argument
from kvstore.cli.shell import Script, run_scripts

_SETTINGS = {"help_option_names": ["--help"], "max_content_width": 100}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code. An error is printed as a sentence on standard error."""
    _speak_utf8()
    try:
        code = _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = OUTPUT_CLOSED
    _close_output()
    return code


def _run(arguments: list[str]) -> int:
    try:
        with program.make_context("kvstore", arguments) as context:
            code = program.invoke(context) or 0
        sys.stdout.flush()
        return code
    except click.exceptions.Exit as exit:
        return exit.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        say_error(error.format_message())
        if isinstance(error, click.UsageError) and error.ctx is not None:
            say_aside(f"try {error.ctx.command_path} --help")
        return error.exit_code
    except BrokenPipeError:
        raise
    except EXPECTED as error:
        _close_output()  # standard output may be what failed, and say_error flushes it
        say_error(sentence(error))
        return exit_code(error)


def _speak_utf8() -> None:
    """Write UTF-8 in every locale: programs read the output, and no character may make it fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _close_output() -> None:
    """Flush standard output; discard what cannot be written, or Python would complain at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _verb(command: Command) -> click.Command:
    """Return the program's command for a verb of the shell."""

    def callback(path: str, terms: tuple[str, ...], text: bool = False, **options: Any) -> None:
        creation = {option.name: options.pop(str(option.name)) for option in created_by}
        if command.writes and not command.creates:
            creation["create"] = False
        given = _given(command, terms, options, text)
        with opened(path, writing=command.writes, **creation) as db:
            command.run(Invocation(Session(db), given, say, say_aside, sys.stdout.flush))

    created_by = CREATION if command.writes and command.creates else ()
    has_terms = any(parameter.kind in ("key", "value") for parameter in (*command.terms, *command.options))
    names = " ".join(term.name if term.required else f"[{term.name}]" for term in command.terms)
    return StrictCommand(
        command.name,
        callback=callback,
        params=[
            STORE,
            click.Argument(["terms"], nargs=-1, metavar=names),
            *[_option(option.name, option.kind, option.about) for option in command.options],
            *(
                [click.Option(["--text"], is_flag=True, help="Take keys and values as text.")]
                if has_terms
                else []
            ),
            *created_by,
        ],
        help=command.about,
        short_help=command.about,
        context_settings=_SETTINGS,
    )


def _option(name: str, kind: ArgumentKind, about: str) -> click.Option:
    about = about[:1].upper() + about[1:] + "."
    if kind == "flag":
        return click.Option([f"--{name}"], is_flag=True, help=about)
    return click.Option([f"--{name}"], metavar=_METAVARS[kind], help=about)


_METAVARS: Final[dict[ArgumentKind, str]] = {
    "number": "N",
    "text": "NAME",
    "region": "REGION",
    "key": "KEY",
    "value": "VALUE",
}


def _given(command: Command, terms: Sequence[str], options: dict[str, Any], text: bool) -> Given:
    """Return the arguments by parameter name, as ``Command.fit`` does for a statement."""
    kinds: list[ArgumentKind] = [parameter.kind for parameter in command.terms]
    kinds += ["value"] * (len(terms) - len(kinds))  # too many: ``fit_terms`` refuses them
    given = command.fit_terms(
        [_term(kind, argument, text) for kind, argument in zip(kinds, terms, strict=False)]
    )
    for option in command.options:
        argument = options[option.name]
        if option.kind == "flag":
            given |= {option.name: True} if argument else {}
        elif argument is not None:
            given[option.name] = option.fit(_term(option.kind, argument, text))
    return given


def _term(kind: ArgumentKind, argument: str, text: bool) -> Term:
    if kind == "text":
        return Term(argument, argument)
    return Term(parse_argument(argument, force_text=text and kind != "number"), argument.strip())


def _shell(
    path: str,
    commands: tuple[str, ...],
    file: str | None,
    read_only: bool,
    keep_going: bool,
    format: str | None,
    color: str,
    geo: bool,
    regions: str | None,
    region: str | None,
    **creation: Any,
) -> int:
    if commands and file is not None:
        raise Misuse("give either -c COMMAND or -f FILE")
    if read_only and any(value is not None for value in creation.values()):
        raise Misuse("--read-only creates nothing: leave out --shards, --replicas and --durability")
    settings = Settings(format=format, color=_is_colored(color))
    where = _World(geo, regions, region, read_only)
    if not commands and file is None and sys.stdin.isatty() and output_width() is not None:
        from kvstore.cli.prompt import run_session  # slow to import, and not needed by a script

        with _session(path, where, settings, creation) as session:
            return run_session(session, path)
    with _scripts(commands, file) as scripts, _session(path, where, settings, creation) as session:
        return run_scripts(session, scripts, keep_going=keep_going)


class _World(NamedTuple):
    """The options of ``shell`` that determine what is opened."""

    geo: bool
    regions: str | None
    region: str | None
    read_only: bool

    def check(self) -> None:
        if not self.geo and (self.regions is not None or self.region is not None):
            raise Misuse("--regions and --region need --geo")
        if self.geo and self.read_only:
            raise Misuse("--geo opens for writing, as regions exchange writes: leave out --read-only")


@contextmanager
def _session(path: str, where: _World, settings: Settings, creation: Mapping[str, Any]) -> Iterator[Session]:
    """Open a session with the store at ``path``, or with a region of it."""
    where.check()
    if not where.geo:
        with opened(path, writing=not where.read_only, **creation) as db:
            yield Session(db, settings)
        return
    names = None if where.regions is None else [name.strip() for name in where.regions.split(",")]
    with opened_world(path, regions=names, region=where.region, **creation) as (world, region):
        yield Session(region, settings, world)


def _is_colored(color: str) -> bool:
    """Return whether to print colors: by https://no-color.org, and only on a terminal."""
    if color != "auto":
        return color == "always"
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


@contextmanager
def _scripts(commands: Sequence[str], file: str | None) -> Iterator[list[Script]]:
    if commands:
        encoded = [command.encode("utf-8", "surrogateescape") for command in commands]
        yield [Script("-c", io.BytesIO(command)) for command in encoded]
    elif file is not None and file != "-":
        with open(file, "rb") as stream:
            yield [Script(file, stream)]
    elif file is None and sys.stdin.isatty():
        raise Misuse("say what to run: kvstore shell PATH -c COMMAND, -f FILE, or < FILE")
    else:
        yield [Script("<stdin>", sys.stdin.buffer)]


_SHELL = click.Command(
    "shell",
    callback=_shell,
    short_help="Run commands from a terminal, a line, a file or standard input.",
    help="On a terminal, take commands until Ctrl-D. Otherwise run commands, one a line or separated by ';',"
    " and stop at the first error. The command 'help' lists them. The store is created if it is missing.",
    params=[
        STORE,
        click.Option(["commands", "-c"], multiple=True, metavar="COMMAND", help="Run COMMAND; repeatable."),
        click.Option(["file", "-f"], metavar="FILE", help="Run the lines of this file."),
        click.Option(["--read-only"], is_flag=True, help="Change nothing, and create nothing."),
        click.Option(
            ["--keep-going"], is_flag=True, help="Continue after an error; exit with the code of the first."
        ),
        click.Option(["--format"], type=click.Choice(FORMATS), help="How results are printed."),
        click.Option(
            ["--color"],
            type=click.Choice(["auto", "always", "never"]),
            default="auto",
            help="Color input and errors. NO_COLOR=1 in the environment makes auto mean never.",
        ),
        click.Option(["--geo"], is_flag=True, help="PATH is a store with regions; work in one of them."),
        click.Option(
            ["--regions"], metavar="NAMES", help="All regions, such as eu,us,ap. Default: those of the store."
        ),
        click.Option(["--region"], metavar="NAME", help="The region to work in. Default: the first."),
        *CREATION,
    ],
)


def _load(modules: tuple[str, ...]) -> None:
    """Import the modules that register procedures; the modules may be in the current folder."""
    if modules:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # the user's module may raise anything
            raise Misuse(f"--load {module}: {type(error).__name__}: {error}") from error


def _say_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        say(f"kvstore {kvstore.__version__}")
        context.exit()


program = click.Group(
    "kvstore",
    help="An embedded, transactional key-value store. PATH is the folder of a store.",
    commands=[
        *[_verb(command) for command in COMMANDS if not command.shell_only],
        IMPORT,
        EXPORT,
        DUMP,
        LOAD,
        RESTORE,
        _SHELL,
    ],
    callback=_load,
    params=[
        click.Option(
            ["modules", "--load"],
            multiple=True,
            metavar="MODULE",
            help="First import a module that registers stored procedures; may be repeated.",
        ),
        click.Option(
            ["--version"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_say_version,
            help="Print the version and exit.",
        ),
    ],
    context_settings=_SETTINGS,
)
