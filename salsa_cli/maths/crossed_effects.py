"""Intervals over two crossed samples: training runs (seeds), and the prompts that all runs answer.

A table y [runs, prompts] is a sum of random effects (Searle, Casella and McCulloch, "Variance
Components", 1992, chapter 4):

    y[r, p] = mean + run[r] + prompt[p] + rest[r, p]

The mean over the table stands for other runs and other prompts only with both of its variances:

    V = var(run) / R + var(prompt) / P + var(rest) / (R P)

An interval from the runs' means alone leaves out the prompts, which all runs share; one over the
prompts of a single run leaves out the runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from salsa_cli.maths import student_t
from salsa_cli.maths.resampling import percentiles
from salsa_cli.maths.statistics import Interval

Array = NDArray[np.float64]

# Resampled cells held at a time: 32 MiB.
_CHUNK = 2**22
MOST_RUNS = 1000
"""Largest number of runs that `runs_needed` considers."""


@dataclass(frozen=True)
class Spread:
    """An estimate with the two parts of its variance.

    Attributes:
        estimate: mean of the table, or difference of two tables' means.
        runs: variance of the runs' means on these prompts (of two arms: their sum), >= 0; `R`
            runs divide it by R. NaN for a single run.
        prompts: variance that remains with any number of runs of these prompts, >= 0.
        error: standard error of the estimate.
        df: degrees of freedom of that error (Satterthwaite).
        runs_error: standard error of the estimate on these very prompts; 0 for a single run.
        runs_df: its degrees of freedom.
    """

    estimate: float
    runs: float
    prompts: float
    error: float
    df: float
    runs_error: float = 0.0
    runs_df: float = 1.0

    def interval(self, level: float = 0.95) -> Interval:
        """The t-interval: estimate -+ error times the (1 + level) / 2 quantile for `df`.

        It is never narrower than the t-interval of the runs' means, which with two or three runs
        has fewer degrees of freedom: the prompts add to what is not known.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, not {level}")
        half = max(student_t.quantile((1 + level) / 2, df) * error for error, df in self._errors)
        return Interval(self.estimate, self.estimate - half, self.estimate + half)

    def p_value(self) -> float:
        """Two-sided p-value of a true value of 0, at most 0.05 where the 95 % interval excludes 0.

        1 where estimate and error are both 0.
        """
        if self.estimate == 0:
            return 1.0
        return max(
            2 * student_t.cumulative(-abs(self.estimate) / error, df) if error > 0 else 0.0
            for error, df in self._errors
        )

    @property
    def _errors(self) -> tuple[tuple[float, float], tuple[float, float]]:
        return (self.error, self.df), (self.runs_error, self.runs_df)


@dataclass(frozen=True)
class _MeanSquare:
    """A mean square, scaled to a share of V, with its degrees of freedom."""

    value: float
    df: float


def one_arm(table: ArrayLike) -> Spread:
    """The mean of y [R, P], R >= 2 runs and P >= 2 prompts, or of paired differences of two arms.

    V is estimated by (MSR + MSP - MSE) / (R P) from the mean squares of rows, columns and rest,
    with degrees of freedom by Satterthwaite ("An Approximate Distribution of Estimates of Variance
    Components", 1946). Where a variance would come out negative, it is taken as 0. ValueError for
    fewer runs or prompts, and for NaN.
    """
    y = _table(table)
    runs, prompts, rest = _mean_squares(y)
    common = max(0.0, prompts.value - rest.value)
    return _spread(float(y.mean()), [runs], prompts, [rest], runs.value * len(y), common)


def two_arms(a: ArrayLike, b: ArrayLike) -> Spread:
    """Mean of a [R, P] less that of b [S, P]: different runs (R, S >= 2), the same prompts.

    The runs of both arms add up; the prompts' part is that of the difference of the arms' means
    on each prompt.
    """
    first, second = _table(a), _table(b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{first.shape[1]} prompts cannot be paired with {second.shape[1]}")
    difference = first.mean(axis=0) - second.mean(axis=0)
    size = difference.size
    prompts = _MeanSquare(float(difference.var(ddof=1)) / size, size - 1)
    runs, rests = [], []
    spread = 0.0
    for y in (first, second):
        between, _, rest = _mean_squares(y)
        runs.append(between)
        rests.append(rest)
        spread += between.value * len(y)
    common = max(0.0, prompts.value - sum(rest.value for rest in rests))
    return _spread(float(difference.mean()), runs, prompts, rests, spread, common)


def prompts_only(values: ArrayLike) -> Spread:
    """The mean over P >= 2 prompts of a single run: nothing is known of other runs."""
    y = np.asarray(values, np.float64)
    if y.ndim != 1 or y.size < 2 or np.isnan(y).any():
        raise ValueError(f"expected the values of at least two prompts, not {y.shape}")
    variance = float(y.var(ddof=1)) / y.size
    return Spread(float(y.mean()), float("nan"), variance, sqrt(variance), y.size - 1)


def bootstrap(
    arms: Sequence[ArrayLike], seed: int, draws: int = 10_000, level: float = 0.95
) -> Interval:
    """Two-level bootstrap of the mean of one table, or of the first's less the second's.

    Args:
        arms: one table [R, P] (of paired differences, or one arm), or two of the same prompts.
        seed: of the resampling.
        draws: number of resamples, >= 1.
        level: confidence, in (0, 1).

    Runs and prompts are drawn with replacement, independently of each other, since they are
    crossed (Owen, "The Pigeonhole Bootstrap", 2007). Of R runs R - 1 are drawn, which removes the
    factor (R - 1) / R in the variance of few runs (Rao and Wu, "Resampling Inference with Complex
    Survey Data", 1988). The quantiles are those of the normal distribution in the limit, so with
    3 runs the interval is too narrow: see `one_arm` for a t-interval.
    """
    tables = [_table(table) for table in arms]
    size = tables[0].shape[1]
    if not 1 <= len(tables) <= 2 or any(table.shape[1] != size for table in tables):
        raise ValueError("expected one table, or two of the same prompts")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // size)
    found = np.empty(draws)
    for start in range(0, draws, step):
        count = min(step, draws - start)
        means = np.zeros((count, size))
        for sign, table in zip((1.0, -1.0), tables, strict=False):
            runs = len(table)
            drawn = generator.multinomial(runs - 1, np.full(runs, 1 / runs), size=count)
            means += sign * (drawn / (runs - 1)) @ table
        prompts = generator.multinomial(size, np.full(size, 1 / size), size=count)
        found[start : start + count] = np.einsum("np,np->n", means, prompts) / size
    estimate = tables[0].mean() - (tables[1].mean() if len(tables) == 2 else 0.0)
    return Interval(float(estimate), *percentiles(found, level))


def runs_needed(spread: Spread, arms: int, level: float = 0.95, power: float = 0.8) -> int | None:
    """Fewest runs an arm that show a true difference of `spread.estimate` with this power.

    Args:
        spread: of a pilot; its variances are taken as known.
        arms: 1 for paired runs (n - 1 degrees of freedom), 2 for unpaired ones (2 n - 2).
        level: confidence of the interval that must leave out 0.
        power: probability that it does.

    The smallest n >= 2 with |estimate| >= (t of (1 + level) / 2 + t of power) * sqrt(runs / n +
    prompts), both t for the degrees of freedom of n; the chance of a significant result on the
    wrong side is left out. None where `MOST_RUNS` would not do: the prompts are too few.
    """
    target = abs(spread.estimate)

    def enough(n: int) -> bool:
        df = arms * (n - 1)
        both = student_t.quantile((1 + level) / 2, df) + student_t.quantile(power, df)
        return target >= both * sqrt(spread.runs / n + spread.prompts)

    if not enough(MOST_RUNS):
        return None
    low, high = 1, MOST_RUNS  # `low` is never enough: one run has no degrees of freedom
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _spread(
    estimate: float,
    runs: Sequence[_MeanSquare],
    prompts: _MeanSquare,
    rests: Sequence[_MeanSquare],
    spread: float,
    common: float,
) -> Spread:
    """V = runs + prompts - rests, but never less than the runs' part or the prompts' part alone."""
    both, rest = [*runs, prompts], sum(one.value for one in rests)
    variance = sum(one.value for one in both) - rest
    of_runs = sum(one.value for one in runs)
    if variance < max(of_runs, prompts.value):
        both, rests = (list(runs), []) if of_runs >= prompts.value else ([prompts], [])
        variance = max(of_runs, prompts.value)
    df = _satterthwaite([*both, *rests], variance)
    return Spread(
        estimate,
        spread,
        common,
        sqrt(variance),
        df,
        sqrt(of_runs),
        _satterthwaite(runs, of_runs),
    )


def _satterthwaite(squares: Sequence[_MeanSquare], variance: float) -> float:
    """Degrees of freedom of a sum (or difference) of mean squares that comes to `variance`."""
    scaled = sum(one.value**2 / one.df for one in squares)
    return variance**2 / scaled if scaled > 0 else min(one.df for one in squares)


def _mean_squares(y: Array) -> tuple[_MeanSquare, _MeanSquare, _MeanSquare]:
    """Mean squares of rows, columns and rest of y [R, P], each divided by R P."""
    runs, prompts = y.shape
    rows, columns = y.mean(axis=1, keepdims=True), y.mean(axis=0, keepdims=True)
    rest = y - rows - columns + y.mean()
    return (
        _MeanSquare(float(rows.var(ddof=1)) / runs, runs - 1),
        _MeanSquare(float(columns.var(ddof=1)) / prompts, prompts - 1),
        _MeanSquare(
            float((rest**2).sum()) / ((runs - 1) * (prompts - 1)) / (runs * prompts),
            (runs - 1) * (prompts - 1),
        ),
    )


def _table(values: ArrayLike) -> Array:
    y = np.asarray(values, np.float64)
    if y.ndim != 2 or min(y.shape) < 2:
        raise ValueError(f"expected at least 2 runs and 2 prompts, not a table of shape {y.shape}")
    if np.isnan(y).any():
        raise ValueError("the values contain NaN")
    return y
