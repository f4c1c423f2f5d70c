"""Estimates with confidence intervals, in NumPy and float64."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Resampled values held at a time: two arrays of 8 MiB, whatever n and draws are.
_CHUNK = 2**20


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float


def pair_outcomes(a_scores: ArrayLike, b_scores: ArrayLike) -> NDArray[np.float64]:
    """Outcome of a against b on each question, float64 [n]: 1 win, 0.5 tie, 0 loss.

    Args:
        a_scores: [n].
        b_scores: [n], of the same questions in the same order.

    The mean is the adjusted win rate (wins + ties / 2) / n (FastChat, MT-Bench); that of b against
    a is 1 minus it. ValueError for NaN on either side or for arrays that are not [n] and [n].
    """
    a, b = _vector(a_scores), _vector(b_scores)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} scores cannot be paired with {b.size}")
    return np.where(a > b, 1.0, np.where(a == b, 0.5, 0.0))


def bootstrap_interval(
    values: ArrayLike, seed: int, draws: int = 10_000, level: float = 0.95
) -> Interval:
    """Mean of the values with its percentile bootstrap interval.

    Args:
        values: [n], one per question: questions are resampled, with replacement.
        seed: of the resampling; one seed gives one interval.
        draws: number of resamples, >= 1.
        level: confidence, in (0, 1).

    low and high are the (1 - level) / 2 and (1 + level) / 2 quantiles of the resampled means
    (Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979). The questions that are drawn
    depend on seed and n alone, so 1 - values gives the mirrored interval, 1 - high to 1 - low, up
    to rounding. n = 1 gives an interval of no width. ValueError for n = 0, for NaN, and for draws
    or level out of range.
    """
    sample = _vector(values)
    n = sample.size
    if n == 0:
        raise ValueError("a bootstrap needs at least one value")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    _require_level(level)
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    rows = max(1, _CHUNK // n)
    for start in range(0, draws, rows):
        # The generator's stream runs on from chunk to chunk: the draws do not depend on `rows`.
        size = (min(rows, draws - start), n)
        means[start : start + rows] = sample[generator.integers(n, size=size)].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate=float(sample.mean()), low=float(low), high=float(high))


def wilson_interval(successes: float, n: int, level: float = 0.95) -> Interval:
    """Share of successes in n trials with its score interval.

    Args:
        successes: in [0, n]; a tie may count one half.
        n: number of trials, >= 1.
        level: confidence, in (0, 1).

    With p = successes / n and z the (1 + level) / 2 quantile of the normal distribution, the ends
    are (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    (Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927).
    They stay within [0, 1], and 0 of n still has an upper end above 0. ValueError for arguments
    out of range.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, not {n}")
    if not 0 <= successes <= n:
        raise ValueError(f"successes must be in [0, {n}], not {successes}")
    _require_level(level)
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    scale = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / scale
    half = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / scale
    # The ends are the roots of a quadratic with product p^2 / scale; those of 1 - p mirror them.
    # Dividing by the sum rather than taking the difference keeps 0 of n at 0 and n of n at 1.
    return Interval(
        estimate=p,
        low=p * p / (scale * (centre + half)),
        high=1 - (1 - p) ** 2 / (scale * (1 - centre + half)),
    )


def mean_and_std(values: ArrayLike) -> tuple[float, float]:
    """Mean and population standard deviation sqrt(sum (x - mean)^2 / n) of values [n].

    ValueError for n = 0 and for NaN.
    """
    sample = _vector(values)
    if sample.size == 0:
        raise ValueError("a mean needs at least one value")
    return float(sample.mean()), float(sample.std())


def correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of x [n] and y [n], in [-1, 1]; 0 where either is constant, or n = 0.

    sum (x - mean x)(y - mean y) / sqrt(sum (x - mean x)^2 * sum (y - mean y)^2). ValueError for NaN
    and for arrays that are not [n] and [n].
    """
    a, b = _vector(x), _vector(y)
    if a.shape != b.shape:
        raise ValueError(f"{a.size} values cannot be paired with {b.size}")
    if not a.size or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)), -1, 1))


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected a vector, not an array of shape {array.shape}")
    if np.isnan(array).any():
        raise ValueError("the values contain NaN")
    return array


def _require_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
