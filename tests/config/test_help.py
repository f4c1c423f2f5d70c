"""The help: what it shows, how wide it is."""

import pytest

from salsa_cli.config import help as help_texts
from salsa_cli.config.base import declared
from salsa_cli.config.command_line import Manners
from salsa_cli.config.commands import COMMANDS, Command


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda one: one.name)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_everything_is_shown_and_fits(command: Command, width: int) -> None:
    fields = (*declared(command.config_type()), *declared(Manners))
    full = help_texts.command_help(command, width, full=True)
    short = help_texts.command_help(command, width, full=False)
    for field in fields:
        name = field.metavar if field.setting.positional else field.option
        assert full.count(f"{name} ") + full.count(f"{name}\n") >= 1, name
        if field.required:
            assert name in short
    for line in f"{full}\n{short}".split("\n"):
        names_an_option = line.strip().startswith(("-", "salsa"))
        assert len(line) <= width or names_an_option, line


@pytest.mark.parametrize("command", COMMANDS.values(), ids=lambda one: one.name)
def test_the_essential_options_are_few(command: Command) -> None:
    text = help_texts.command_help(command, 100, full=False)
    assert len([line for line in text.split("\n") if line.startswith("  -")]) <= 15
    assert "--help-all" in text


def test_bounds_and_defaults() -> None:
    text = help_texts.command_help(COMMANDS["soup"], 100, full=True)
    flat = " ".join(text.split())
    assert "--alpha X Weight of B in (1 - alpha) A + alpha B, for two models. [0 <= X <= 1]" in flat
    assert "[X >= 8MB; default: 256MB]" in flat
    assert (
        "-o, --output FOLDER Folder for the result. It appears when it is complete. [required]"
        in flat
    )
    assert "(SALSA_SOUP_ALPHA=...) or from the table [soup] of salsa.toml" in flat


def test_the_overview_names_all_commands() -> None:
    text = help_texts.overview(80)
    assert all(
        f"  {command.name} " in text and command.summary in text for command in COMMANDS.values()
    )
