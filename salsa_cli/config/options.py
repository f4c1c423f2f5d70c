"""From a configuration class to command-line options and to JSON or YAML, and back.

`options` gives a command function the signature that Typer needs, derived from the dataclass.
A `--config` file becomes Typer's table of defaults: a flag overrides the file and the file
overrides the default, in whatever order they are given.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import typer
import yaml

from salsa_cli.config.base import Config, Field, declared
from salsa_cli.errors import UsageError
from salsa_cli.records import JSON
from salsa_cli.text import amount

C = TypeVar("C", bound=Config)

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True)
class Manners:
    """How a command reports its result; the same for every command."""

    json: bool
    quiet: bool


def options(config_type: type[C]) -> Callable[[Callable[[C, Manners], None]], Callable[..., None]]:
    """Turn `function(config, manners)` into a Typer command with the options of `config_type`."""

    def decorate(function: Callable[[C, Manners], None]) -> Callable[..., None]:
        def command(context: typer.Context, **given: Any) -> None:
            manners = Manners(json=given.pop("json"), quiet=given.pop("quiet"))
            del given["config"]
            given |= dict.fromkeys(_overruled(context, config_type))
            function(_build(config_type, given), manners)

        first = inspect.Parameter(
            "context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context
        )
        signature = inspect.Signature(
            [first, *_parameters(config_type), *_common_parameters(config_type)]
        )
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
        command.__name__ = function.__name__
        command.__doc__ = function.__doc__
        return command

    return decorate


def record(config: Config) -> dict[str, JSON]:
    """The recorded settings as JSON values."""
    return {
        field.name: as_json(getattr(config, field.name))
        for field in declared(type(config))
        if field.setting.recorded
    }


def read_config_file(path: Path, config_type: type[Config]) -> dict[str, Any]:
    """The settings in a JSON or YAML file: a plain mapping, or the record beside a result.

    Raises:
        UsageError: the file cannot be read, is no mapping, or has a key that is no setting.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}, column {where.column + 1}:" if where else ""
        raise UsageError(f"--config {path}:{line} this is neither JSON nor YAML") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: expected a mapping of settings to values")
    settings = content.get("settings", content)
    known = {field.name: field for field in declared(config_type)}
    found = {str(key).replace("-", "_"): value for key, value in dict(settings).items()}
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise UsageError(
            f"--config {path}: unknown setting {', '.join(unknown)}; "
            f"expected some of {', '.join(sorted(known))}"
        )
    # A single name for a list of names: Typer would split the text into letters.
    return {
        name: [value] if isinstance(value, str) and _lists_names(known[name]) else value
        for name, value in found.items()
    }


def parse_size(value: object) -> int:
    """Bytes from `256MB`, `1.5GiB` or a plain number."""
    match = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", str(value))
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or match[1].count(".") > 1 or match[1] == ".":
        raise UsageError(f"{value!r} is not a size; expected one like 256MB, 5GB or 64MiB")
    return int(float(match[1]) * unit)


def parse_numbers(value: object) -> tuple[float, ...]:
    """Numbers from `0.5,0.3,0.2`, or from the list that a configuration file holds."""
    items = value if isinstance(value, list | tuple) else str(value).split(",")
    try:
        return tuple(float(item) for item in items)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{value!r} is not a list of numbers; expected one like 0.5,0.3,0.2"
        ) from error


def _build(config_type: type[C], given: Mapping[str, Any]) -> C:
    # Typer passes lists; a configuration has tuples, which are immutable.
    values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return config_type(**values)


def _overruled(context: typer.Context, config_type: type[Config]) -> list[str]:
    """Settings of a file that are ignored, because a flag says the same thing in another way."""

    def typed(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    return [
        field.setting.instead_of
        for field in declared(config_type)
        if field.setting.instead_of and typed(field.name) and not typed(field.setting.instead_of)
    ]


def _parameters(config_type: type[Config]) -> list[inspect.Parameter]:
    defaults = {f.name: f.default for f in fields(config_type)}
    ordered = sorted(
        declared(config_type),
        key=lambda f: (
            not f.setting.positional,
            defaults[f.name] is not MISSING,
            f.setting.panel == "Run",
        ),
    )
    return [_parameter(field, defaults[field.name]) for field in ordered]


def _parameter(field: Field, default: Any) -> inspect.Parameter:
    setting = field.setting
    required = default is MISSING
    common: dict[str, Any] = {
        "help": _help(field),
        "metavar": setting.metavar,
        "rich_help_panel": setting.panel,
    }
    kind = field.type
    if setting.size:
        kind, common["parser"], common["metavar"] = int, parse_size, "SIZE"
        common["show_default"] = False if default is None else amount(default, "B")
    elif tuple in {getattr(part, "__origin__", None) for part in (kind, *get_args(kind))}:
        if float in _leaves(kind):
            kind, common["parser"] = Any, parse_numbers
        elif Ellipsis in _leaves(kind):
            kind = list[str]
        # A tuple of a fixed length is an option of as many values, which Typer knows.
    if setting.positional:
        common.pop("rich_help_panel")
        info = typer.Argument(**common)
    else:
        info = typer.Option(*(setting.flags or (field.option,)), **common)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[kind, info],
    )


def _common_parameters(config_type: type[Config]) -> list[inspect.Parameter]:
    def load(context: typer.Context, value: Path | None) -> Path | None:
        if value is not None:
            context.default_map = read_config_file(value, config_type)
        return value

    def option(name: str, kind: Any, default: Any, *flags: str, **info: Any) -> inspect.Parameter:
        annotation = Annotated[kind, typer.Option(*flags, rich_help_panel="Run", **info)]
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )

    return [
        option(
            "config",
            Path | None,
            None,
            "--config",
            metavar="FILE",
            is_eager=True,
            callback=load,
            help="Settings in JSON or YAML, or the record beside a result; a flag overrides it.",
        ),
        option(
            "json", bool, False, "--json", help="Print the result as one JSON object on stdout."
        ),
        option("quiet", bool, False, "-q", "--quiet", help="Say nothing but errors."),
    ]


def _help(field: Field) -> str:
    text, bounds = field.setting.help, field.setting.bounds()
    return f"{text} ({bounds})" if bounds else text


def _lists_names(field: Field) -> bool:
    return getattr(field.type, "__origin__", None) is tuple and str in _leaves(field.type)


def _leaves(kind: Any) -> set[Any]:
    parts = get_args(kind)
    return {kind} if not parts else set().union(*(_leaves(part) for part in parts))


def as_json(value: object) -> JSON:
    """A setting's value as JSON has it: lists for tuples, text for paths."""
    if isinstance(value, tuple):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
