"""Student's t distribution: its quantiles, for intervals from few observations."""

from math import exp, lgamma, log, log1p, pi, sqrt
from statistics import NormalDist

_STEPS, _TERMS = 1000, 1000
_EPSILON = 1e-16
_TINY = 1e-300


def cumulative(t: float, df: float) -> float:
    """P(T <= t) for Student's t with `df` > 0 degrees of freedom, which need not be whole.

    1 - I_x(df / 2, 1 / 2) / 2 for t >= 0, with x = df / (df + t^2) and I the regularised incomplete
    beta function (Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.1, 26.5.27).
    ValueError for df <= 0.
    """
    if not df > 0:
        raise ValueError(f"degrees of freedom must be above 0, not {df}")
    # 1 - x is computed, not subtracted: near t = 0 the difference would cancel.
    tail = _incomplete_beta(df / 2, 0.5, df / (df + t * t), t * t / (df + t * t)) / 2
    return 1.0 - tail if t >= 0 else tail


def quantile(p: float, df: float) -> float:
    """The t with P(T <= t) = p; to a relative 1e-10 for df up to 1e5.

    By Newton's method from the normal quantile, which is the nearer one to 0: above 0 the
    distribution is concave, so every step stays short of t. ValueError for p not in (0, 1) and for
    df <= 0.
    """
    if not 0 < p < 1:
        raise ValueError(f"p must be between 0 and 1, not {p}")
    if not df > 0:
        raise ValueError(f"degrees of freedom must be above 0, not {df}")
    if p < 0.5:
        return -quantile(1 - p, df)
    t = NormalDist().inv_cdf(p)
    for _ in range(_STEPS):
        step = (p - cumulative(t, df)) / _density(t, df)
        t += step
        if not step > 1e-14 * t:
            break
    return t


def _density(t: float, df: float) -> float:
    scale = exp(lgamma((df + 1) / 2) - lgamma(df / 2)) / sqrt(df * pi)
    return scale * exp(-(df + 1) / 2 * log1p(t * t / df))


def _incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """I_x(a, b), with rest = 1 - x."""
    if x == 0 or rest == 0:
        return float(rest == 0)
    front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log(rest))
    # The continued fraction converges quickly on the near side of the mean.
    if x < (a + 1) / (a + b + 2):
        return front * _continued_fraction(a, b, x) / a
    return 1.0 - front * _continued_fraction(b, a, rest) / b


def _continued_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b) by Lentz's method (Abramowitz and Stegun, 26.5.8)."""
    upper, lower = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1))
    value = lower
    for m in range(1, _TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            lower = 1.0 / _away_from_zero(1.0 + term * lower)
            upper = _away_from_zero(1.0 + term / upper)
            value *= lower * upper
        if abs(lower * upper - 1.0) < _EPSILON:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
