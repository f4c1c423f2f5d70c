"""The settings of a run as JSON, for the record next to its result."""

from salsa_cli.config.base import Config, declared
from salsa_cli.records import JSON


def record(config: Config) -> dict[str, JSON]:
    """The recorded settings by their key; `--config` accepts them."""
    return {
        field.key: as_json(getattr(config, field.name))
        for field in declared(type(config))
        if field.setting.recorded
    }


def origins(config: Config) -> dict[str, JSON]:
    """Where each recorded setting comes from: a flag, a variable, a file, or the default."""
    return {
        field.key: config.origins.get(field.name, DEFAULT)
        for field in declared(type(config))
        if field.setting.recorded
    }


DEFAULT = "default"


def as_json(value: object) -> JSON:
    """A setting's value as JSON has it: lists for tuples, text for paths."""
    if isinstance(value, tuple):
        return [as_json(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
