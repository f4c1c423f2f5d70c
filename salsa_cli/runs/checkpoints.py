"""Checkpoints of a training run: written atomically, found, checked against the settings."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salsa_cli.config.base import Config, declared
from salsa_cli.config.comparison import differences, shown
from salsa_cli.errors import SalsaError, os_errors
from salsa_cli.records import JSON, to_json
from salsa_cli.runs.moved_inputs import content, with_moved_inputs
from salsa_cli.weights.folders import SETTINGS_DIGEST


@dataclass(frozen=True)
class Saved:
    """A checkpoint on disk: the number of finished steps, and its file."""

    step: int
    file: Path


def checkpoint_path(folder: Path, step: int) -> Path:
    """The file for the state after `step` steps."""
    return folder / "checkpoints" / f"{step:06d}.pt"


def latest_checkpoint(folder: Path) -> Saved | None:
    """The newest complete checkpoint of a run folder."""
    found = sorted((folder / "checkpoints").glob("[0-9]*.pt"))
    return Saved(int(found[-1].stem), found[-1]) if found else None


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any], keep: int = 2) -> None:
    """Save `state` (tensors and plain values) atomically; keep the newest `keep` checkpoints.

    Raises:
        SalsaError: it cannot be written; earlier checkpoints are kept.
    """
    import torch

    path = checkpoint_path(folder, step)
    unfinished = path.with_suffix(".draft")
    with os_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                torch.save(dict(state), file)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException as error:
            unfinished.unlink(missing_ok=True)
            # PyTorch's writer raises an error of its own in place of the file system's.
            if isinstance(error, RuntimeError) and isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
    for old in sorted(path.parent.glob("[0-9]*.pt"))[:-keep]:
        old.unlink()


def load_checkpoint(saved: Saved) -> dict[str, Any]:
    """The state of a checkpoint, on the CPU; loads tensors and plain values only."""
    return _read_checkpoint(saved, mmap=False)


def peek_checkpoint(saved: Saved) -> dict[str, Any]:
    """The same with memory-mapped tensors, for a look at the plain values."""
    return _read_checkpoint(saved, mmap=True)


def _read_checkpoint(saved: Saved, *, mmap: bool) -> dict[str, Any]:
    import torch

    try:
        state = torch.load(saved.file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        raise SalsaError(
            f"{saved.file} cannot be read as a checkpoint ({str(error).split('. ')[0]}); delete it "
            "to fall back to the previous checkpoint"
        ) from error
    return dict(state)


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run that will not be continued."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def check_same_settings(
    saved: Path, settings: Mapping[str, JSON], inputs: Mapping[str, JSON], config: Config
) -> None:
    """Refuse to continue a run with other settings than those it began with.

    Settings that do not change the result may differ, and so may the place of data and models of
    the same content.

    Args:
        saved: the file that holds the run's `settings` and `inputs`.

    Raises:
        SalsaError: names every setting that differs, with both values.
    """
    if differing := differences(with_moved_inputs(settings, inputs, config), config):
        raise SalsaError(
            f"{saved} was written by a run with other settings: {'; '.join(differing)}. "
            "Resume with the same ones, or start again with --force"
            f"{_about_names(differing, config)}"
        )


def _about_names(differing: Sequence[str], config: Config) -> str:
    """Why a model that has only moved is another one, and what to do."""
    named = {
        field.key
        for field in declared(type(config))
        if field.setting.names in ("reference", "reward", "arm", "judge")
    }
    if not any(text.partition(" was ")[0] in named for text in differing):
        return ""
    return (
        ". What the run has stored is named after these models; if one has only moved, make a link "
        "at its old place (ln -s NEW OLD) and resume with the old name"
    )


def _as_recorded(before: JSON, now: JSON) -> JSON:
    """`now` without the digests of settings that an older record does not have."""
    if isinstance(before, dict) and isinstance(now, dict):
        return {
            key: _as_recorded(before.get(key), value)
            for key, value in now.items()
            if key in before or key != SETTINGS_DIGEST
        }
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [_as_recorded(one, other) for one, other in zip(before, now, strict=True)]
    return now


def check_same_inputs(saved: Path, before: Mapping[str, JSON], inputs: Mapping[str, JSON]) -> None:
    """Refuse to continue a run whose models or data have changed since it began.

    They may be somewhere else.

    Args:
        saved: the file that holds what the inputs were `before`.

    Raises:
        SalsaError: names every input that differs, with both descriptions.
    """
    now = {
        name: _as_recorded(before.get(name), value)
        for name, value in json.loads(to_json(inputs)).items()
    }
    differing = [
        f"{name} was {shown(before.get(name))}, is {shown(now.get(name))}"
        for name in sorted({*before, *now})
        if content(before.get(name)) != content(now.get(name))
    ]
    if differing:
        raise SalsaError(
            f"{saved} was written by a run with other inputs: {'; '.join(differing)}. "
            "Resume with the same ones, or start again with --force"
        )
