"""Best of n of a model: what it scores, its distance from the model, and who does better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from salsa_cli.evaluation.results.win_rates import LEVEL, Resampling
from salsa_cli.evaluation.verdicts.verdict import short_name
from salsa_cli.formatting import figure
from salsa_cli.maths import best_of, resampling, statistics

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BestOfRow:
    """The mean score by `judge` of the best of `n` answers of a model, chosen by `chosen_by`.

    Estimated without bias from `samples` answers to each of `prompts` prompts, with a 95%
    bootstrap interval over prompts. `kl` bounds the KL to the model itself from above, in nats per
    answer.
    """

    model: str
    n: int
    kl: float
    chosen_by: str
    judge: str
    score: float
    low: float
    high: float
    prompts: int
    samples: int


@dataclass(frozen=True)
class AgainstBestOf:
    """How much more one answer of `model` scores than the best of `n` of `sampled`.

    The mean difference over the same prompts, with a 95% bootstrap interval over them.
    """

    model: str
    sampled: str
    n: int
    judge: str
    difference: float
    low: float
    high: float


Rewards = Mapping[str, Array]
"""Of the samples of one model [prompts, samples], by judge; the first judge chooses."""


def curve(model: str, rewards: Rewards, largest: int, drawn: Resampling) -> list[BestOfRow]:
    """A row for each judge and each n = 1 ... `largest`."""
    first, *_ = rewards
    found = []
    for judge in rewards:
        table = _best(rewards, judge, largest)
        sums = resampling.resampled_sums(table, drawn.seed, drawn.draws) / len(table)
        for n in range(1, largest + 1):
            low, high = resampling.percentiles(sums[:, n - 1], LEVEL)
            found.append(
                BestOfRow(
                    model,
                    n,
                    best_of.kl_bound(n),
                    first,
                    judge,
                    float(table[:, n - 1].mean()),
                    low,
                    high,
                    *rewards[first].shape,
                )
            )
    return found


def against(
    sampled: str,
    rewards: Rewards,
    n: int,
    scores: Mapping[str, Mapping[str, Sequence[float]]],
    drawn: Resampling,
) -> list[AgainstBestOf]:
    """Every other model compared with the best of `n` of one.

    Args:
        scores: by judge and model, one for each prompt, in the order of `rewards`.
    """
    found = []
    for judge in rewards:
        best = _best(rewards, judge, n)[:, -1]
        for model, given in scores[judge].items():
            if model != sampled:
                gap = statistics.bootstrap_interval(
                    np.asarray(given) - best, drawn.seed, drawn.draws, LEVEL
                )
                found.append(
                    AgainstBestOf(model, sampled, n, judge, gap.estimate, gap.low, gap.high)
                )
    return found


def sentences(rows: Sequence[BestOfRow], gaps: Sequence[AgainstBestOf]) -> list[str]:
    """The largest n of every model by every judge, and what others score compared with it."""
    largest = max((row.n for row in rows), default=0)
    lines = [
        f"By {short_name(row.judge)}, the best of {row.n} of {row.model}{_chosen(row)} scores "
        f"{figure(row.score)} ({figure(row.low)} to {figure(row.high)}), with a KL of at most "
        f"{row.kl:.2f} nats per answer."
        for row in rows
        if row.n == largest
    ]
    lines += [
        f"By {short_name(gap.judge)}, {gap.model} scores {gap.difference:+.3f} compared with the "
        f"best of {gap.n} of {gap.sampled} ({gap.low:+.3f} to {gap.high:+.3f})."
        for gap in gaps
    ]
    return lines


def _chosen(row: BestOfRow) -> str:
    return "" if row.judge == row.chosen_by else f", chosen by {short_name(row.chosen_by)},"


def _best(rewards: Rewards, judge: str, largest: int) -> Array:
    first, *_ = rewards
    scores = None if judge == first else rewards[judge]
    return best_of.expected_best_of(rewards[first], scores, largest)
