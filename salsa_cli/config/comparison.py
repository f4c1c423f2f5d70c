"""The settings of an earlier run compared with those of this one.

A record (`salsa.json`, `soup.json`, a checkpoint) may be of an older version: a setting that it
does not have was at its default then, and one that does not exist any more is ignored.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from salsa_cli.config.base import Config, Field, declared
from salsa_cli.config.record import as_json, record
from salsa_cli.config.values import convert
from salsa_cli.errors import UsageError
from salsa_cli.records import JSON, to_json

C = TypeVar("C", bound=Config)


def result_settings(config: Config) -> dict[str, JSON]:
    """The recorded settings that the result depends on."""
    values = record(config)
    return {field.key: values[field.key] for field in _compared(config)}


def shown(value: JSON) -> str:
    """A recorded value for people; one that is null was not set."""
    return "not set" if value is None else str(value)


def with_choices(config: C, before: Mapping[str, JSON]) -> C:
    """`config` with the values that a recorded run chose for settings which are left open now."""
    chosen: dict[str, Any] = {
        field.name: before[field.key]
        for field in declared(type(config))
        if field.setting.chosen and getattr(config, field.name) is None and field.key in before
    }
    return replace(config, **chosen)


def differences(before: Mapping[str, JSON], config: Config) -> list[str]:
    """What differs from a recorded run among the settings that change the result.

    A setting that the run chose automatically differs only if another value is asked for now.

    Returns:
        One text per setting, `NAME was X, is Y`; empty if the same run may be continued.
    """
    return list(_differences(before, config))


def _differences(before: Mapping[str, JSON], config: Config) -> Iterator[str]:
    now = json.loads(to_json(result_settings(config)))
    for field in _compared(config):
        old, new = _recorded(field, before), _recorded(field, now)
        if old != new and not (field.setting.chosen and new is None):
            yield f"{field.key} was {shown(old)}, is {shown(new)}"


def _compared(config: Config) -> Iterator[Field]:
    return (one for one in declared(type(config)) if one.setting.changes_result)


def _recorded(field: Field, before: Mapping[str, JSON]) -> JSON:
    """The value of a record, written as this version would write it."""
    found = [before[key] for key in (field.key, field.name) if key in before]
    if not found:
        return None if field.required else as_json(field.default)
    try:
        return as_json(convert(field, found[0], field.key))
    except UsageError:  # a value that this version does not allow
        return found[0]
