"""The options of a command by Typer: it parses the arguments and completes words.

To Typer every value is text, and None where it is not given; `values.py` alone converts it.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand
from typer.exceptions import TyperException

from salsa_cli.config import help
from salsa_cli.config.base import Field, declared
from salsa_cli.config.commands import Command, Run
from salsa_cli.config.manners import Manners
from salsa_cli.config.suggestions import did_you_mean
from salsa_cli.config.values import split_list
from salsa_cli.errors import UsageError, one_line


class _Command(TyperCommand):
    """A command whose `--help` shows only the essential options."""

    declared_by: Command
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
        """Print the help: the essential options, or all of them."""
        help.show(help.of_command(self.declared_by, self.fields, full="full" in ctx.meta))


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
    parameters = [_parameter(field) for field in fields]
    parameters.append(_help_all())
    function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    function.__annotations__ = {one.name: one.annotation for one in parameters}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(
        command.name, cls=_Command, context_settings={**help.OPTIONS, "allow_extra_args": True}
    )(function)
    built = typer.main.get_command(app)
    assert isinstance(built, _Command)
    built.declared_by, built.fields = command, fields
    typed = built.arguments
    return built


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
        help=help.SHOW_ALL,
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
        "help": field.setting.help.replace("[", r"\["),  # shells show it; Typer reads markup
        "autocompletion": _completion(field),
    }
    info: Any
    if field.setting.positional:
        info = typer.Argument(**common)
    else:
        flags = list(field.flags)
        if field.is_flag:
            flags[-1] = f"{flags[-1]}/{field.opposite}"
        info = typer.Option(*flags, **common)
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


def _spellings(field: Field) -> tuple[str, ...]:
    return (*field.flags, field.opposite) if field.is_flag and field.flags else field.flags


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
