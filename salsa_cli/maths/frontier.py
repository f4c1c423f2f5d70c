"""Reward against KL along a training run: what a run scores at a KL, and what KL a score takes.

A run is a polyline through its points (mean KL, mean score), in order of KL. Both coordinates are
means over the same prompts, so every interpolated value is returned as one value per prompt, whose
mean is the interpolated one and whose spread carries the errors of both coordinates (the delta
method; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, section 21.9):

    score[p] at k = (1 - w) s_i[p] + w s_j[p] - slope ((1 - w) k_i[p] + w k_j[p] - k)

with w = (k - mean k_i) / (mean k_j - mean k_i) and slope = (mean s_j - mean s_i) / (mean k_j - mean
k_i) of the segment that holds k.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def ordered(kl: ArrayLike, score: ArrayLike) -> tuple[Array, Array]:
    """KL and score of a run's points, [points, prompts] each, in order of their mean KL.

    ValueError for other shapes and for NaN.
    """
    k, s = np.asarray(kl, np.float64), np.asarray(score, np.float64)
    if k.ndim != 2 or k.shape != s.shape or not k.size:
        raise ValueError(f"expected two tables [points, prompts], not {k.shape} and {s.shape}")
    if np.isnan(k).any() or np.isnan(s).any():
        raise ValueError("the values contain NaN")
    order = np.argsort(k.mean(axis=1), kind="stable")
    return k[order], s[order]


def score_at(kl: ArrayLike, score: ArrayLike, at: float) -> Array | None:
    """The score at a KL, one value per prompt [prompts]; None outside the run's KLs.

    Args:
        kl: [points, prompts], nats.
        score: [points, prompts].
        at: nats.
    """
    k, s = ordered(kl, score)
    means = k.mean(axis=1)
    if not means[0] <= at <= means[-1]:
        return None
    right = int(np.searchsorted(means, at))
    left = right - 1
    if right == 0:  # the first point, or several at its KL
        left, right = 0, int(np.searchsorted(means, at, side="right"))
        if right == len(means):
            return np.asarray(s[0])
    return _along(k, s, left, right, at)


def kl_at(kl: ArrayLike, score: ArrayLike, at: float) -> Array | None:
    """The KL at which a run first reaches a score, one value per prompt [prompts].

    None where it does not reach the score, and where its first point has it already: the KL that
    it took is not known.
    """
    k, s = ordered(kl, score)
    means = s.mean(axis=1)
    if means[0] > at:
        return None
    for left in range(len(means) - 1):
        if means[left] <= at <= means[left + 1] and means[left] < means[left + 1]:
            return _along(s, k, left, left + 1, at)
    return None


def _along(x: Array, y: Array, left: int, right: int, at: float) -> Array:
    """y where the mean of x is `at`, on the segment between two points."""
    width = x[right].mean() - x[left].mean()
    share = (at - x[left].mean()) / width
    slope = (y[right].mean() - y[left].mean()) / width
    xs = (1 - share) * x[left] + share * x[right]
    ys = (1 - share) * y[left] + share * y[right]
    return np.asarray(ys - slope * (xs - at))
