"""Significance of win rates: exact sign test, Holm's correction, detectable difference."""

from collections.abc import Sequence
from math import comb, exp, lgamma, log, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike


def standard_error(points: ArrayLike, weights: ArrayLike) -> float:
    """Standard error of sum(points) / sum(weights) over questions; 0 for a single question."""
    p, w = np.asarray(points, np.float64), np.asarray(weights, np.float64)
    if p.size == 0 or not w.sum() > 0:
        raise ValueError("a ratio needs at least one question with weight")
    if p.size == 1:
        return 0.0
    residuals = (p - p.sum() / w.sum() * w) / w.mean()
    return float(sqrt(np.sum(residuals**2) / (p.size - 1) / p.size))


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p-value of wins against losses at even odds; ties are left out.

    2 P(X <= min(wins, losses)) for X binomial(wins + losses, 1/2), at most 1; 1 if there are
    only ties (Conover, "Practical Nonparametric Statistics", 1999, section 3.4).
    """
    n, least = wins + losses, min(wins, losses)
    if least < 0:
        raise ValueError(f"expected counts, not {wins} and {losses}")
    tail = sum(comb(n, k) for k in range(least + 1)) if n <= 1000 else None
    if tail is not None:
        return min(1.0, float(2 * tail / 2**n))
    logs = [lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1) for k in range(least + 1)]
    top = max(logs)
    return min(1.0, 2.0 * exp(top - n * log(2) + log(sum(exp(one - top) for one in logs))))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in their order.

    The k-th smallest of m is multiplied by m - k + 1 and raised to those before it, at most 1
    (Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979).
    """
    adjusted = [0.0] * len(p_values)
    reached = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = reached
    return adjusted


def detectable_difference(error: float, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test finds with probability `power`.

    (z of (1 + level) / 2 + z of power) standard errors; the chance of a significant result on the
    wrong side is left out.
    """
    normal = NormalDist()
    return (normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)) * error
