"""Score against KL: a curve for each arm, and who is ahead at equal KL and at equal score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np
from numpy.typing import NDArray

from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation import arms
from salsa_cli.evaluation.arms import Arm, ArmRun
from salsa_cli.evaluation.results import arm_results
from salsa_cli.evaluation.results.arm_results import ArmPairRow, Values, signed
from salsa_cli.evaluation.results.win_rates import Resampling
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.formatting import figure
from salsa_cli.maths import frontier

Array = NDArray[np.float64]

NATS = (2.0, 5.0, 10.0)
"""KLs at which arms are compared, as far as all runs get there."""

_GRID = 64  # more points than a chart marks one by one: only the snapshots are measured


@dataclass(frozen=True)
class FrontierPoint:
    """One policy of a run: its mean KL to an anchor, in nats per answer, and its mean score."""

    arm: str
    run: str
    model: str
    anchor: str
    judge: str
    kl: float
    score: float


@dataclass(frozen=True)
class FrontierCurve:
    """The mean score of an arm's runs at each KL that all of them pass, linear between points.

    `low` and `high` are those of the lowest and the highest run.
    """

    arm: str
    anchor: str
    judge: str
    kl: tuple[float, ...]
    score: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class FrontierRow:
    """Two arms at an equal KL to an anchor, or at an equal score.

    `pair` is the difference in score at a KL of `level` nats (`at` is "KL"), or in KL at a score
    of `level` (`at` is "score"); its p-values are corrected for all rows of the judge.
    """

    anchor: str
    at: str
    level: float
    pair: ArmPairRow


@dataclass(frozen=True)
class Frontier:
    """Empty where no run has several policies, or no KL was measured."""

    points: tuple[FrontierPoint, ...] = ()
    curves: tuple[FrontierCurve, ...] = ()
    rows: tuple[FrontierRow, ...] = ()
    sentences: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Track:
    """A run's points: KL and score [points, prompts], of the prompts that all models have."""

    kl: Array
    score: Array

    @property
    def reach(self) -> tuple[float, float]:
        """Its smallest and its largest KL."""
        means = self.kl.mean(axis=1)
        return float(means.min()), float(means.max())

    @property
    def rise(self) -> tuple[float, float]:
        """Its score at its smallest KL, and its highest."""
        first = int(self.kl.mean(axis=1).argmin())
        means = self.score.mean(axis=1)
        return float(means[first]), float(means.max())


def of(
    compared: Sequence[Arm],
    scores: Mapping[str, Values],
    kls: Mapping[str, Values],
    config: EvalConfig,
) -> Frontier:
    """The frontier of the arms whose runs have several points, by every judge and anchor.

    Args:
        scores: mean scores by judge, model and question.
        kls: KLs in nats per answer by anchor, model and question.
    """
    if not kls:
        return Frontier()
    several = [arm for arm in compared if all(len(run.points) > 1 for run in arm.runs)]
    drawn = Resampling(config.seed, config.draws)
    names = [arm.name for arm in several]
    baseline = config.baseline if config.baseline in names else None
    opponents = arms.arm_pairs(several, baseline)
    points: list[FrontierPoint] = []
    curves: list[FrontierCurve] = []
    rows: list[FrontierRow] = []
    lines: list[str] = []
    for judge, of_models in scores.items():
        of_judge: list[FrontierRow] = []
        for anchor, distances in kls.items():
            points += _points(compared, judge, anchor, of_models, distances)
            tracks = _tracks(several, of_models, distances)
            curves += [
                _curve(arm, judge, anchor, [tracks[run.name] for run in arm.runs])
                for arm in several
                if tracks
            ]
            for a, b in opponents if tracks else ():
                found, missing = _compare(a, b, judge, anchor, tracks, drawn)
                of_judge += found
                lines += missing
        rows += _corrected(of_judge)
    told = [_sentence(row) for row in sorted(rows, key=lambda row: not row.pair.decided)]
    return (
        Frontier(tuple(points), tuple(curves), tuple(rows), (*told, *lines, *_axes(rows)))
        if several
        else Frontier()
    )


def _points(
    compared: Sequence[Arm], judge: str, anchor: str, scores: Values, distances: Values
) -> list[FrontierPoint]:
    return [
        FrontierPoint(
            arm.name,
            run.name,
            point.name,
            anchor,
            judge,
            float(np.mean(list(distances[point.name].values()))),
            float(np.mean(list(scores[point.name].values()))),
        )
        for arm in compared
        for run in arm.runs
        for point in run.points
        if point.name in distances and point.name in scores
    ]


def _tracks(several: Sequence[Arm], scores: Values, distances: Values) -> dict[str, _Track]:
    """The points of every run, on the prompts that have a score and a KL for all models."""
    models = [point.name for arm in several for point in arm.points]
    if any(model not in scores or model not in distances for model in models):
        return {}
    questions = [
        q
        for q in (scores[models[0]] if models else ())
        if all(q in scores[model] and q in distances[model] for model in models)
    ]
    if len(questions) < 2:
        return {}

    def table(values: Values, run: ArmRun) -> Array:
        return np.array([[values[point.name][q] for q in questions] for point in run.points])

    return {
        run.name: _Track(table(distances, run), table(scores, run))
        for arm in several
        for run in arm.runs
    }


def _curve(arm: Arm, judge: str, anchor: str, tracks: Sequence[_Track]) -> FrontierCurve:
    low, high = _common(tracks)
    corners = [float(k) for track in tracks for k in track.kl.mean(axis=1)]
    grid = sorted({*corners, *np.linspace(low, high, _GRID).tolist()}) if low <= high else []
    grid = [k for k in grid if low <= k <= high]
    values = np.array([[_score(track, k) for k in grid] for track in tracks])
    columns = (values.mean(axis=0), values.min(axis=0), values.max(axis=0)) if grid else ((),) * 3
    middle, least, most = (tuple(map(float, column)) for column in columns)
    return FrontierCurve(arm.name, anchor, judge, tuple(grid), middle, least, most)


def _score(track: _Track, at: float) -> float:
    found = frontier.score_at(track.kl, track.score, at)
    return float("nan") if found is None else float(found.mean())


def _common(tracks: Sequence[_Track]) -> tuple[float, float]:
    """The KLs that all runs pass; the first is larger than the second if there are none."""
    return max(track.reach[0] for track in tracks), min(track.reach[1] for track in tracks)


def _compare(
    a: Arm, b: Arm, judge: str, anchor: str, tracks: Mapping[str, _Track], drawn: Resampling
) -> tuple[list[FrontierRow], list[str]]:
    """The rows of two arms, and a sentence on the KLs that not all of their runs pass."""
    runs = [*zip(*arms.matched(a, b), strict=True)] if arms.paired(a, b) else [a.runs, b.runs]
    sides = [[tracks[run.name] for run in side] for side in runs]
    both = [*sides[0], *sides[1]]
    low, high = _common(both)
    levels = [level for level in NATS if low <= level <= high]
    if not levels and low < high:
        levels = [round((low + high) / 2, 3)]
    rows = []
    for level in levels:
        tables = [
            _table([frontier.score_at(track.kl, track.score, level) for track in side])
            for side in sides
        ]
        pair = arm_results.pair_row(
            a, b, judge, f"score at {level:g} nats from {anchor}", tables[0], tables[1], drawn
        )
        rows.append(FrontierRow(anchor, "KL", level, pair))
    rows += _at_equal_score(a, b, judge, anchor, sides, drawn)
    outside = [level for level in NATS if not low <= level <= high]
    if not outside:
        return rows, []
    reached = " and ".join(
        f"{arm.name} {_range([track.reach for track in side])}"
        for arm, side in zip((a, b), sides, strict=True)
    )
    at = ", ".join(f"{level:g}" for level in outside)
    return rows, [
        f"By {short_name(judge)}, no comparison at {at} nats from {anchor}: not all runs reach it "
        f"({reached} nats)."
    ]


def _at_equal_score(
    a: Arm,
    b: Arm,
    judge: str,
    anchor: str,
    sides: Sequence[Sequence[_Track]],
    drawn: Resampling,
) -> list[FrontierRow]:
    """The KLs at the score halfway through those that all runs pass."""
    both = [*sides[0], *sides[1]]
    low, high = max(track.rise[0] for track in both), min(track.rise[1] for track in both)
    if not low < high:
        return []
    level = (low + high) / 2
    found = [[frontier.kl_at(track.kl, track.score, level) for track in side] for side in sides]
    if any(values is None for side in found for values in side):
        return []
    tables = [_table(side) for side in found]
    measure = f"KL to {anchor} at a score of {figure(level)}"
    pair = arm_results.pair_row(a, b, judge, measure, tables[0], tables[1], drawn)
    return [FrontierRow(anchor, "score", level, pair)]


def _table(values: Sequence[Array | None]) -> Array:
    return np.array([one for one in values if one is not None], np.float64)


def _corrected(rows: Sequence[FrontierRow]) -> list[FrontierRow]:
    pairs = arm_results.adjusted([row.pair for row in rows])
    return [
        FrontierRow(row.anchor, row.at, row.level, pair)
        for row, pair in zip(rows, pairs, strict=True)
    ]


def _sentence(row: FrontierRow) -> str:
    pair = row.pair
    facts = f"{signed(pair.difference)} ({signed(pair.low)} to {signed(pair.high)}; {pair.runs})"
    judge = short_name(pair.judge)
    if not pair.decided:
        return (
            f"By {judge}, no significant difference in {pair.measure} between {pair.a} and "
            f"{pair.b}: {facts}."
        )
    ahead, behind = (pair.a, pair.b) if pair.difference > 0 else (pair.b, pair.a)
    if row.at == "KL":
        where = f"at {row.level:g} nats from {row.anchor}"
        return f"By {judge}, {where} {ahead} scores more than {behind}: {facts}."
    return (
        f"By {judge}, at a score of {figure(row.level)} {ahead} is further from {row.anchor} than "
        f"{behind}: {facts} nats."
    )


def _axes(rows: Sequence[FrontierRow]) -> list[str]:
    """Where the choice of the anchor decides who is ahead at equal KL."""
    found: dict[tuple[str, str, str], dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        if row.at == "KL":
            pair = row.pair
            winner = pair.a if pair.difference > 0 else pair.b
            of_pair = found.setdefault((pair.judge, pair.a, pair.b), {})
            of_anchor = of_pair.setdefault(row.anchor, {})
            of_anchor.setdefault(winner if pair.decided else "neither", []).append(row.level)
    return [
        f"By {short_name(judge)}, which of {a} and {b} is ahead at equal KL depends on the axis: "
        + "; ".join(f"by KL to {anchor} {_ahead(where)}" for anchor, where in by.items())
        + "."
        for (judge, a, b), by in found.items()
        if len({frozenset(winners) for winners in by.values()}) > 1
    ]


def _ahead(where: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(
        f"{winner} at {', '.join(f'{level:g}' for level in levels)} nats"
        for winner, levels in where.items()
    )


def _range(reaches: Sequence[tuple[float, float]]) -> str:
    """From where to where the runs of an arm get."""
    if isnan(reaches[0][0]):
        return "nowhere"
    return f"{figure(max(low for low, _ in reaches))} to {figure(min(high for _, high in reaches))}"
