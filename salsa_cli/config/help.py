"""What the help shows: a usage line, prose, panels of options, a footer."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING

from salsa_cli.config.commands import COMMANDS, Command
from salsa_cli.formatting import amount

if TYPE_CHECKING:  # it takes longer to import than `salsa --help` needs
    from salsa_cli.config.base import Field

OPTIONS = {"help_option_names": ["-h", "--help"]}
"""The settings of Typer for every command."""

SHOW_ALL = "Show all options and exit."


@dataclass(frozen=True)
class Entry:
    """A line of a panel: what is typed, its short spelling, its value, and what it does."""

    name: str
    short: str
    value: str
    text: str


_HELP = Entry("--help", "-h", "", "Show this message and exit.")
_HELP_ALL = Entry("--help-all", "", "", SHOW_ALL)


@dataclass(frozen=True)
class Page:
    """The help of a command; `panels` are titles with their entries."""

    usage: str
    paragraphs: Sequence[str]
    panels: Sequence[tuple[str, Sequence[Entry]]]
    footer: Sequence[str]


def show(page: Page) -> None:
    """Print the page on stdout; a reader that goes away is no error."""
    from salsa_cli.config.help_drawing import draw  # rich takes a while to import

    draw(page)


def of_salsa(about: str, options: Sequence[Entry]) -> Page:
    """The commands, and the options that `salsa` takes without one."""
    commands = [Entry(one.name, "", "", one.summary) for one in COMMANDS.values()]
    return Page(
        "salsa [OPTIONS] COMMAND [ARGS]...",
        [about],
        [("Commands", commands), ("Options", options)],
        ["`salsa COMMAND --help` shows the options of a command."],
    )


def of_command(command: Command, fields: Sequence["Field"], *, full: bool) -> Page:
    """The options of a command: all of them by topic, or the essential ones."""
    shown = [one for one in sorted(fields, key=_order) if full or _is_essential(one)]
    arguments = [one for one in shown if one.setting.positional]
    panels: dict[str, list[Entry]] = {"Arguments": [], "Options": []}
    for one in shown:
        title = one.setting.panel if full else "Options"
        panels.setdefault("Arguments" if one in arguments else title, []).append(_entry(one))
    panels.setdefault("Run" if full else "Options", []).extend([_HELP_ALL, _HELP])
    return Page(
        " ".join(["salsa", command.name, "[OPTIONS]", *(one.metavar for one in arguments)]),
        [
            command.summary,
            "\n  ".join(["Examples:", *(f"salsa {command.name} {e}" for e, _ in command.examples)]),
        ],
        [(title, entries) for title, entries in panels.items() if entries],
        _footer(command, fields),
    )


def _entry(field: "Field") -> Entry:
    if field.setting.positional:
        return Entry(field.metavar, "", "", _description(field))
    short = ",".join(flag for flag in field.flags if flag != field.option)
    return Entry(field.option, short, "" if field.is_flag else field.metavar, _description(field))


def _order(field: "Field") -> tuple[bool, bool, bool, bool]:
    """Arguments, required options (the output last), the others, and how to run."""
    return (
        not field.setting.positional,
        not field.required,
        field.required and field.name == "output",
        field.setting.panel == "Run",
    )


def _is_essential(field: "Field") -> bool:
    return field.required or field.setting.essential or field.setting.positional


def _description(field: "Field") -> str:
    """Help, bounds and default: `[0 < X <= 1; default: 1]`."""
    notes = [field.setting.bounds("X" if field.setting.size else field.metavar)]
    if field.required:
        notes.append("required")
    elif (default := _default(field)) is not None:
        notes.append(f"default: {default}")
    if field.is_list and field.length is None and not field.setting.positional:
        notes.append("repeatable")
    listed = "; ".join(note for note in notes if note)
    return f"{field.setting.help} [{listed}]" if listed else field.setting.help


def _default(field: "Field") -> str | None:
    value = field.default
    if value is MISSING or value is None or value == () or field.is_flag:
        return None
    if field.setting.size:
        return amount(value, "B")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _footer(command: Command, fields: Sequence["Field"]) -> list[str]:
    option = next(one for one in fields if one.setting.essential and one.setting.recorded)
    return [
        f"`salsa {command.name} --help-all` shows all {len(fields)} options. Every option without "
        "a value has an opposite, as in --no-force.",
        f"Any setting may also come from the environment ({option.variable(command.name)}=...) or "
        f"from the table [{command.name}] of salsa.toml in the current folder; flags come first, "
        "then the environment, then the file.",
    ]
