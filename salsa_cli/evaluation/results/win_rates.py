"""Win rates, mean scores and Bradley-Terry ratings from verdicts, with their intervals."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from salsa_cli.evaluation.results.comparisons import (
    Comparison,
    Match,
    Rules,
    Tally,
    group_by_pair,
    tally,
)
from salsa_cli.evaluation.verdicts.formats import Convention, Stored
from salsa_cli.evaluation.verdicts.verdict import Verdict, short_name
from salsa_cli.maths import bradley_terry, resampling, significance, statistics

LEVEL = 0.95

# A joint fit costs models^3: use fewer draws for many models, but not too few.
_FIT_COST = 500_000_000
_FEWEST_FITS = 500
_NO_WIDTH = 1e-6


@dataclass(frozen=True)
class Resampling:
    """Settings of the bootstrap over questions."""

    seed: int
    draws: int


@dataclass(frozen=True)
class PairRow:
    """One model against another by one judge; `win_rate` is of `a` over `b`, ties as half.

    A model compared with itself is even; it shows the position bias (`first_position`).

    `low` and `high` bound it by a 95% bootstrap over questions (Wilson's interval where all
    questions have the same score, or there is a single one). `p_value` is that of the exact
    sign test, `p_holm` the same for all pairs of the judge together. `detectable` is the smallest
    distance from one half that so many questions would find with 80% power. `consistency` is the
    share of comparisons with the same outcome in both orders, `first_position` the win rate of the
    answer shown first; both None where no comparison was judged in both orders. `invalid` counts
    comparisons with an invalid game; `worst` and `best` bound the rate over all labels that these
    games could have had.
    `judgements` counts all that was judged, a comparison in both orders twice, and `reasons` the
    failed ones among them by reason, the most frequent first.
    """

    a: str
    b: str
    judge: str
    win_rate: float
    low: float
    high: float
    n: int
    wins: int
    losses: int
    ties: int
    invalid: int
    p_value: float = 1.0
    p_holm: float = 1.0
    detectable: float = 0.0
    consistency: float | None = None
    first_position: float | None = None
    worst: float | None = None
    best: float | None = None
    category: str | None = None
    judgements: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def decided(self) -> bool:
        """Whether the two models differ significantly.

        Both must say so: the exact sign test, corrected for all pairs of the judge (Holm), and the
        interval, which follows the size of the differences and not their sign alone.
        """
        return self.p_holm <= 1 - LEVEL and not self.low <= 0.5 <= self.high

    @property
    def of_itself(self) -> bool:
        """Whether a model is compared with itself."""
        return self.a == self.b


@dataclass(frozen=True)
class ScoreRow:
    """The mean score of one model by one judge, with a 95% bootstrap interval over questions.

    The mean is over all `n` valid scores with equal weight, as in FastChat; `turns` are the means
    of each turn, in order. `reasons` counts the invalid scores by reason, the most frequent first.
    """

    model: str
    judge: str
    score: float
    low: float
    high: float
    turns: tuple[float, ...]
    n: int
    invalid: int
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RatingRow:
    """The strength of one model among three or more, by a joint Bradley-Terry fit.

    `strength` is in log-odds, 0 on the average of the models. `win_rate` is what it implies over
    the baseline, or over the mean opponent where there is no baseline; its 95% interval is of the
    same fit in each bootstrap draw over questions.
    """

    model: str
    judge: str
    strength: float
    win_rate: float
    low: float
    high: float


def pair_rows(found: Sequence[Comparison], rules: Rules, drawn: Resampling) -> tuple[PairRow, ...]:
    """Every pair of models by every judge; p-values adjusted for all pairs of a judge (Holm)."""
    return _adjusted([_pair_row(one, rules, drawn) for one in found])


@dataclass(frozen=True)
class Ratings:
    """Joint Bradley-Terry ratings, and `gaps`: which models have none, and why, a sentence each."""

    rows: tuple[RatingRow, ...]
    gaps: tuple[str, ...]


def ratings(found: Sequence[Comparison], rules: Rules, drawn: Resampling) -> Ratings:
    """Joint Bradley-Terry ratings of three or more models by every judge.

    None for a judge whose pairs all share one model: there the fit equals the win rates. The fit
    has a maximum only for models that are connected by wins in both directions (Ford 1957): others
    never met, or would have a strength without bound. The largest such group is rated.
    """
    by_judge: dict[str, list[Comparison]] = {}
    for one in found:
        if not one.of_itself:
            by_judge.setdefault(one.judge, []).append(one)
    rows: list[RatingRow] = []
    gaps: list[str] = []
    for judge, group in by_judge.items():
        if set.intersection(*({one.a, one.b} for one in group)):
            continue
        tallies = [tally(one, rules) for one in group]
        rated, sentences = _rated(judge, group, tallies)
        gaps += sentences
        inside = [n for n, one in enumerate(group) if {one.a, one.b} <= rated]
        if inside:
            fitted = _ratings(
                judge, [group[n] for n in inside], [tallies[n] for n in inside], rules, drawn
            )
            if any(row.high - row.low > _NO_WIDTH for row in fitted):
                rows += fitted
            else:
                gaps.append(
                    f"By {short_name(judge)}, no Bradley-Terry fit: all prompts have the same "
                    "outcome, so there is no interval."
                )
    return Ratings(tuple(rows), tuple(gaps))


def _rated(
    judge: str, group: Sequence[Comparison], tallies: Sequence[Tally]
) -> tuple[set[str], list[str]]:
    """The models that one fit can compare (none if fewer than three), and why it is not all."""
    models = list(dict.fromkeys(name for one in group for name in (one.a, one.b)))
    won = np.zeros((len(models), len(models)))
    for one, counted in zip(group, tallies, strict=True):
        a, b = models.index(one.a), models.index(one.b)
        won[a, b] += counted.points.sum()
        won[b, a] += (counted.weights - counted.points).sum()
    parts = [[models[n] for n in part] for part in bradley_terry.connected(won)]
    met = [[models[n] for n in part] for part in bradley_terry.connected(won + won.T)]
    name = short_name(judge)
    if len({question for counted in tallies for question in counted.questions}) < 2:
        return set(), [f"By {name}, no Bradley-Terry fit: there is no interval with one prompt."]
    if len(parts) == 1:
        return set(models), []
    largest = max(parts, key=len)
    rest = [part for part in parts if part is not largest]
    if len(met) > 1:
        groups = " | ".join(", ".join(part) for part in met)
        why = f"these groups of models were never compared: {groups}"
    else:
        names = "; ".join(", ".join(part) for part in rest)
        why = (
            f"{names} won or lost all comparisons with the other models, so the fit has no maximum"
        )
    if len(largest) < 3:
        return set(), [f"By {name}, no Bradley-Terry fit of all pairs: {why}."]
    ranked = ", ".join(largest)
    return set(largest), [f"By {name}, a Bradley-Terry fit of only {ranked}: {why}."]


def _ratings(
    judge: str,
    group: Sequence[Comparison],
    tallies: Sequence[Tally],
    rules: Rules,
    drawn: Resampling,
) -> list[RatingRow]:
    models = list(dict.fromkeys(name for one in group for name in (one.a, one.b)))
    numbers = {q: n for n, q in enumerate(dict.fromkeys(q for t in tallies for q in t.questions))}
    # Columns 2p and 2p + 1: what the first and the second model of pair p won on each question.
    table = np.zeros((len(numbers), 2 * len(group)))
    for pair, counted in enumerate(tallies):
        rows = [numbers[question] for question in counted.questions]
        table[rows, 2 * pair] = counted.points
        table[rows, 2 * pair + 1] = counted.weights - counted.points
    draws = max(_FEWEST_FITS, min(drawn.draws, _FIT_COST // len(models) ** 3))
    sums = np.vstack([table.sum(axis=0), resampling.resampled_sums(table, drawn.seed, draws)])
    won = np.zeros((len(sums), len(models), len(models)))
    for pair, one in enumerate(group):
        a, b = models.index(one.a), models.index(one.b)
        won[:, a, b], won[:, b, a] = sums[:, 2 * pair], sums[:, 2 * pair + 1]
    strengths = bradley_terry.bradley_terry(won)
    base = models.index(rules.baseline) if rules.baseline in models else None
    found = []
    for index, model in enumerate(models):
        others = [n for n in range(len(models)) if n != index] if base is None else [base]
        against = bradley_terry.expected_rate(strengths[:, [index]], strengths[:, others])
        rates = against.mean(axis=1)
        low, high = resampling.percentiles(rates[1:], LEVEL)
        found.append(
            RatingRow(model, judge, float(strengths[0, index]), float(rates[0]), low, high)
        )
    return sorted(found, key=lambda row: -row.strength)


def comparisons(stored: Sequence[Stored], rules: Rules) -> list[Comparison]:
    """The comparisons in some files, without the gold labels."""
    return group_by_pair(
        (
            (verdict, one.convention)
            for one in stored
            for verdict in one.verdicts
            if verdict.judge != one.gold
        ),
        rules.baseline,
    )


def category_rows(
    found: Sequence[Comparison], rules: Rules, drawn: Resampling
) -> tuple[PairRow, ...]:
    """Win rates per category, where there are several categories."""
    return parted_rows(found, rules, drawn, lambda _, match: match.category)


def parted_rows(
    found: Sequence[Comparison],
    rules: Rules,
    drawn: Resampling,
    part: Callable[[Comparison, Match], str | None],
) -> tuple[PairRow, ...]:
    """Win rates within parts of each comparison, in the order of their first match.

    None for a comparison of one part, of a model with itself, or with a match that belongs to
    no part.
    """
    rows: list[PairRow] = []
    for comparison in found:
        if comparison.of_itself:
            continue
        parts: dict[str | None, list[Match]] = {}
        for match in comparison.matches:
            parts.setdefault(part(comparison, match), []).append(match)
        if len(parts) > 1 and None not in parts:
            rows += [
                replace(_pair_row(replace(comparison, matches=some), rules, drawn), category=name)
                for name, some in parts.items()
            ]
    return tuple(rows)


def score_rows(verdicts: Sequence[Verdict], drawn: Resampling) -> tuple[ScoreRow, ...]:
    """Mean scores of every model that a judge graded."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.b is None:
            groups.setdefault((verdict.a, verdict.judge), []).append(verdict)
    by_question = {key: _by_question(group) for key, group in groups.items()}
    intervals = _score_intervals(by_question, drawn)
    return tuple(_score_row(*key, group, intervals.get(key)) for key, group in groups.items())


_Key = tuple[str, str]


def _by_question(verdicts: Sequence[Verdict]) -> dict[str, list[float]]:
    """The valid scores of each question."""
    found: dict[str, list[float]] = {}
    for verdict in verdicts:
        if verdict.score_a is not None:
            found.setdefault(verdict.question, []).append(verdict.score_a)
    return found


def _score_intervals(
    by_question: Mapping[_Key, Mapping[str, Sequence[float]]], drawn: Resampling
) -> dict[_Key, statistics.Interval]:
    """The mean score of each model that has one, with its interval.

    Models with one score for each of as many questions are resampled together, which is much
    faster and gives the same intervals.
    """
    found: dict[_Key, statistics.Interval] = {}
    alike: dict[int, list[_Key]] = {}
    for key, scores in by_question.items():
        if scores and all(len(given) == 1 for given in scores.values()):
            alike.setdefault(len(scores), []).append(key)
        elif scores:
            found[key] = resampling.ratio_interval(
                [sum(given) for given in scores.values()],
                [len(given) for given in scores.values()],
                drawn.seed,
                drawn.draws,
                LEVEL,
            )
    for keys in alike.values():
        table = np.column_stack([[given[0] for given in by_question[key].values()] for key in keys])
        intervals = resampling.mean_intervals(table, drawn.seed, drawn.draws, LEVEL)
        found |= dict(zip(keys, intervals, strict=True))
    return found


def _score_row(
    model: str, judge: str, verdicts: Sequence[Verdict], interval: statistics.Interval | None
) -> ScoreRow:
    valid = [(v.turn, v.score_a) for v in verdicts if v.score_a is not None]
    invalid = len(verdicts) - len(valid)
    reasons = _reasons(verdict.invalid for verdict in verdicts)
    nan = float("nan")
    if interval is None:
        return ScoreRow(model, judge, nan, nan, nan, (), 0, invalid, reasons)
    turns: dict[int, list[float]] = {}
    for turn, score in valid:
        turns.setdefault(turn, []).append(score)
    return ScoreRow(
        model,
        judge,
        interval.estimate,
        interval.low,
        interval.high,
        tuple(sum(turns[turn]) / len(turns[turn]) for turn in sorted(turns)),
        len(valid),
        invalid,
        reasons,
    )


def _pair_row(comparison: Comparison, rules: Rules, drawn: Resampling) -> PairRow:
    counted = tally(comparison, rules)
    consistency, first_position = _orders(comparison)
    worst, best = _bounds(comparison, counted, rules)
    row = PairRow(
        comparison.a,
        comparison.b,
        comparison.judge,
        win_rate=counted.rate,
        low=0.0,
        high=1.0,
        n=counted.n,
        wins=counted.wins,
        losses=counted.losses,
        ties=counted.ties,
        invalid=counted.invalid,
        consistency=consistency,
        first_position=first_position,
        worst=worst,
        best=best,
        judgements=len(comparison.games),
        reasons=_reasons(game.invalid for game in comparison.games),
    )
    if not counted.n:
        return row
    # A model compared with itself is even, whatever is drawn.
    interval = statistics.Interval(0.5, 0.5, 0.5) if row.of_itself else _interval(counted, drawn)
    error = significance.standard_error(counted.points, counted.weights)
    return replace(
        row,
        low=interval.low,
        high=interval.high,
        p_value=significance.sign_test(*_signs(counted)),
        detectable=significance.detectable_difference(error, LEVEL),
    )


def _reasons(found: Iterable[str | None]) -> dict[str, int]:
    """How often each reason occurs, the most frequent first."""
    return dict(Counter(reason for reason in found if reason is not None).most_common())


def _interval(counted: Tally, drawn: Resampling) -> statistics.Interval:
    scores = counted.points / counted.weights
    if len(scores) == 1 or (counted.rate != 0.5 and (scores == scores[0]).all()):
        # All resamples are equal, which would give an interval of no width.
        return _wilson(counted)
    return resampling.ratio_interval(
        counted.points, counted.weights, drawn.seed, drawn.draws, LEVEL
    )


def _wilson(counted: Tally) -> statistics.Interval:
    questions = len(counted.questions)
    return statistics.wilson_interval(counted.rate * questions, questions, LEVEL)


def _signs(counted: Tally) -> tuple[int, int]:
    """Questions won and lost: the independent trials of the sign test."""
    doubled = 2 * counted.points
    return int((doubled > counted.weights).sum()), int((doubled < counted.weights).sum())


def _orders(comparison: Comparison) -> tuple[float | None, float | None]:
    """Share of matches with equal outcomes in both orders, and win rate of the first position."""
    both = [
        (m.forward.outcome, m.backward.outcome)
        for m in comparison.matches
        if m.forward is not None and m.backward is not None
    ]
    valid = [(f, b) for f, b in both if f is not None and b is not None]
    if not valid:
        return None, None
    alike = sum(f == b for f, b in valid) / len(valid)
    return alike, sum(f + 1.0 - b for f, b in valid) / (2 * len(valid))


def _bounds(
    comparison: Comparison, counted: Tally, rules: Rules
) -> tuple[float | None, float | None]:
    """The lowest and the highest rate with any labels in place of the invalid games.

    A rate rises with every outcome, and is moved most by the label that weighs most, so that both
    ends are found with strong labels. A valid game that was dropped along with an invalid one
    counts here. As it does not in the rate itself, the rate is added to the range. None where no
    game is invalid.
    """
    if not counted.invalid:
        return None, None
    ends = [tally(comparison.filled(outcome), rules).rate for outcome in (0.0, 1.0)]
    if counted.n:
        ends.append(counted.rate)
    return min(ends), max(ends)


def _adjusted(rows: Sequence[PairRow]) -> tuple[PairRow, ...]:
    by_judge: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        if not row.of_itself:
            by_judge.setdefault(row.judge, []).append(index)
    adjusted: dict[int, float] = {}
    for places in by_judge.values():
        values = significance.holm([rows[index].p_value for index in places])
        adjusted |= dict(zip(places, values, strict=True))
    return tuple(replace(row, p_holm=adjusted.get(index, 1.0)) for index, row in enumerate(rows))


def as_stored(verdicts: Sequence[Verdict], source: str = "this run") -> Stored:
    """Verdicts of this run, as if read from a file in salsa's format."""
    return Stored(source, "salsa", Convention(), verdicts)
