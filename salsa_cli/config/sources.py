"""A command's settings from all sources: flags, environment, a file, defaults, in this order."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salsa_cli.config import files
from salsa_cli.config.base import Config, Field, declared, prefix
from salsa_cli.config.commands import COMMANDS, Command
from salsa_cli.config.manners import Manners
from salsa_cli.config.record import DEFAULT, as_json
from salsa_cli.config.suggestions import suggest
from salsa_cli.config.values import convert
from salsa_cli.errors import UsageError
from salsa_cli.records import JSON

_FLAG = 3
"""The rank of an option on the command line."""


@dataclass(frozen=True)
class Given:
    """A value of a field and where it comes from; a source of a higher `rank` overrides it."""

    value: object
    origin: str
    rank: int


def manners(given: Mapping[str, object]) -> Manners:
    """How the command was called, from the parsed arguments.

    Raises:
        UsageError: a value is wrong, or two of them contradict each other.
    """
    values: dict[str, Any] = {
        field.name: convert(field, given[field.name], field.option)
        for field in declared(Manners)
        if field.name in given
    }
    found = Manners(**values)
    if found.json and found.markdown:
        raise UsageError("--json and --markdown cannot be combined; use one of them")
    return found


def configure(
    command: Command,
    given: Mapping[str, object],
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path = Path(),
) -> Config:
    """The settings of a command, each from the first source that has it, with their origins.

    Args:
        given: the command line's text for each setting and for the command's `Manners`.
        arguments: those after the command's name as they were typed, for an error.
        folder: where `salsa.toml` is looked for.

    Raises:
        UsageError: a value is wrong, or settings are missing; names all that are.
    """
    config_type = command.config_type()
    fields = declared(config_type)
    found = {
        **_from_file(command, manners(given).config, folder),
        **_from_environment(command, fields, environment),
        **{
            field.name: Given(convert(field, given[field.name], field.option), field.option, _FLAG)
            for field in fields
            if field.name in given
        },
    }
    for field in fields:
        other = found.get(field.setting.instead_of)
        if other is not None and field.name in found and other.rank > found[field.name].rank:
            del found[field.name]
    if "probe" in found and "output" not in found:  # it may write nothing
        found["output"] = Given(Path(), DEFAULT, 0)
    if missing := [field for field in fields if field.required and field.name not in found]:
        raise UsageError(_missing(command, arguments, missing))
    values: dict[str, Any] = {name: one.value for name, one in found.items()}
    idle, cause = config_type.idle(values)
    ignored = [field for field in fields if field.name in idle and _may_be_ignored(found, field)]
    kept = {name: one for name, one in found.items() if name not in {one.name for one in ignored}}
    return config_type(
        **{name: values[name] for name in kept},
        origins={name: one.origin for name, one in kept.items()},
        ignored=tuple(
            f"{found[field.name].origin}: {field.key} is ignored, because it has no effect {cause}"
            for field in ignored
        ),
    )


def _may_be_ignored(found: Mapping[str, Given], field: Field) -> bool:
    """Whether it was set for other runs, too: in a file or the environment, not as a flag."""
    return field.name in found and found[field.name].rank < _FLAG


def described(config: Config) -> list[tuple[str, JSON, str]]:
    """Every setting with its key, value and origin."""
    return [
        (field.key, as_json(getattr(config, field.name)), config.origins.get(field.name, DEFAULT))
        for field in declared(type(config))
    ]


def _from_environment(
    command: Command, fields: Sequence[Field], environment: Mapping[str, str]
) -> dict[str, Given]:
    variables = {field.variable(command.name): field for field in fields}
    given = {
        name: text
        for name, text in environment.items()
        if name.startswith(prefix(command.name)) and text != ""
    }
    for name in given:
        if name not in variables:
            start = prefix(command.name)
            meant = suggest(name.removeprefix(start), [field.key for field in fields])
            hint = f" (did you mean {start}{meant[0].upper()}?)" if meant else ""
            raise UsageError(
                f"{name} is set, but there is no such setting{hint}; unset it, or see "
                f"`salsa {command.name} --help-all`"
            )
    return {
        variables[name].name: Given(convert(variables[name], text, name), name, 2)
        for name, text in given.items()
    }


def _from_file(command: Command, named: Path | None, folder: Path) -> dict[str, Given]:
    path = folder / files.NAME if named is None else named
    if named is None and not path.is_file():
        return {}
    what = files.NAME if named is None else f"--config {named}"
    fields = {name: declared(one.config_type()) for name, one in COMMANDS.items()}
    content = files.read(path, what)
    read = files.tables if named is None or files.has_tables(content, fields) else files.plain
    found = read(content, what, command.name, fields)
    by_name = {field.name: field for field in fields[command.name]}
    given = {}
    for name, one in found.items():
        field = by_name[name]
        where = f"{one.origin}: {field.key}"
        if one.raw is None and not field.optional:
            raise UsageError(f"{where} is null; expected {field.expected}")
        given[name] = Given(convert(field, one.raw, where, split=False), one.origin, 1)
    return given


def _missing(command: Command, arguments: Sequence[str], missing: Sequence[Field]) -> str:
    """All that is missing, and a command line to copy."""
    missing = sorted(missing, key=lambda field: field.name == "output")  # as in the examples
    names = [field.metavar if field.setting.positional else field.option for field in missing]
    added = [
        field.metavar if field.setting.positional else f"{field.flags[0]} {field.metavar}"
        for field in missing
    ]
    line = shlex.join(["salsa", command.name, *arguments])
    verb = "is" if len(names) == 1 else "are"
    return (
        f"{' and '.join([', '.join(names[:-1]), names[-1]] if names[1:] else names)} {verb} "
        f"missing:\n  {line} {' '.join(added)}"
    )
