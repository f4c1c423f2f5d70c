"""Calibration of probabilities: reliability curve and expected calibration error, in NumPy.

Of a preference pair the label says which answer is better, so the probability that is judged is
that of the answer which the model prefers, in [1/2, 1], and the outcome is whether it is right.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """The pairs with confidence in [low, high): mean confidence and accuracy."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def bradley_terry(leads: ArrayLike) -> NDArray[np.float64]:
    """Probability that the first answer is preferred, float64 [n]: 1 / (1 + exp(-lead)).

    Args:
        leads: [n], score of the first answer less that of the second.

    Exact to rounding for leads of any size (Bradley and Terry 1952).
    """
    lead = np.asarray(leads, dtype=np.float64)
    small = np.exp(-np.abs(lead))
    return np.where(lead >= 0, 1.0, small) / (1.0 + small)


def reliability(probabilities: ArrayLike, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """The reliability curve, one entry for each bin that holds a pair.

    Args:
        probabilities: [n] in [0, 1], that the answer labelled as better is the better one.
        bins: equal parts of [1/2, 1].

    The confidence of a pair is max(p, 1 - p), and it is right where p > 1/2, half right where
    p = 1/2. ValueError for NaN, for values outside [0, 1] and for bins < 1.
    """
    p = _probabilities(probabilities)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}")
    confidence = np.maximum(p, 1 - p)
    right = np.where(p > 0.5, 1.0, np.where(p == 0.5, 0.5, 0.0))
    place = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    return tuple(
        ReliabilityBin(
            low=0.5 + 0.5 * index / bins,
            high=0.5 + 0.5 * (index + 1) / bins,
            n=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
        for index in range(bins)
        if (inside := place == index).any()
    )


def expected_calibration_error(curve: tuple[ReliabilityBin, ...]) -> float:
    """Mean distance of confidence and accuracy over the pairs, in [0, 1].

    sum over bins of n / N * |accuracy - confidence| (Naeini et al. 2015; Guo et al., "On
    Calibration of Modern Neural Networks", 2017, eq. 3). ValueError for an empty curve.
    """
    total = sum(part.n for part in curve)
    if not total:
        raise ValueError("a calibration error needs at least one pair")
    return sum(part.n / total * abs(part.accuracy - part.confidence) for part in curve)


def _probabilities(values: ArrayLike) -> NDArray[np.float64]:
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != 1:
        raise ValueError(f"expected a vector, not an array of shape {p.shape}")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a probability is NaN or outside [0, 1]")
    return p
