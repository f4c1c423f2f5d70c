"""Settings in files: `salsa.toml`, and what `--config` names (JSON, YAML or TOML)."""

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salsa_cli.config.base import Field
from salsa_cli.config.suggestions import did_you_mean
from salsa_cli.errors import UsageError

NAME = "salsa.toml"
ALL = "all"


@dataclass(frozen=True)
class FileValue:
    """A value in a file, and where it is: `salsa.toml [ppo]`."""

    raw: object
    origin: str


def read(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a JSON, YAML or TOML file; TOML if its name ends in .toml.

    Args:
        what: how errors call the file: `--config run.yaml`.

    Raises:
        UsageError: the file cannot be read or parsed, or is not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{what}: this is not UTF-8 text (byte {error.start})") from error
    content = _toml(text, what) if path.suffix == ".toml" else _json_or_yaml(text, what)
    if not isinstance(content, dict):
        raise UsageError(f"{what}: expected a mapping of settings to values")
    return content


Commands = Mapping[str, Sequence[Field]]
"""The fields of every command by its name."""


def has_tables(content: Mapping[str, Any], commands: Commands) -> bool:
    """Whether a file has tables for commands, as `salsa.toml` has."""
    return any(isinstance(content.get(name), dict) for name in (ALL, *commands))


def plain(
    content: Mapping[str, Any], what: str, command: str, commands: Commands
) -> dict[str, FileValue]:
    """The values of a plain mapping of settings, or of the record of a result, by field.

    Raises:
        UsageError: it has a setting that does not exist; suggests what was meant.
    """
    flat = content.get("settings", content)
    if not isinstance(flat, dict):
        raise UsageError(f"{what}: 'settings' is not a mapping of settings to values")
    return _values(flat, what, commands[command])


def tables(
    content: Mapping[str, Any], what: str, command: str, commands: Commands
) -> dict[str, FileValue]:
    """The values for one command of a file with tables for commands and for all, by field.

    Raises:
        UsageError: it has a table or a setting that does not exist; suggests what was meant.
    """
    known = (ALL, *commands)
    for name, table in content.items():
        if not isinstance(table, dict):
            raise UsageError(
                f"{what}: {name} is outside of a table; expected [{'], ['.join(known)}]"
            )
        if name not in known:
            raise UsageError(
                f"{what}: unknown table [{name}]{did_you_mean(name, known)}; "
                f"expected [{'], ['.join(known)}]"
            )
    shared = dict(content.get(ALL, {}))
    everywhere = [field for fields in commands.values() for field in fields]
    _values(shared, f"{what} [{ALL}]", everywhere)  # refuses what no command has
    here = {key for field in commands[command] for key in field.keys}
    shared = {key: value for key, value in shared.items() if _plain(key) in here}
    return {
        **_values(shared, f"{what} [{ALL}]", commands[command]),
        **_values(dict(content.get(command, {})), f"{what} [{command}]", commands[command]),
    }


def _values(table: Mapping[str, Any], what: str, fields: Sequence[Field]) -> dict[str, FileValue]:
    names = {key: field for field in fields for key in field.keys}
    unknown = [key for key in table if _plain(key) not in names]
    if unknown:
        keys = sorted({field.key for field in fields})
        hints = "".join(did_you_mean(_plain(key), keys) for key in unknown[:1])
        raise UsageError(
            f"{what}: unknown setting {', '.join(map(str, unknown))}{hints}; "
            f"expected some of {', '.join(keys)}"
        )
    return {names[_plain(key)].name: FileValue(value, what) for key, value in table.items()}


def _plain(key: object) -> str:
    return str(key).replace("-", "_")


def _toml(text: str, what: str) -> object:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{what}: malformed TOML: {error}") from error


def _json_or_yaml(text: str, what: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        import yaml  # takes a while to import

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}, column {where.column + 1}:" if where else ""
        raise UsageError(f"{what}:{line} this is neither JSON nor YAML") from error
