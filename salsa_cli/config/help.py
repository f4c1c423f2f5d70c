"""Help texts: the most important options, or all of them by topic."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import MISSING

from salsa_cli.config.base import Field, declared
from salsa_cli.config.command_line import Manners
from salsa_cli.config.commands import COMMANDS, Command
from salsa_cli.formatting import amount

_WIDEST = 100
_INDENT = 2
_COLUMN = 30
"""Where the descriptions of options begin."""

_UNBROKEN = "\0"
"""Stands for a space at which a line does not wrap."""


def overview(width: int) -> str:
    """The help of `salsa` itself: its commands."""
    commands = [(name, command.summary) for name, command in COMMANDS.items()]
    options = [
        ("-h, --help", "Show this text; `salsa COMMAND --help` shows a command's options."),
        ("-V, --version", "Print the version."),
        ("--install-completion [SHELL]", "Set up completion in bash, zsh or fish."),
        ("--show-completion [SHELL]", "Print the completion script."),
    ]
    lines = [
        "RLHF with PPO in which the reference model is a first-class argument.",
        "",
        "Usage: salsa COMMAND [OPTIONS]",
        "",
        "Commands:",
        *_rows(commands, width, column=12),
        "",
        "Options:",
        *_rows(options, width, column=_COLUMN),
    ]
    return "\n".join(lines)


def command_help(command: Command, width: int, *, full: bool) -> str:
    """The help of a command: usage, examples, and its essential options or all."""
    fields = (*declared(command.config_type()), *declared(Manners))
    shown = [field for field in fields if full or _is_essential(field)]
    lines = [
        *textwrap.wrap(command.summary, width),
        "",
        *_usage(command, fields, width),
        "",
        "Examples:",
    ]
    lines += [f"  salsa {command.name} {line}" for line, _ in command.examples]
    for title, options in _panels(shown, full=full):
        lines += ["", f"{title}:"]
        lines += _rows([(_names(one), _description(one)) for one in options], width, _COLUMN)
    lines += ["", *_footer(command, fields, width, full=full)]
    return "\n".join(lines)


def _is_essential(field: Field) -> bool:
    return field.required or field.setting.essential or field.setting.positional


def _usage(command: Command, fields: Sequence[Field], width: int) -> list[str]:
    required = [
        f"{field.flags[0]} {field.metavar}"
        for field in fields
        if field.required and not field.setting.positional
    ]
    arguments = [field.metavar for field in fields if field.setting.positional]
    text = " ".join(["Usage: salsa", command.name, *arguments, *required, "[OPTIONS]"])
    return textwrap.wrap(text, min(width, _WIDEST), subsequent_indent=" " * 7)


def _panels(fields: Sequence[Field], *, full: bool) -> Iterator[tuple[str, list[Field]]]:
    """Options by topic: arguments and required ones first, how to run last."""
    if not full:
        yield "Options", sorted(fields, key=_order)
        return
    titles = dict.fromkeys(field.setting.panel for field in sorted(fields, key=_order))
    last = "Run"
    for title in (*(one for one in titles if one != last), last):
        yield title, [one for one in sorted(fields, key=_order) if one.setting.panel == title]


def _order(field: Field) -> tuple[bool, bool, bool, bool]:
    """Arguments, required options (the output last), the others, and how to run."""
    return (
        not field.setting.positional,
        not field.required,
        field.required and field.name == "output",
        field.setting.panel == "Run",
    )


def _names(field: Field) -> str:
    if field.setting.positional:
        return field.metavar
    flags = ", ".join(field.flags)
    return flags if field.is_flag else f"{flags} {field.metavar}"


def _description(field: Field) -> str:
    """Help, bounds and default; `[0 < X <= 1; default: 1]`."""
    notes = [field.setting.bounds("X" if field.setting.size else field.metavar)]
    if field.required:
        notes.append("required")
    elif (default := _default(field)) is not None:
        notes.append(f"default: {default}")
    if field.is_list and field.length is None and not field.setting.positional:
        notes.append("repeatable")
    listed = "; ".join(note.replace(" ", _UNBROKEN) for note in notes if note)
    return f"{field.setting.help} [{listed}]" if listed else field.setting.help


def _default(field: Field) -> str | None:
    value = field.default
    if value is MISSING or value is None or value == () or field.is_flag:
        return None
    if field.setting.size:
        return amount(value, "B")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _footer(command: Command, fields: Sequence[Field], width: int, *, full: bool) -> Iterator[str]:
    option = next(one for one in fields if one.setting.essential and one.setting.recorded)
    sources = (
        f"Any setting may also come from the environment ({option.variable(command.name)}=...) or "
        f"from the table [{command.name}] of salsa.toml in the current folder; flags come first, "
        "then the environment, then the file."
    )
    switches = "Every option without a value has an opposite, as in --no-force."
    text = f"{sources} {switches}"
    if not full:
        text = f"`salsa {command.name} --help-all` shows all {len(fields)} options."
    yield from textwrap.wrap(text, min(width, _WIDEST))


def _rows(rows: Sequence[tuple[str, str]], width: int, column: int) -> Iterator[str]:
    """Names to the left, descriptions to the right; below a name that is too long."""
    width = min(width, _WIDEST)
    column = min(column, max(12, width // 3))
    for name, text in rows:
        lines = textwrap.wrap(text, max(20, width - column), break_on_hyphens=False)
        lines = [line.replace(_UNBROKEN, " ") for line in lines]
        head = " " * _INDENT + name
        if len(head) + 2 > column:
            yield head
            head = ""
        yield f"{head:<{column}}{lines[0]}".rstrip()
        yield from (" " * column + line for line in lines[1:])
