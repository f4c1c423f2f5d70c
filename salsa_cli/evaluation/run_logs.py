"""What runs of `salsa ppo` logged: metrics.jsonl, samples.jsonl and salsa.json, only read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from salsa_cli.config.base import Field, declared
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.config.record import as_json
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation.arms import RECORD, Arm, ArmRun
from salsa_cli.evaluation.questions.answer_files import finished_rows
from salsa_cli.records import JSON, read_json

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"

PLAIN = ("reward", "kl", "objective", "length", "finished", "entropy")
NAMED = ("watched", "kl_anchors")
HELD_OUT = ("reward", "length", "finished")
HELD_OUT_NAMED = ("watch", "kl")

_DIGESTS = ("weights_xxh3", "sha256")


@dataclass(frozen=True, order=True)
class Figure:
    """A figure that runs log: which, of what (a watched reward, an anchor), and on what prompts."""

    key: str
    of: str = ""
    held_out: bool = False

    def __str__(self) -> str:
        path = ("heldout", self.key, self.of) if self.held_out else (self.key, self.of)
        return "/".join(part for part in path if part)


@dataclass(frozen=True)
class Series:
    """A figure by update: its values, and their standard errors where they are known."""

    updates: tuple[int, ...]
    values: tuple[float, ...]
    errors: tuple[float, ...] | None = None


@dataclass(frozen=True)
class RunLog:
    """A run and what it logged.

    Attributes:
        settings: from its salsa.json, and the digests of what it read; empty without one.
        series: every figure that it logged.
        samples: rows of samples.jsonl.
    """

    name: str
    source: str
    seed: int | None
    settings: Mapping[str, JSON]
    series: Mapping[Figure, Series]
    samples: Sequence[Mapping[str, Any]]

    @property
    def updates(self) -> int:
        """Number of updates that it logged."""
        return max((max(one.updates) for one in self.series.values()), default=0)


def read(arm: Arm) -> list[RunLog]:
    """The logs of the runs of an arm.

    Raises:
        SalsaError: a folder has no log, or a row of it cannot be read.
        UsageError: a snapshot is given in place of a run.
    """
    for run in arm.runs:
        if any(point.label for point in run.points):
            raise UsageError(
                f"{run.points[0].source}: a snapshot has no curves; pass the run, or --prompts and "
                "--judge to compare policies"
            )
    return [_read(run) for run in arm.runs]


def _read(run: ArmRun) -> RunLog:
    folder = Path(run.source)
    if not (folder / METRICS).is_file():
        raise SalsaError(
            f"{run.source} has no {METRICS}: it is not a run of salsa ppo, so it has no curves to "
            "compare. To compare models, add --prompts and --judge:\n"
            "  salsa eval MODEL... --prompts DATA --judge JUDGE -o FOLDER"
        )
    rows = finished_rows(folder / METRICS)
    if not rows:
        raise SalsaError(f"{folder / METRICS}: no update is finished yet")
    found: dict[Figure, dict[int, tuple[float, float | None]]] = {}
    for number, row in enumerate(rows, 1):
        try:
            for figure, update, value, error in _values(row):
                found.setdefault(figure, {})[update] = (value, error)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SalsaError(
                f"{folder / METRICS}, row {number}: not a row of salsa ppo ({error!r})"
            ) from error
    samples = folder / SAMPLES
    return RunLog(
        run.name,
        run.source,
        run.seed,
        _settings(folder / RECORD),
        {figure: _series(values) for figure, values in sorted(found.items())},
        finished_rows(samples) if samples.is_file() else [],
    )


def _values(row: Mapping[str, Any]) -> list[tuple[Figure, int, float, float | None]]:
    """The figures of a row, each with its update and its standard error."""
    update = int(row["update"])
    found: list[tuple[Figure, int, float, float | None]] = [
        (Figure(key), update, _number(row[key]), None) for key in PLAIN if key in row
    ]
    for key in NAMED:
        found += [
            (Figure(key, name), update, _number(value), None)
            for name, value in (row.get(key) or {}).items()
            if (key, name) != ("kl_anchors", "reference")  # it is `kl`, in every update
        ]
    for key, at in (("heldout_start", 0), ("heldout", update)):
        if row.get(key) is not None:
            found += [(figure, at, *ends) for figure, ends in _held_out(row[key])]
    return found


def _held_out(stored: Mapping[str, Any]) -> list[tuple[Figure, tuple[float, float]]]:
    found = [(Figure(key, "", True), _estimate(stored[key])) for key in HELD_OUT if key in stored]
    for key in HELD_OUT_NAMED:
        found += [
            (Figure(key, name, True), _estimate(value))
            for name, value in (stored.get(key) or {}).items()
        ]
    return found


def _estimate(stored: Mapping[str, Any]) -> tuple[float, float]:
    return _number(stored["mean"]), _number(stored["standard_error"])


def _number(value: float | None) -> float:
    """JSON has null where a figure was not finite."""
    return nan if value is None else float(value)


def _series(values: Mapping[int, tuple[float, float | None]]) -> Series:
    updates = tuple(sorted(values))
    errors = [values[update][1] for update in updates]
    known = tuple(error for error in errors if error is not None)
    return Series(
        updates,
        tuple(values[update][0] for update in updates),
        known if len(known) == len(updates) else None,
    )


def _settings(record: Path) -> dict[str, JSON]:
    """The settings of a run, and a digest of each of its inputs as `contents of NAME`."""
    if not record.is_file():
        return {}
    made = read_json(record)
    given = made.get("settings", {})
    found = {field.key: _setting(field, given) for field in declared(PPOConfig)}
    for name, source in made.get("inputs", {}).items():
        if digest := _digests(source):
            found[f"contents of {name}"] = digest
    return found


def _setting(field: Field, given: Mapping[str, JSON]) -> JSON:
    """A recorded setting; one that an older version did not have was at its default."""
    for name in (field.key, field.name):
        if name in given:
            return given[name]
    return None if field.required else as_json(field.default)


def _digests(given: JSON) -> str:
    """The digests in the description of an input, the first letters of each."""
    if isinstance(given, list):
        return ", ".join(text for one in given if (text := _digests(one)))
    if not isinstance(given, dict):
        return ""
    texts = []
    for key, value in given.items():
        if key in _DIGESTS:
            several = value.values() if isinstance(value, dict) else [value]
            texts += [str(one)[:8] for one in several]
        else:
            texts += [text] if (text := _digests(value)) else []
    return ", ".join(texts)
