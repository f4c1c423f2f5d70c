"""`salsa` as a group of commands, by Typer.

The options of a command are declared only when that command is asked for.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from salsa_cli import VERSION
from salsa_cli.config import help
from salsa_cli.config.commands import COMMANDS, Command, Run
from salsa_cli.config.suggestions import did_you_mean
from salsa_cli.errors import UsageError, one_line

SHELLS = ("bash", "zsh", "fish")

_COMPLETION = {
    "--install-completion": "Install completion for this shell, or for bash, zsh or fish.",
    "--show-completion": "Print the script of the completion.",
}


class _Commands(TyperGroup):
    run: Run

    def get_params(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """All options; False where one is absent, since Typer imports pydantic to check None."""
        params = super().get_params(ctx)
        for param in params:
            param.default = False
        return params

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        options = [_entry(param) for param in self.get_params(ctx)]
        help.show(help.of_salsa(self.help or "", options))

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        if args[0] not in COMMANDS:
            if ctx.resilient_parsing:
                return None, None, args[1:]
            raise UsageError(
                f"no such command '{one_line(args[0])}'{did_you_mean(args[0], COMMANDS)}; expected "
                f"{', '.join(COMMANDS)}"
            )
        from salsa_cli.config.options import build

        return args[0], build(COMMANDS[args[0]], self.run), args[1:]

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if not ctx.resilient_parsing and len(args) > 1 and args[0] in _COMPLETION:
            self._complete(ctx, *args)
        try:
            return super().parse_args(ctx, args or ["--help"])
        except TyperException as error:
            name = getattr(error, "option_name", "")
            known = [flag for param in self.get_params(ctx) for flag in param.opts]
            raise UsageError(
                f"no such option {one_line(name)}{did_you_mean(name, known)}"
            ) from error

    def _complete(self, ctx: typer.Context, asked: str, shell: str, *rest: str) -> None:
        """`--show-completion zsh`: Typer's options take no value, and look for the shell."""
        if rest:
            raise UsageError(f"unexpected argument '{one_line(rest[0])}'")
        if shell not in SHELLS:
            raise UsageError(
                f"{asked}: no completion for '{one_line(shell)}'{did_you_mean(shell, SHELLS)}; "
                f"expected {', '.join(SHELLS)}"
            )
        (param,) = (one for one in self.get_params(ctx) if asked in one.opts)
        param.callback(ctx, param, shell)


def _entry(param: Any) -> help.Entry:
    names = sorted(param.opts, key=len, reverse=True)
    value, text = (
        ("[SHELL]", _COMPLETION[names[0]]) if names[0] in _COMPLETION else ("", param.help)
    )
    return help.Entry(names[0], names[1] if names[1:] else "", value, text or "")


def application(run: Run) -> Callable[[Sequence[str]], None]:
    """`salsa` as a function of its arguments."""
    app = typer.Typer(
        name="salsa",
        cls=_Commands,
        help="RLHF with PPO in which the reference model is a first-class argument.",
        context_settings=help.OPTIONS,
        pretty_exceptions_enable=False,
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
