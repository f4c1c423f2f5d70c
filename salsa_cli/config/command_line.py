"""The command line that gives a configuration: for reports, model cards and records."""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from salsa_cli.config.base import Config, Field, declared


def command_line(command: str, config: Config, shown: Callable[[str], str] = str) -> str:
    """The command with every recorded setting that differs from its default, quoted for a shell.

    Values from the environment and from salsa.toml are written out, so the line works alone.
    `shown` turns each argument into what is written in its place.
    """
    fields = [
        one
        for one in declared(type(config))
        if one.setting.recorded and (one.required or getattr(config, one.name) != one.default)
    ]
    return shlex.join(["salsa", command, *map(shown, _arguments(fields, config))])


def resume_line(command: str, config: Config, changes: Mapping[str, object]) -> str:
    """The command that resumes a run, with changed settings by the name of their field.

    Unlike `command_line`, it has the settings that are not recorded, like `--processes`, those that
    were given although they are the defaults, and `--force` if the run will replace a result.
    """
    dropped = {"resume", "dry_run"} if config.output.exists() else {"resume", "dry_run", "force"}
    changed = replace(config, **dict[str, Any](changes)) if changes else config
    fields = [
        one
        for one in declared(type(config))
        if one.name not in dropped
        and (one.required or one.name in config.origins or getattr(config, one.name) != one.default)
    ]
    return shlex.join(["salsa", command, *_arguments(fields, changed), "--resume"])


def _arguments(fields: Iterable[Field], config: Config) -> Iterator[str]:
    """The arguments for these settings: positional ones first, then recorded ones, then others."""
    order = sorted(
        fields,
        key=lambda one: (
            not one.setting.positional,
            not one.setting.recorded,
            one.name == "output",
        ),
    )
    for one in order:
        yield from _parts(one, getattr(config, one.name))


def _parts(field: Field, value: object) -> Iterator[str]:
    """The arguments of one setting; its short flag where it has one."""
    if value is None:
        return
    if field.is_flag:
        yield field.option if value else f"--no-{field.option[2:]}"
    elif field.setting.positional:
        yield from map(_text, value if isinstance(value, tuple) else (value,))
    elif field.length is not None and isinstance(value, tuple):
        yield from (field.flags[0], *map(_text, value))
    elif isinstance(value, tuple) and field.item is not str:
        yield from (field.flags[0], ",".join(map(_text, value)))
    else:
        for one in value if isinstance(value, tuple) else (value,):
            yield from (field.flags[0], _text(one))


def _text(value: object) -> str:
    return repr(value) if isinstance(value, float) else str(value)
