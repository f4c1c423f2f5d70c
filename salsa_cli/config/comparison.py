"""The settings of an earlier run compared with those of this one.

A record (`salsa.json`, `soup.json`, a checkpoint) may be of an older version: a setting that it
does not have was at its default then, and one that does not exist any more is ignored.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, replace
from typing import Any, TypeVar

from salsa_cli.config.base import Config, declared
from salsa_cli.config.options import as_json, record
from salsa_cli.records import JSON, to_json

C = TypeVar("C", bound=Config)


def result_settings(config: Config) -> dict[str, JSON]:
    """The recorded settings that the result depends on."""
    values = record(config)
    return {
        field.name: values[field.name]
        for field in declared(type(config))
        if field.setting.changes_result
    }


def with_choices(config: C, before: Mapping[str, JSON]) -> C:
    """`config` with the values that a recorded run chose for settings which are left open now."""
    chosen: dict[str, Any] = {
        field.name: before[field.name]
        for field in declared(type(config))
        if field.setting.chosen and getattr(config, field.name) is None and field.name in before
    }
    return replace(config, **chosen)


def differences(before: Mapping[str, JSON], config: Config) -> list[str]:
    """What differs from a recorded run among the settings that change the result.

    A setting that the run chose by itself differs only if another value is asked for now.

    Returns:
        One text per setting, `NAME was X, is Y`; empty if the same run may be continued.
    """
    return list(_differences(before, config))


def _differences(before: Mapping[str, JSON], config: Config) -> Iterator[str]:
    now = json.loads(to_json(result_settings(config)))
    for field in declared(type(config)):
        if field.name not in now:
            continue
        default = None if field.default is MISSING else as_json(field.default)
        old, new = before.get(field.name, default), now[field.name]
        if old != new and not (field.setting.chosen and new is None):
            yield f"{field.name} was {old}, is {new}"
