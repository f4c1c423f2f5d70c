"""Curves of arms: means over the runs of an arm by update, settings that differ, end figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from statistics import fmean
from typing import Any

from salsa_cli.formatting import counted, duration, figure
from salsa_cli.runs.events import Table

LAST = 5
"""Updates whose mean stands for the end of a run."""

COLUMNS = ("arm", "runs", "updates", "reward", "lowest to highest run", "KL, nats", "length")


@dataclass(frozen=True)
class Curve:
    """A figure of one arm by update.

    `mean` is over the runs of the arm, at the updates that all of them have. `low` and `high` are
    the lowest and the highest run; for a single run that logs a standard error (held-out figures),
    the ends of the 95% interval; else None.
    """

    figure: str
    arm: str
    update: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ArmEnd:
    """An arm, and its means over the last updates of each run: `low` and `high` are of its runs."""

    arm: str
    runs: tuple[str, ...]
    seeds: tuple[int | None, ...]
    updates: tuple[int, ...]
    reward: float
    low: float
    high: float
    kl: float
    length: float


@dataclass(frozen=True)
class Difference:
    """A setting that differs between arms, or between the runs of one: as text, by arm."""

    setting: str
    values: Mapping[str, str]


@dataclass(frozen=True)
class CurveResult:
    """What runs logged, compared."""

    output: str
    arms: tuple[ArmEnd, ...]
    differences: tuple[Difference, ...]
    curves: tuple[Curve, ...]
    remarks: tuple[str, ...]
    seconds: float

    def record(self) -> Mapping[str, object]:
        """The object that `--json` prints and results.json stores."""
        return asdict(self)

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "CurveResult":
        """The result stored in a results.json, where null stands for NaN."""
        return cls(
            record["output"],
            tuple(ArmEnd(**_known(one)) for one in record["arms"]),
            tuple(Difference(**one) for one in record["differences"]),
            tuple(Curve(**_known(one)) for one in record["curves"]),
            tuple(record["remarks"]),
            record["seconds"],
        )

    def tables(self) -> list[tuple[str, Table]]:
        """The ends of the arms, and the settings that differ."""
        found = [("Last updates", self.ends())]
        return [*found, ("Settings that differ", self.settings())] if self.differences else found

    def summary(self) -> tuple[str, Table | None]:
        """The ends of the arms, what differs, and what training rewards do not show."""
        names = ", ".join(one.setting for one in self.differences)
        lines = [f"settings that differ: {names}"] if names else []
        lines += self.remarks
        runs = counted(sum(len(arm.runs) for arm in self.arms), "run")
        lines.append(f"{self.output}: curves of {runs} in {duration(self.seconds)}")
        return "\n".join(lines), self.ends()

    def ends(self) -> Table:
        """The mean over the last updates of every arm."""
        rows = [
            (
                arm.arm,
                str(len(arm.runs)),
                _span(arm.updates),
                figure(arm.reward),
                f"{figure(arm.low)} to {figure(arm.high)}" if len(arm.runs) > 1 else "",
                figure(arm.kl),
                figure(arm.length),
            )
            for arm in self.arms
        ]
        return Table(COLUMNS, rows)

    def settings(self) -> Table:
        """The settings that differ, a column an arm."""
        arms = [arm.arm for arm in self.arms]
        rows = [(one.setting, *(one.values[arm] for arm in arms)) for one in self.differences]
        return Table(("setting", *arms), rows, names=1 + len(arms))


def curve(
    name: str,
    arm: str,
    runs: Sequence[Mapping[int, float]],
    errors: Mapping[int, float] | None = None,
) -> Curve:
    """The curve of an arm from the values of its runs by update.

    Args:
        errors: standard errors by update, where there is one run.
    """
    common = sorted(set.intersection(*(set(run) for run in runs)))
    values = [[run[update] for run in runs] for update in common]
    mean = tuple(fmean(some) for some in values)
    low = high = None
    if len(runs) > 1:
        low, high = (tuple(_extreme(some, end) for some in values) for end in (min, max))
    elif errors is not None:
        reach = [1.96 * errors[update] for update in common]
        low = tuple(m - r for m, r in zip(mean, reach, strict=True))
        high = tuple(m + r for m, r in zip(mean, reach, strict=True))
    return Curve(name, arm, tuple(common), mean, low, high)


def last(values: Mapping[int, float]) -> float:
    """The mean of the last updates that have a value; NaN without one."""
    known = [values[update] for update in sorted(values) if not isnan(values[update])][-LAST:]
    return fmean(known) if known else nan


def differences(settings: Mapping[str, Sequence[Mapping[str, object]]]) -> tuple[Difference, ...]:
    """The settings that are not the same in all runs of all arms, in their order.

    Args:
        settings: of each run, by arm. What a run's record lacks is shown as "not recorded".
    """
    runs = [one for some in settings.values() for one in some]
    names = dict.fromkeys(name for one in runs for name in one)
    found = []
    for name in names:
        texts = {arm: [_text(one, name) for one in some] for arm, some in settings.items()}
        if len({text for some in texts.values() for text in some}) > 1:
            values = {arm: "; ".join(dict.fromkeys(some)) for arm, some in texts.items()}
            found.append(Difference(name, values))
    return tuple(found)


def _text(settings: Mapping[str, object], name: str) -> str:
    if name not in settings:
        return "not recorded"
    value = settings[name]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _extreme(values: Sequence[float], end: Any) -> float:
    known = [value for value in values if not isnan(value)]
    return float(end(known)) if len(known) == len(values) else nan


def _span(updates: Sequence[int]) -> str:
    low, high = min(updates), max(updates)
    return str(low) if low == high else f"{low} to {high}"


def _known(record: Mapping[str, Any]) -> dict[str, Any]:
    """Lists as tuples, null within them and among numbers as NaN."""
    numbers = ("reward", "low", "high", "kl", "length")
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, list):
            keep = name == "seeds"
            found[name] = tuple(nan if one is None and not keep else one for one in value)
        elif value is None and name in numbers and "reward" in record:
            found[name] = nan
        else:
            found[name] = value
    return found
