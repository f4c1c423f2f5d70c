"""What soups on a line or in a triangle gain over the models that they are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from salsa_cli.evaluation.results.eval_result import SoupRow
from salsa_cli.evaluation.results.win_rates import LEVEL, Resampling
from salsa_cli.maths import simultaneous, statistics
from salsa_cli.maths.statistics import Interval

Weights = tuple[float, ...]
Array = NDArray[np.float64]


def rows(
    models: tuple[str, ...],
    judge: str,
    rewards: Mapping[Weights, Sequence[float]],
    drawn: Resampling,
) -> list[SoupRow]:
    """One row a soup, with its gain over the mean of its models and over the best of them.

    Args:
        models: what the weights belong to.
        rewards: of each soup's answers, one a question; those of every model alone are among them.
    """
    table = {weights: np.asarray(given) for weights, given in rewards.items()}
    alone = [_alone(table, place) for place in range(len(models))]
    found = {weights: _row(models, judge, weights, table, alone, drawn) for weights in table}
    soups = [weights for weights in table if 1.0 not in weights]
    if soups:
        points = np.column_stack([table[weights] for weights in soups])
        gains = simultaneous.gains_over_the_best(
            points, np.column_stack(alone), drawn.seed, drawn.draws, LEVEL
        )
        for weights, gain in zip(soups, gains, strict=True):
            found[weights] = replace(
                found[weights],
                over_best=gain.estimate,
                over_best_low=gain.low,
                over_best_high=gain.high,
            )
    return list(found.values())


def _alone(table: Mapping[Weights, Array], place: int) -> Array:
    """The rewards of one of the models."""
    return next(given for weights, given in table.items() if weights[place] == 1.0)


def _row(
    models: tuple[str, ...],
    judge: str,
    weights: Weights,
    table: Mapping[Weights, Array],
    alone: Sequence[Array],
    drawn: Resampling,
) -> SoupRow:
    given = table[weights]
    gains = given - sum(
        (weight * rewards for weight, rewards in zip(weights, alone, strict=True)), np.zeros(())
    )
    score, gain = _mean(given, drawn), _mean(gains, drawn)
    return SoupRow(
        models,
        weights,
        judge,
        score.estimate,
        score.low,
        score.high,
        len(given),
        gain.estimate,
        gain.low,
        gain.high,
    )


def _mean(values: Array, drawn: Resampling) -> Interval:
    return statistics.bootstrap_interval(values, drawn.seed, drawn.draws, LEVEL)
