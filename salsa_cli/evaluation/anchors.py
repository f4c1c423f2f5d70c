"""Anchors: the models that the KL of each compared model is measured to.

An anchor is one model for all, or each training run's own start or reference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from salsa_cli.config.values import split_list
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation import arms
from salsa_cli.evaluation.arms import Arm, ArmRun
from salsa_cli.models import loading, shapes
from salsa_cli.records import JSON

START, REFERENCE = "@start", "@ref"
_OWN = {START: "its own start", REFERENCE: "its own reference"}
_KEYS = {START: "policy", REFERENCE: "reference"}


@dataclass(frozen=True)
class Anchor:
    """A name, and the folder for each compared model."""

    name: str
    folders: Mapping[str, Path]


def parse(
    given: Sequence[str], compared: Sequence[Arm], models: Mapping[str, Path]
) -> tuple[Anchor, ...]:
    """The anchors by name; several may be given in one value, separated by commas.

    Args:
        given: `MODEL`, `NAME=MODEL`, `@start` or `@ref`.
        models: the folders of the models that generate answers, by name.

    Raises:
        SalsaError: an anchor is not there, or reads other tokens than a model writes.
    """
    found: dict[str, Anchor] = {}
    for part in (part for one in given for part in split_list(one)):
        if part in _OWN:
            folders = _own(part, compared)
            name = _OWN[part]
        else:
            named = arms.named(part)
            name = named[0] if named[0] not in found else part
            folder = loading.find(named[1])
            folders = dict.fromkeys(models, folder)
        found[name] = Anchor(name, folders)
    checked: set[tuple[Path, Path]] = set()
    for anchor in found.values():
        for name, folder in anchor.folders.items():
            if (models[name], folder) not in checked:
                check(models[name], folder)
                checked.add((models[name], folder))
    return tuple(found.values())


def check(model: Path, anchor: Path) -> None:
    """Refuse an anchor that reads other tokens than the model writes.

    Raises:
        SalsaError: says what differs.
    """
    reasons = loading.token_differences(model, anchor)
    ours, theirs = shapes.vocabulary_size(model), shapes.vocabulary_size(anchor)
    if ours != theirs:
        reasons = [f"{ours} logits in {model}, {theirs} in {anchor}", *reasons]
    if reasons:
        raise SalsaError(f"--anchors {anchor} has another vocabulary: {'; '.join(reasons)}")


def _own(which: str, compared: Sequence[Arm]) -> dict[str, Path]:
    return {
        point.name: _recorded(which, run)
        for arm in compared
        for run in arm.runs
        if run.source
        for point in run.points
    }


def _recorded(which: str, run: ArmRun) -> Path:
    """The folder of a run's start or reference, as its salsa.json has it."""
    stored = arms.setting(run.source, "inputs", _KEYS[which])
    if arms.setting(run.source, "command") != "ppo" or stored is None:
        raise SalsaError(
            f"--anchors {which}: {run.source} has no salsa.json from salsa ppo; name the model "
            "instead"
        )
    folders = _paths(stored)
    if len(folders) > 1:
        raise SalsaError(
            f"--anchors {which}: {run.source} has {len(folders)} references or ingredients "
            f"({', '.join(folders)}); name one of them instead"
        )
    # Paths are recorded as they were given, from where the run was started.
    places = (Path(folders[0]), Path(run.source).absolute().parent / folders[0])
    local = next((str(place) for place in places if place.exists()), folders[0])
    return loading.find(local)


def _paths(stored: JSON) -> list[str]:
    """The paths of one described model, or of several."""
    if isinstance(stored, dict):
        return [str(stored["path"])] if "path" in stored else []
    return [path for one in stored for path in _paths(one)] if isinstance(stored, list) else []
