"""Best of n: what the best of n answers by a reward scores, from m >= n answers to each prompt."""

from math import log

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def kl_bound(n: int) -> float:
    """Upper bound log n - (n - 1) / n, in nats, on the KL of best of n to the model itself.

    Equal to the KL where no two answers have the same reward and none has a probability to speak
    of; else the KL is smaller (Beirami et al., "Theoretical guarantees on the best-of-n alignment
    policy", 2024). ValueError for n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    return log(n) - (n - 1) / n


def order_weights(samples: int, n: int) -> Array:
    """Probability that the i-th smallest of `samples` values is the largest of n of them, [m].

    C(i - 1, n - 1) / C(m, n) for i = 1 ... m: n are drawn without replacement. Computed downwards
    by w_m = n / m and w_(i-1) = w_i (i - n) / (i - 1), without large binomials. ValueError unless
    1 <= n <= samples.
    """
    if not 1 <= n <= samples:
        raise ValueError(f"n must be in [1, {samples}], not {n}")
    weights = np.empty(samples)
    weights[-1] = n / samples
    for i in range(samples, 1, -1):
        weights[i - 2] = weights[i - 1] * (i - n) / (i - 1)
    return weights


def expected_best_of(rewards: ArrayLike, scores: ArrayLike | None, largest: int) -> Array:
    """Mean score of the best by reward of n answers, for n = 1 ... `largest`, [prompts, largest].

    Args:
        rewards: [prompts, m], by which the best is chosen.
        scores: [prompts, m], what is averaged; None takes the rewards themselves.
        largest: largest n, in [1, m].

    The mean over all subsets of n of the m answers, which is unbiased for every n (a U-statistic;
    the formula of pass@k in Chen et al., "Evaluating Large Language Models Trained on Code", 2021,
    for rewards of any value). Among equal rewards each answer is as likely to be chosen: each
    counts their mean score. ValueError for shapes that differ, and for NaN.
    """
    chosen = np.asarray(rewards, np.float64)
    counted = chosen if scores is None else np.asarray(scores, np.float64)
    if chosen.ndim != 2 or chosen.shape != counted.shape:
        raise ValueError(f"expected two [prompts, m], not {chosen.shape} and {counted.shape}")
    if np.isnan(chosen).any() or np.isnan(counted).any():
        raise ValueError("the values contain NaN")
    weights = np.column_stack([order_weights(chosen.shape[1], n) for n in range(1, largest + 1)])
    ranked = [_ranked(*rows) for rows in zip(chosen, counted, strict=True)]
    return np.asarray(np.stack(ranked) @ weights)


def _ranked(rewards: Array, scores: Array) -> Array:
    """The scores in rising order of reward; among equal rewards, their mean."""
    _, place = np.unique(rewards, return_inverse=True)
    means = np.bincount(place, weights=scores) / np.bincount(place)
    return np.asarray(means[np.sort(place)])
