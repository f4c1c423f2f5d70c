"""Inputs of an earlier run that are somewhere else now: the same if their digests are."""

from collections.abc import Callable, Mapping
from pathlib import Path

from salsa_cli import data
from salsa_cli.config import run_names
from salsa_cli.config.base import Config, declared
from salsa_cli.config.record import record
from salsa_cli.errors import SalsaError
from salsa_cli.records import JSON
from salsa_cli.weights import folders


def content(described: JSON) -> JSON:
    """What a description of inputs says of their content: without paths where there are digests.

    The files of a data source are compared in the order in which they are read, and by the format
    that their names tell, too.
    """
    if isinstance(described, list):
        return [content(one) for one in described]
    if not isinstance(described, dict):
        return described
    files = described.get("sha256")
    if "source" in described and isinstance(files, dict) and files:
        return [[data.file_format(name), digest] for name, digest in files.items()]
    has_digest = "weights_xxh3" in described or "members" in described
    return {
        key: content(value)
        for key, value in described.items()
        if not (has_digest and key == "path")
    }


def with_moved_inputs(
    settings: Mapping[str, JSON], inputs: Mapping[str, JSON], config: Config
) -> dict[str, JSON]:
    """Earlier settings, with the names of now for data and models of the same content.

    Args:
        settings: the recorded settings of the run.
        inputs: the recorded descriptions of its inputs.
        config: the settings of now.

    References, rewards, judges and models to compare keep their names: metrics, answers and
    judgements are stored under them.
    """
    now = record(config)
    moved = {
        field.key: now[field.key]
        for field in declared(type(config))
        if (describe := _DESCRIBE.get(field.setting.names)) is not None
        and field.key in inputs
        and settings.get(field.key) not in (None, now[field.key])
        and content(_described(describe, now[field.key])) == content(inputs[field.key])
    }
    return {**settings, **moved}


def _described(describe: Callable[[JSON], JSON], value: JSON) -> JSON:
    try:
        return describe(value)
    except SalsaError:  # named where it is read
        return None


def _data(name: JSON) -> JSON:
    return folders.describe_files(str(name), data.local_files(str(name)))


def _model(name: JSON) -> JSON:
    return folders.describe(Path(str(name))) if Path(str(name)).is_dir() else None


def _answers(given: JSON) -> JSON:
    pairs = [run_names.split(str(one)) for one in given] if isinstance(given, list) else []
    return {str(name): _data(file) for name, file in pairs}


_DESCRIBE: Mapping[str, Callable[[JSON], JSON]] = {
    "data": _data,
    "prompts": _data,
    "model": _model,
    "answers": _answers,
}
"""How inputs are described, by what their setting names."""
