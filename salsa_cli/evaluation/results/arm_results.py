"""Scores and win rates of arms: means over runs and prompts, with intervals over both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan

import numpy as np
from numpy.typing import NDArray

from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation import arms
from salsa_cli.evaluation.arms import Arm
from salsa_cli.evaluation.results import comparisons, win_rates
from salsa_cli.evaluation.results.comparisons import Rules
from salsa_cli.evaluation.results.win_rates import LEVEL, Resampling
from salsa_cli.evaluation.verdicts.verdict import Verdict, short_name
from salsa_cli.formatting import counted, figure
from salsa_cli.maths import crossed_effects, significance
from salsa_cli.maths.crossed_effects import Spread
from salsa_cli.maths.statistics import Interval

Array = NDArray[np.float64]
Values = Mapping[str, Mapping[str, float]]
"""Values by model and question."""

SCORE, WIN_RATE = "score", "win rate"


@dataclass(frozen=True)
class ArmRow:
    """The mean score of an arm by one judge, over `runs` runs and `n` prompts.

    `low` and `high` are the 95% t-interval over runs and prompts (over the prompts alone for a
    single run), `bootstrap_low` and `bootstrap_high` the two-level bootstrap. `spread` is the
    standard deviation of the runs' means.
    """

    arm: str
    judge: str
    score: float
    low: float
    high: float
    runs: int
    n: int
    spread: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None


@dataclass(frozen=True)
class ArmPairRow:
    """One arm against another by one judge, over runs and prompts.

    `difference` is the mean score of `a` less that of `b`, or by how much the win rate of `a`
    exceeds one half; `measure` says which. `paired` says that the runs of one seed were paired.
    The interval of a win rate is cut at 0 and 1.
    `p_value` is that of the t-test, `p_holm` the same for all pairs of arms by the judge and
    measure together. `runs_needed` is the number of runs an arm that would show a difference of
    this size with 80% power; None if so few prompts could not.
    """

    a: str
    b: str
    judge: str
    measure: str
    difference: float
    low: float
    high: float
    runs_a: int
    runs_b: int
    n: int
    paired: bool = False
    p_value: float = 1.0
    p_holm: float = 1.0
    runs_needed: int | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None

    @property
    def several_runs(self) -> bool:
        """Whether both arms have several runs, so that the interval stands for other seeds."""
        return min(self.runs_a, self.runs_b) > 1

    @property
    def runs(self) -> str:
        """The number of runs in words."""
        if self.runs_a == self.runs_b == 1:
            return "1 run each"
        if self.paired:
            return f"{self.runs_a} runs each, paired by seed"
        if self.runs_a == self.runs_b:
            return f"{self.runs_a} runs each"
        return f"{self.runs_a} and {counted(self.runs_b, 'run')}"

    def amounts(self) -> tuple[str, str]:
        """Estimate and interval as text: a win rate as such, other differences with their sign."""
        if self.measure == WIN_RATE:
            rate, low, high = (0.5 + x for x in (self.difference, self.low, self.high))
            return f"{rate:.1%}", f"{low:.1%} to {high:.1%}"
        low_end, high_end = signed(self.low), signed(self.high)
        return signed(self.difference), f"{low_end} to {high_end}"

    @property
    def decided(self) -> bool:
        """Whether the arms differ: by the t-test, corrected for all pairs (Holm)."""
        return self.p_holm <= 1 - LEVEL and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class ArmResults:
    """What is known of the arms; nothing where single models are compared.

    `sentences` say what the pairs show, one each, the significant ones first; `remarks` for what
    the intervals stand.
    """

    rows: tuple[ArmRow, ...] = ()
    pairs: tuple[ArmPairRow, ...] = ()
    sentences: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def of(
    compared: Sequence[Arm],
    verdicts: Sequence[Verdict],
    gradings: Sequence[Verdict],
    config: EvalConfig,
) -> ArmResults:
    """The scores and the win rates of arms; empty where every arm is a single model."""
    if not arms.compared(compared):
        return ArmResults()
    drawn = Resampling(config.seed, config.draws)
    rules = Rules(config.rule, config.failed)
    scores = scores_by_judge([*gradings, *verdicts])
    opponents = arms.arm_pairs(compared, config.baseline)
    between = [one for one in verdicts if one.b is not None]
    pairs = (
        *score_differences(opponents, scores, drawn),
        *win_rates_of(opponents, between, rules, drawn),
    )
    return ArmResults(
        score_rows(compared, scores, drawn),
        pairs,
        tuple(map(sentence, sorted(pairs, key=lambda row: not row.decided))),
        remarks(compared),
    )


def scores_by_judge(gradings: Sequence[Verdict]) -> dict[str, Values]:
    """The mean score of each model on each question, by judge; invalid scores are left out."""
    sums: dict[str, dict[str, dict[str, list[float]]]] = {}
    for one in gradings:
        if one.b is None and one.score_a is not None:
            of_model = sums.setdefault(one.judge, {}).setdefault(one.a, {})
            of_model.setdefault(one.question, []).append(one.score_a)
    return {
        judge: {
            model: {question: float(np.mean(values)) for question, values in questions.items()}
            for model, questions in models.items()
        }
        for judge, models in sums.items()
    }


def score_rows(
    compared: Sequence[Arm], scores: Mapping[str, Values], drawn: Resampling
) -> tuple[ArmRow, ...]:
    """The mean scores of the arms' last policies."""
    rows = []
    for judge, values in scores.items():
        for arm in compared:
            table = table_of([run.last for run in arm.runs], values)
            if table.shape[1] < 2:
                continue
            spread = estimate([table])
            interval = spread.interval(LEVEL)
            bootstrap = _bootstrap([table], drawn)
            rows.append(
                ArmRow(
                    arm.name,
                    judge,
                    interval.estimate,
                    interval.low,
                    interval.high,
                    len(table),
                    table.shape[1],
                    None if len(table) == 1 else float(table.mean(axis=1).std(ddof=1)),
                    *_ends(bootstrap),
                )
            )
    return tuple(rows)


def score_differences(
    compared: Sequence[tuple[Arm, Arm]], scores: Mapping[str, Values], drawn: Resampling
) -> tuple[ArmPairRow, ...]:
    """By how much arms score more than others, their last policies compared."""
    rows = []
    for judge, values in scores.items():
        found = []
        for a, b in compared:
            if row := difference_row(a, b, judge, SCORE, values, drawn):
                found.append(row)
        rows += adjusted(found)
    return tuple(rows)


def difference_row(
    a: Arm, b: Arm, judge: str, measure: str, values: Values, drawn: Resampling
) -> ArmPairRow | None:
    """The difference of two arms in some value of their last policies; None below 2 prompts."""
    paired = arms.paired(a, b)
    runs = tuple(zip(*arms.matched(a, b), strict=True)) if paired else (a.runs, b.runs)
    models = [[run.last for run in side] for side in runs]
    whole = table_of([*models[0], *models[1]], values)
    if whole.shape[1] < 2:
        return None
    first, second = whole[: len(models[0])], whole[len(models[0]) :]
    return pair_row(a, b, judge, measure, first, second, drawn)


def pair_row(
    a: Arm, b: Arm, judge: str, measure: str, first: Array, second: Array, drawn: Resampling
) -> ArmPairRow:
    """The difference of two tables [runs, prompts]; of paired arms the rows belong together."""
    paired = arms.paired(a, b)
    tables = [first - second] if paired else [first, second]
    spread = estimate(tables)
    row = _row(a, b, judge, measure, spread, _bootstrap(tables, drawn), first.shape[1])
    needed = None if isnan(spread.runs) else crossed_effects.runs_needed(spread, len(tables), LEVEL)
    return replace(row, paired=paired and len(a.runs) > 1, runs_needed=needed)


def win_rates_of(
    compared: Sequence[tuple[Arm, Arm]],
    verdicts: Sequence[Verdict],
    rules: Rules,
    drawn: Resampling,
) -> tuple[ArmPairRow, ...]:
    """How often arms win, from the comparisons of their matched runs."""
    found = win_rates.comparisons([win_rates.as_stored(verdicts)], rules)
    rates: dict[tuple[str, str, str], dict[str, float]] = {}
    for one in found:
        counted = comparisons.tally(one, rules)
        points = (counted.points / counted.weights).tolist()
        rates[one.a, one.b, one.judge] = dict(zip(counted.questions, points, strict=True))
    rows: list[ArmPairRow] = []
    for judge in dict.fromkeys(judge for _, _, judge in rates):
        of_judge = []
        for a, b in compared:
            table = _won(a, b, judge, rates)
            if table is None:
                continue
            spread = estimate([table - 0.5])
            row = _row(
                a, b, judge, WIN_RATE, spread, _bootstrap([table - 0.5], drawn), table.shape[1]
            )
            needed = None if isnan(spread.runs) else crossed_effects.runs_needed(spread, 1, LEVEL)
            count = len(table)
            of_judge.append(
                replace(
                    row,
                    runs_a=count,
                    runs_b=count,
                    paired=count > 1 and arms.paired(a, b),
                    runs_needed=needed,
                )
            )
        rows += adjusted(of_judge)
    return tuple(rows)


def table_of(models: Sequence[str], values: Values) -> Array:
    """Values [models, questions], of the questions for which every model has one."""
    known = [values.get(model, {}) for model in models]
    questions = [q for q in known[0] if all(q in one for one in known)] if known else []
    return np.array([[one[q] for q in questions] for one in known], np.float64).reshape(
        len(models), len(questions)
    )


def estimate(tables: Sequence[Array]) -> Spread:
    """The mean of one table, or the first's less the second's, [runs, prompts] each.

    With a single run on a side, the interval is over the prompts alone.
    """
    if any(len(table) == 1 for table in tables):
        means = [table.mean(axis=0) for table in tables]
        return crossed_effects.prompts_only(means[0] - (means[1] if len(means) == 2 else 0.0))
    if len(tables) == 1:
        return crossed_effects.one_arm(tables[0])
    return crossed_effects.two_arms(*tables)


def adjusted(rows: Sequence[ArmPairRow]) -> list[ArmPairRow]:
    """p-values corrected for the number of rows (Holm)."""
    corrected = significance.holm([row.p_value for row in rows])
    return [replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)]


def remarks(compared: Sequence[Arm]) -> tuple[str, ...]:
    """For what the intervals stand: arms of a single run, and runs whose seeds are not known."""
    lines = [
        f"{arm.name} has {len(arm.runs)} runs without distinct seeds in salsa.json; they are "
        "paired in the given order."
        for arm in compared
        if len(arm.runs) > 1 and arm.seeds is None
    ]
    single = [arm.name for arm in compared if len(arm.runs) == 1]
    if single:
        them = "is one run" if len(single) == 1 else "are one run each"
        lines.append(
            f"{_listed(single)} {them}: these intervals are about these models only, not about "
            "other seeds."
        )
    return tuple(lines)


def sentence(row: ArmPairRow) -> str:
    """What a difference shows."""
    amount, between = row.amounts()
    facts = f"{amount} ({between}; {row.runs}, {counted(row.n, 'prompt')})"
    judge = short_name(row.judge)
    if row.decided:
        ahead, behind = (row.a, row.b) if row.difference > 0 else (row.b, row.a)
        verb = "wins against" if row.measure == WIN_RATE else "scores more than"
        return f"By {judge}, {ahead} {verb} {behind}: {facts}."
    line = (
        f"By {judge}, no significant difference in {row.measure} between {row.a} and {row.b}: "
        f"{facts}."
    )
    return f"{line} {_needed(row)}" if row.several_runs else line


def _needed(row: ArmPairRow) -> str:
    if row.difference == 0:
        return "They are equal."
    if row.runs_needed is None:
        return "No number of runs would show a difference of this size with so few prompts."
    if row.runs_needed <= min(row.runs_a, row.runs_b):
        return (
            "It would be significant on its own, but not after the correction for all pairs (Holm)."
        )
    return (
        f"Showing a difference of this size would need about {counted(row.runs_needed, 'run')} "
        "per arm (80% power)."
    )


def signed(value: float) -> str:
    """A difference with its sign."""
    return f"+{figure(value)}" if value >= 0 else figure(value)


def _listed(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _row(
    a: Arm,
    b: Arm,
    judge: str,
    measure: str,
    spread: Spread,
    bootstrap: Interval | None,
    prompts: int,
) -> ArmPairRow:
    interval = spread.interval(LEVEL)
    low, high = _ends(bootstrap)
    most = 0.5 if measure == WIN_RATE else float("inf")
    return ArmPairRow(
        a.name,
        b.name,
        judge,
        measure,
        interval.estimate,
        max(interval.low, -most),
        min(interval.high, most),
        len(a.runs),
        len(b.runs),
        prompts,
        p_value=spread.p_value(),
        bootstrap_low=low,
        bootstrap_high=high,
    )


def _won(
    a: Arm, b: Arm, judge: str, rates: Mapping[tuple[str, str, str], Mapping[str, float]]
) -> Array | None:
    """The share won by `a` [matched runs, prompts]; None where they were not compared."""
    values: dict[str, dict[str, float]] = {}
    for first, second in arms.matched(a, b):
        forward = rates.get((first.last, second.last, judge))
        if forward is None:
            backward = rates.get((second.last, first.last, judge))
            forward = None if backward is None else {q: 1 - p for q, p in backward.items()}
        if forward is None:
            return None
        values[first.last] = dict(forward)
    table = table_of(list(values), values)
    return table if table.shape[1] > 1 else None


def _ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def _bootstrap(tables: Sequence[Array], drawn: Resampling) -> Interval | None:
    """The two-level bootstrap, where there are several runs on each side."""
    if any(len(table) == 1 for table in tables):
        return None
    return crossed_effects.bootstrap(tables, drawn.seed, drawn.draws, LEVEL)
