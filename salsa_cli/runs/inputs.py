"""Names of models and data that cannot exist, found before anything slow is imported.

A name that may be a hub id is left to the command, which asks the hub. Whatever is found here, the
command would find, too, seconds later.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from salsa_cli import data
from salsa_cli.config import run_names
from salsa_cli.config.base import Config, Field, declared
from salsa_cli.config.eval import BENCHMARKS
from salsa_cli.config.values import split_list
from salsa_cli.errors import SalsaError
from salsa_cli.weights import folders

_NAMED = re.compile(r"[^=(]+=(.+)")


def check(config: Config) -> None:
    """Refuse models and data that are neither here nor named like those of the hub.

    The hub is asked only about a name that begins with a folder that is here.

    Raises:
        SalsaError: names all of them.
    """
    missing = [
        reason
        for field in declared(type(config))
        if field.setting.names
        for name in _values(config, field)
        for reason in _CHECKS[field.setting.names](name)
    ]
    missing = list(dict.fromkeys(missing))
    if getattr(config, "processes", 1) > 1 and _reads_stdin(config):
        missing.append("- (stdin) can only be read by one process; use a file with --processes")
    if len(missing) == 1:
        raise SalsaError(missing[0])
    if missing:
        raise SalsaError("\n  - ".join([f"{len(missing)} inputs were not found:", *missing]))


def _reads_stdin(config: Config) -> bool:
    return any(
        data.STDIN in _values(config, field)
        for field in declared(type(config))
        if field.setting.names in ("data", "prompts")
    )


def _values(config: Config, field: Field) -> tuple[str, ...]:
    value = getattr(config, field.name)
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (str(value),)


def _model(name: str) -> Iterator[str]:
    if not Path(name).exists():
        yield from _folder(name)
    elif _is_no_model(Path(name)):
        yield from _refused(folders.resolve_any, name)


def _is_no_model(path: Path) -> bool:
    """Whether it is a folder with none of a model's files, like one of several models."""
    return path.is_dir() and not any(path.glob("*.json")) and not folders.members(path)


def _folder(name: str) -> Iterator[str]:
    """Reasons against a name that need not be a single model."""
    if Path(name).exists():
        return
    match = _NAMED.fullmatch(name)
    name = match[1] if match else name
    yield from _refused(_find, name)


def _find(name: str) -> None:
    """Ask the hub at once if `name` is more likely a mistyped path: `runs/sfta` with a `runs/`."""
    if folders.local_folder(name) is None and Path(name).parent.is_dir():
        folders.resolve_any(name)


def _refused(look: Callable[[str], object], name: str) -> Iterator[str]:
    try:
        look(name)
    except SalsaError as error:
        yield str(error)


def _arm(name: str) -> Iterator[str]:
    for run in run_names.parse(name).runs:
        yield from _folder(run.source)


def _reference(name: str) -> Iterator[str]:
    if not (name.startswith("soup(") and name.endswith(")")):
        yield from _model(name)
        return
    for part in split_list(name[len("soup(") : -1]):
        if "=" in part:  # the weights, and what follows them
            return
        yield from _model(part)


def _reward(name: str) -> Iterator[str]:
    if ":" not in name or Path(name).exists():
        yield from _folder(name)
        return
    place = name.rpartition(":")[0]
    if place.endswith(".py") and not Path(place).is_file():
        yield f"{name}: no such file: {place}"


def _judge(name: str) -> Iterator[str]:
    kind, _, source = name.partition(":")
    if kind in ("rm", "hf") and source:
        yield from _folder(source)
    if kind == "python":
        yield from _reward(source)


def _data(name: str) -> Iterator[str]:
    if not data.may_exist(name):
        yield f"{name}: no such file or folder"


def _prompts(name: str) -> Iterator[str]:
    if name not in BENCHMARKS:
        yield from _data(name)


def _answers(name: str) -> Iterator[str]:
    yield from _data(name.partition("=")[2] or name)


_CHECKS: Mapping[str, Callable[[str], Iterator[str]]] = {
    "model": _model,
    "arm": _arm,
    "reference": _reference,
    "reward": _reward,
    "judge": _judge,
    "data": _data,
    "prompts": _prompts,
    "answers": _answers,
}
