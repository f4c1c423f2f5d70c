"""Command-line arguments, matched with the fields that they set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from salsa_cli.config.base import Field, Setting
from salsa_cli.config.suggestions import did_you_mean
from salsa_cli.config.values import split_list
from salsa_cli.errors import UsageError, one_line


@dataclass(frozen=True)
class Manners:
    """How a command is called and reports its result; the same for every command."""

    config: Annotated[
        Path | None,
        Setting(
            "Read settings from a TOML, YAML or JSON file, or from the record of a result, instead "
            "of salsa.toml. Flags override it.",
            metavar="FILE",
            panel="Run",
        ),
    ] = None
    json: Annotated[
        bool, Setting("Print the result as one JSON object on stdout.", panel="Run")
    ] = False
    quiet: Annotated[
        bool, Setting("Print nothing but errors.", flags=("-q", "--quiet"), panel="Run")
    ] = False
    help: Annotated[
        bool,
        Setting(
            "Show the most important options.",
            flags=("-h", "--help"),
            panel="Run",
            essential=True,
        ),
    ] = False
    help_all: Annotated[bool, Setting("Show all options.", panel="Run", essential=True)] = False


@dataclass(frozen=True)
class _Switch:
    """What a flag does: set `field`; to `state` if it is a boolean."""

    field: Field
    state: bool


def parse(arguments: Sequence[str], fields: Sequence[Field]) -> dict[str, object]:
    """The text that was given for each field by its name; for booleans, which state.

    A list collects its repetitions; of any other option the last one counts. Options and arguments
    may come in any order; after `--` there are only arguments.

    Raises:
        UsageError: an option is unknown (suggests what was meant), a value is missing, or there
            are too many arguments.
    """
    switches = _switches(fields)
    found: dict[str, object] = {}
    positional: list[str] = []
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        if token == "--":
            positional += rest
            break
        if token.startswith("--") or (token.startswith("-") and token[:2] in switches):
            _option(token, rest, switches, found)
        elif token.startswith("-") and token != "-":
            raise UsageError(_unknown(token, switches))
        else:
            positional.append(token)
    _arguments(positional, fields, found)
    return found


def _switches(fields: Sequence[Field]) -> dict[str, _Switch]:
    found = {flag: _Switch(field, True) for field in fields for flag in field.flags}
    negated = {
        f"--no-{field.option[2:]}": _Switch(field, False)
        for field in fields
        if field.is_flag and field.flags
    }
    return negated | found


def _option(
    token: str, rest: list[str], switches: Mapping[str, _Switch], found: dict[str, object]
) -> None:
    """Take an option with its values from the arguments."""
    if token.startswith("--"):
        name, given, value = token.partition("=")
    else:
        name, value = token[:2], token[2:]
        given = value
    switch = switches.get(name)
    if switch is None:
        raise UsageError(_unknown(name, switches))
    field = switch.field
    if field.is_flag:
        found[field.name] = switch.state
        if given and name.startswith("--"):
            raise UsageError(f"{name} takes no value; found '{one_line(value)}'")
        if given:  # -qo OUT
            _option(f"-{value}", rest, switches, found)
        return
    values = [value.removeprefix("=")] if given else list(_values(name, field, rest, switches))
    if field.length is not None:
        found[field.name] = values
    elif field.is_list:
        previous = found.get(field.name, [])
        assert isinstance(previous, list)
        found[field.name] = [*previous, *values]
    else:
        (found[field.name],) = values


def _values(
    name: str, field: Field, rest: list[str], switches: Mapping[str, _Switch]
) -> Iterator[str]:
    """The next arguments, as many as the option takes; `A,B` stands for `A B`."""
    wanted = field.length or 1
    for number in range(wanted):
        if not rest or rest[0].partition("=")[0] in switches:
            raise UsageError(f"{name} needs a value: {name} {field.metavar}")
        yield (value := rest.pop(0))
        if number == 0 and wanted > 1 and len(split_list(value)) == wanted:
            return


def _arguments(
    positional: Sequence[str], fields: Sequence[Field], found: dict[str, object]
) -> None:
    left = list(positional)
    for field in (one for one in fields if one.setting.positional and left):
        found[field.name] = left if field.is_list else left[0]
        left = [] if field.is_list else left[1:]
    if left:
        raise UsageError(f"unexpected argument '{one_line(left[0])}'")


def _unknown(name: str, switches: Mapping[str, _Switch]) -> str:
    return f"no such option {one_line(name)}{did_you_mean(name, switches)}"
