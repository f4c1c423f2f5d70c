"""Agreement of judges with one another and with gold labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from salsa_cli.evaluation.results.pooling import HANDFUL
from salsa_cli.evaluation.results.win_rates import Resampling
from salsa_cli.evaluation.verdicts.formats import Stored
from salsa_cli.evaluation.verdicts.verdict import Verdict
from salsa_cli.maths import agreement, resampling, statistics

Array = NDArray[np.float64]

# More distinct scores than this come from a reward model, not from a rating scale.
_MOST_SCORES = 50

Item = tuple[str, str, str, int]
"""Two models (or one, twice), a question and a turn."""


@dataclass(frozen=True)
class AgreementRow:
    """Agreement of some judges on the same `n` items, with 95% intervals over questions.

    `raw` is the share of items on which two judges say the same, `kappa` Cohen's; both None for
    more than two judges. `alpha` is Krippendorff's: of who wins for comparisons (win, tie, loss),
    of the scores as numbers for grading.
    """

    judges: tuple[str, ...]
    kind: str
    n: int
    raw: float | None
    raw_low: float | None
    raw_high: float | None
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None
    alpha: float
    alpha_low: float
    alpha_high: float


@dataclass(frozen=True)
class AccuracyRow:
    """Accuracy of a judge against gold labels, over both orders; an invalid verdict is wrong.

    `alike` counts the items with the same valid verdict in both orders.
    """

    judge: str
    accuracy: float
    low: float
    high: float
    n: int
    correct_forward: int
    correct_backward: int
    correct_both: int
    alike: int
    invalid: int


def agreements(stored: Sequence[Stored], drawn: Resampling) -> tuple[AgreementRow, ...]:
    """Every two judges with common items, and all judges together if there are more than two.

    More than a handful of judges are only compared all together.
    """
    verdicts = [verdict for one in stored for verdict in one.verdicts]
    return (
        *_agreements("comparison", _outcomes(verdicts), drawn),
        *_agreements("grading", _scores(verdicts), drawn),
    )


def accuracies(stored: Sequence[Stored], drawn: Resampling) -> tuple[AccuracyRow, ...]:
    """Accuracy of every judge in files with gold labels."""
    gold: dict[Item, float] = {}
    judged: dict[str, dict[Item, list[Verdict]]] = {}
    for one in stored:
        for verdict in one.verdicts if one.gold is not None else ():
            if verdict.judge == one.gold and verdict.outcome is not None:
                gold[_item(verdict)] = verdict.outcome
            else:
                judged.setdefault(verdict.judge, {}).setdefault(_item(verdict), []).append(verdict)
    return tuple(_accuracy(judge, items, gold, drawn) for judge, items in judged.items())


def _accuracy(
    judge: str,
    items: Mapping[Item, Sequence[Verdict]],
    gold: Mapping[Item, float],
    drawn: Resampling,
) -> AccuracyRow:
    right = {item: [v.outcome == gold[item] for v in given] for item, given in items.items()}
    correct = [sum(one) for one in right.values()]
    judged = [len(one) for one in right.values()]
    interval = resampling.ratio_interval(correct, judged, drawn.seed, drawn.draws)
    if interval.low == interval.high:  # all right, all wrong, or a single item
        share = interval.estimate * len(items)
        interval = statistics.wilson_interval(share, len(items))

    def correct_in(order: str) -> int:
        return sum(
            v.outcome == gold[item] for item, vs in items.items() for v in vs if v.order == order
        )

    outcomes = [[v.outcome for v in given] for given in items.values()]
    return AccuracyRow(
        judge,
        interval.estimate,
        interval.low,
        interval.high,
        n=len(items),
        correct_forward=correct_in("ab"),
        correct_backward=correct_in("ba"),
        correct_both=sum(all(one) for one in right.values()),
        alike=sum(len(set(one)) == 1 and None not in one for one in outcomes),
        invalid=sum(one.count(None) for one in outcomes),
    )


def _item(verdict: Verdict) -> Item:
    return verdict.a, verdict.b or verdict.a, verdict.question, verdict.turn


def _outcomes(verdicts: Sequence[Verdict]) -> dict[str, dict[Item, float]]:
    """By judge and item: 1, 0.5 or 0, the majority of its games for the first model."""
    games: dict[str, dict[Item, list[float]]] = {}
    known: set[tuple[str, str]] = set()
    for given in verdicts:
        # A model against itself: neither side is better, so there is nothing to agree on.
        if given.b is None or given.b == given.a or given.outcome is None:
            continue
        verdict = given.swapped if (given.b, given.a) in known else given
        known.add((verdict.a, str(verdict.b)))
        items = games.setdefault(verdict.judge, {})
        items.setdefault(_item(verdict), []).append(float(verdict.outcome or 0.0))
    return {
        judge: {item: (np.sign(np.mean(one) - 0.5) + 1) / 2 for item, one in items.items()}
        for judge, items in games.items()
    }


def _scores(verdicts: Sequence[Verdict]) -> dict[str, dict[Item, float]]:
    scores: dict[str, dict[Item, float]] = {}
    for verdict in verdicts:
        if verdict.b is None and verdict.score_a is not None:
            scores.setdefault(verdict.judge, {})[_item(verdict)] = verdict.score_a
    return scores


def _agreements(
    kind: str, said: Mapping[str, Mapping[Item, float]], drawn: Resampling
) -> list[AgreementRow]:
    groups: list[tuple[str, ...]] = []
    if len(said) <= HANDFUL:
        groups += combinations(said, 2)
    if len(said) > 2:
        groups.append(tuple(said))
    values = np.array(sorted({value for items in said.values() for value in items.values()}))
    if len(values) > _MOST_SCORES:
        return []
    rows = (_agreement(kind, group, said, values, drawn) for group in groups)
    return [row for row in rows if row is not None]


def _agreement(
    kind: str,
    judges: tuple[str, ...],
    said: Mapping[str, Mapping[Item, float]],
    values: Array,
    drawn: Resampling,
) -> AgreementRow | None:
    counts: dict[Item, int] = {}
    for judge in judges:
        for item in said[judge]:
            counts[item] = counts.get(item, 0) + 1
    items = [item for item, count in counts.items() if count > 1]
    if not items:
        return None
    rows = {item: row for row, item in enumerate(items)}
    codes = np.full((len(items), len(judges)), -1)
    for column, judge in enumerate(judges):
        given = [item for item in said[judge] if item in rows]
        codes[[rows[item] for item in given], column] = np.searchsorted(
            values, [said[judge][item] for item in given]
        )
    places = {question: n for n, question in enumerate(dict.fromkeys(item[2] for item in items))}
    questions = np.array([places[item[2]] for item in items])
    k = len(values)
    distances = (
        1.0 - np.eye(k) if kind == "comparison" else (values[:, None] - values[None, :]) ** 2
    )

    def estimate(
        matrices: Array, statistic: Callable[[Array], Array]
    ) -> tuple[float, float, float]:
        table = np.zeros((len(places), k, k))
        np.add.at(table, questions, matrices)
        sums = resampling.resampled_sums(table.reshape(-1, k * k), drawn.seed, drawn.draws)
        low, high = resampling.percentiles(statistic(sums.reshape(-1, k, k)))
        return float(statistic(table.sum(axis=0))), low, high

    alpha = estimate(
        agreement.coincidences(codes, k), lambda m: agreement.krippendorff_alpha(m, distances)
    )
    if len(judges) > 2:
        return AgreementRow(judges, kind, len(items), *(None,) * 6, *alpha)
    tables = np.zeros((len(items), k, k))
    tables[np.arange(len(items)), codes[:, 0], codes[:, 1]] = 1
    raw = estimate(tables, agreement.raw_agreement)
    kappa = estimate(tables, agreement.cohen_kappa)
    return AgreementRow(judges, kind, len(items), *raw, *kappa, *alpha)
