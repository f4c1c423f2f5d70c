"""Commands and options by Typer: it parses the arguments, renders the help, completes words.

To Typer every value is text, and None where it is not given; `values.py` alone converts it.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.exceptions import TyperException

from salsa_cli import VERSION
from salsa_cli.config.base import Field, declared
from salsa_cli.config.commands import COMMANDS, Command
from salsa_cli.config.manners import Manners
from salsa_cli.config.suggestions import did_you_mean
from salsa_cli.config.values import split_list
from salsa_cli.errors import UsageError, one_line
from salsa_cli.formatting import amount

Run = Callable[[Command, dict[str, object], Sequence[str]], None]
"""What runs a command: with the texts that are given by field, and the arguments as typed."""

_HELP = {"help_option_names": ["-h", "--help"]}


class _Command(TyperCommand):
    """A command whose `--help` shows only the essential options."""

    fields: tuple[Field, ...] = ()
    _typed: Sequence[str] = ()

    def arguments(self) -> Sequence[str]:
        """The arguments as they were typed."""
        return self._typed

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if ctx.resilient_parsing:  # completion
            return super().parse_args(ctx, args)
        self._typed = tuple(args)
        switches = {flag: field for field in self.fields for flag in _spellings(field)}
        try:
            super().parse_args(ctx, list(_separated(args, switches)))
        except TyperException as error:
            raise UsageError(_explained(error, args, switches)) from error
        for field in self.fields:
            value = ctx.params.get(field.name)
            for item in value if isinstance(value, list | tuple) else [value]:
                if field.flags and str(item).partition("=")[0] in switches:
                    raise UsageError(_value_missing(field.option, field))
        if ctx.args:
            raise UsageError(f"unexpected argument '{one_line(ctx.args[0])}'")
        return []

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Print the help; once it is printed, the process ends."""
        full = bool(ctx.meta.get("full"))
        essential = {field.name for field in self.fields if _is_essential(field)}
        for param in self.get_params(ctx):
            if not isinstance(param, TyperOption):
                # Python's name of a type says nothing that the metavar does not.
                param.display_type_rich = lambda ctx: ""  # type: ignore[attr-defined]
                continue
            if param.name == "help":
                param.metavar = ""
            param.secondary_opts = []  # --no-NAME: the footer has it
            if not full:
                param.hidden = param.name not in {*essential, "help", "help_all"}
                param.rich_help_panel = None
        try:
            super().format_help(ctx, formatter)
        except SystemExit as end:  # rich: the reader of the help is gone, which is no error
            raise typer.Exit from end


class _Commands(TyperGroup):
    """The commands; their options are declared only when one of them is asked for."""

    run: Run

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Print the help, in which no option has a value."""
        for param in self.get_params(ctx):
            param.metavar = ""
        super().format_help(ctx, formatter)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        if args[0] not in COMMANDS:
            if ctx.resilient_parsing:
                return None, None, args[1:]
            raise UsageError(
                f"no such command '{one_line(args[0])}'{did_you_mean(args[0], COMMANDS)}; expected "
                f"{', '.join(COMMANDS)}"
            )
        return args[0], build(COMMANDS[args[0]], self.run), args[1:]

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        try:
            return super().parse_args(ctx, args or ["--help"])
        except TyperException as error:
            name = getattr(error, "option_name", "")
            known = [flag for param in self.get_params(ctx) for flag in param.opts]
            raise UsageError(
                f"no such option {one_line(name)}{did_you_mean(name, known)}"
            ) from error


def application(run: Run) -> Callable[[Sequence[str]], None]:
    """`salsa` as a function of its arguments."""
    app = typer.Typer(
        name="salsa",
        cls=_Commands,
        help="RLHF with PPO in which the reference model is a first-class argument.",
        epilog="`salsa COMMAND --help` shows the options of a command.",
        context_settings=_HELP,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(_root)
    for command in COMMANDS.values():
        app.command(command.name, help=command.summary)(_nothing)
    group = typer.main.get_command(app)
    assert isinstance(group, _Commands)
    asked: list[tuple[Command, dict[str, object], Sequence[str]]] = []
    group.run = lambda *one: asked.append(one)

    def main(arguments: Sequence[str]) -> None:
        group.main(list(arguments), prog_name="salsa", standalone_mode=False)
        # Outside of Typer, which would turn an interrupt of the command into a mere return value.
        for one in asked:
            run(*one)

    return main


def parse(command: Command, arguments: Sequence[str]) -> dict[str, object]:
    """The text given for each setting of the command and for its `Manners`.

    Raises:
        UsageError: an option is unknown (suggests what was meant), a value is missing, or there
            are too many arguments.
    """
    found: dict[str, object] = {}
    build(command, lambda _, given, __: found.update(given)).main(
        list(arguments), prog_name=f"salsa {command.name}", standalone_mode=False
    )
    return found


def build(command: Command, run: Run) -> _Command:
    """The command for Typer, with an option or argument for every field."""

    def function(**values: object) -> None:
        values.pop("help_all", None)
        given = {name: value for name, value in values.items() if value is not None}
        run(command, given, typed())

    fields = (*declared(command.config_type()), *declared(Manners))
    parameters = [_parameter(field) for field in sorted(fields, key=_order)]
    parameters.append(_help_all())
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.command(
        command.name,
        cls=_Command,
        help=_introduction(command),
        epilog=_footer(command, fields),
        context_settings={**_HELP, "allow_extra_args": True},
    )(function)
    built = typer.main.get_command(app)
    assert isinstance(built, _Command)
    built.fields = fields
    typed = built.arguments
    return built


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "-V",
            "--version",
            callback=lambda asked: _version() if asked else None,
            is_eager=True,
            metavar="",
            help="Print the version.",
        ),
    ] = False,
) -> None:
    pass


def _nothing() -> None:
    pass


def _version() -> None:
    print(f"salsa {VERSION}")
    raise typer.Exit


def _help_all() -> inspect.Parameter:
    def show(context: typer.Context, asked: bool) -> None:
        if asked and not context.resilient_parsing:
            context.meta["full"] = True
            print(context.get_help(), end="")
            raise typer.Exit

    info = typer.Option(
        "--help-all",
        callback=show,
        is_eager=True,
        metavar="",
        help="Show all options and exit.",
        rich_help_panel="Run",
    )
    return inspect.Parameter(
        "help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, info]
    )


def _parameter(field: Field) -> inspect.Parameter:
    kind: Any = str | None
    if field.is_flag:
        kind = bool | None
    elif field.length is not None:
        kind = tuple[(str,) * field.length] | None  # type: ignore[misc]
    elif field.is_list:
        kind = list[str] | None
    common: dict[str, Any] = {
        "help": _description(field),
        "show_default": False,  # it is one of the notes in the help
        "autocompletion": _completion(field),
    }
    info: Any
    if field.setting.positional:
        info = typer.Argument(metavar=field.metavar, **common)
    else:
        flags = list(field.flags)
        if field.is_flag:
            flags[-1] = f"{flags[-1]}/{_opposite(field)}"
        common["metavar"] = "" if field.is_flag else field.metavar
        info = typer.Option(*flags, rich_help_panel=field.setting.panel, **common)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, info],
    )


def _completion(field: Field) -> Callable[[str], list[str]] | None:
    """Values that go on from what was begun; behind a comma, the next one of a list."""
    values = field.choices or field.setting.values
    if not values:
        return None

    def complete(incomplete: str) -> list[str]:
        done, comma, last = incomplete.rpartition(",") if field.is_list else ("", "", incomplete)
        fresh = [one for one in values if one.startswith(last) and one not in done.split(",")]
        return [f"{done}{comma}{one}" for one in fresh]

    return complete


def _order(field: Field) -> tuple[bool, bool, bool, bool]:
    """Arguments, required options (the output last), the others, and how to run."""
    return (
        not field.setting.positional,
        not field.required,
        field.required and field.name == "output",
        field.setting.panel == "Run",
    )


def _is_essential(field: Field) -> bool:
    return field.required or field.setting.essential or field.setting.positional


def _description(field: Field) -> str:
    """Help, bounds and default: `[0 < X <= 1; default: 1]`, in brackets that are no markup."""
    notes = [field.setting.bounds("X" if field.setting.size else field.metavar)]
    if field.required:
        notes.append("required")
    elif (default := _default(field)) is not None:
        notes.append(f"default: {default}")
    if field.is_list and field.length is None and not field.setting.positional:
        notes.append("repeatable")
    listed = "; ".join(note for note in notes if note)
    text = f"{field.setting.help} [{listed}]" if listed else field.setting.help
    return text.replace("[", r"\[")


def _default(field: Field) -> str | None:
    value = field.default
    if value is MISSING or value is None or value == () or field.is_flag:
        return None
    if field.setting.size:
        return amount(value, "B")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _introduction(command: Command) -> str:
    examples = "\n".join(f"salsa {command.name} {line}" for line, _ in command.examples)
    return f"{command.summary}\n\n{examples}".replace("[", r"\[")


def _footer(command: Command, fields: Sequence[Field]) -> str:
    option = next(one for one in fields if one.setting.essential and one.setting.recorded)
    return (
        f"`salsa {command.name} --help-all` shows all {len(fields)} options. Every option without "
        "a value has an opposite, as in --no-force.\n\n"
        f"Any setting may also come from the environment ({option.variable(command.name)}=...) or "
        rf"from the table \[{command.name}] of salsa.toml in the current folder; flags come first, "
        "then the environment, then the file."
    )


def _opposite(field: Field) -> str:
    return f"--no-{field.option[2:]}"


def _spellings(field: Field) -> tuple[str, ...]:
    return (*field.flags, _opposite(field)) if field.is_flag and field.flags else field.flags


def _separated(arguments: Sequence[str], switches: dict[str, Field]) -> Iterator[str]:
    """The arguments with `A,B` as `A B` after an option of two values, and `-o=X` as `-oX`."""
    before = ""
    for token in arguments:
        field = switches.get(before)
        items = split_list(token) if field is not None and field.length is not None else []
        if field is not None and len(items) == field.length:
            yield from items
        else:
            yield re.sub(r"^(-[A-Za-z])=", r"\1", token)
        before = token


def _explained(error: TyperException, arguments: Sequence[str], switches: dict[str, Field]) -> str:
    name = getattr(error, "option_name", None)
    if name is None:
        return error.message
    field = switches.get(name)
    if field is None:
        return f"no such option {one_line(name)}{did_you_mean(name, switches)}"
    if not field.is_flag:
        return _value_missing(name, field)
    token = next(one for one in arguments if one.startswith(f"{name}="))
    return f"{name} takes no value; found '{one_line(token.partition('=')[2])}'"


def _value_missing(name: str, field: Field) -> str:
    return f"{name} needs a value: {name} {field.metavar}"
