"""Cluster bootstrap over questions, for statistics that are functions of sums over questions.

Verdicts on one question are correlated: the same two answers are judged in two orders, over two
turns, by several judges. So whole questions are resampled, never single verdicts (cluster
bootstrap; Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8).
"""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from salsa_cli.maths.statistics import Interval

Array = NDArray[np.float64]

# Resampled questions held at a time, so that they fit into the cache of a core.
_CHUNK = 2**16
_STREAMS = 8
_THREADS = 2
# Questions drawn in all below which starting threads costs more than it saves.
_SMALL = 2**20
# A draw from a multinomial costs as much per cell as this many drawn questions.
_MULTINOMIAL_COST = 20
# Columns whose resampled sums are held at a time.
_COLUMNS = 64


def resampled_sums(table: ArrayLike, seed: int, draws: int = 10_000) -> Array:
    """Sums over resampled questions, [draws, f].

    Args:
        table: [n, f], one row a question.
        seed: of the resampling; one seed gives one result.
        draws: number of resamples, >= 1.

    Each row of the result is the sum of n rows of `table`, drawn with replacement. If there are
    few distinct rows, their counts are drawn from the multinomial distribution, which is
    equivalent. Which questions are drawn depends on seed, n and the places of equal rows, not on
    the values: swapping the two sides of a table gives the mirrored sums. ValueError for n = 0,
    for NaN, and for draws < 1.
    """
    rows = np.asarray(table, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] == 0:
        raise ValueError(f"expected a table of questions, not an array of shape {rows.shape}")
    if np.isnan(rows).any():
        raise ValueError("the values contain NaN")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    constant = (rows == rows[0]).all(axis=0)
    sums = np.empty((draws, rows.shape[1]))
    sums[:, constant] = rows[0, constant] * len(rows)
    sums[:, ~constant] = _varying_sums(rows[:, ~constant], seed, draws)
    return sums


def ratio_interval(
    points: ArrayLike, weights: ArrayLike, seed: int, draws: int = 10_000, level: float = 0.95
) -> Interval:
    """Sum of points over sum of weights, with its percentile interval over questions.

    Args:
        points: [n], of each question.
        weights: [n], >= 0: how much a question counts; all 1 for a mean of question scores.
        seed: of the resampling.
        draws: number of resamples, >= 1.
        level: confidence, in (0, 1).

    ValueError for n = 0, for NaN, for weights that sum to nothing, and for arguments out of range.
    """
    table = np.column_stack([np.asarray(points, np.float64), np.asarray(weights, np.float64)])
    total = table.sum(axis=0)
    if table.size and not total[1] > 0:
        raise ValueError("the weights sum to 0")
    sums = resampled_sums(table, seed, draws)
    sums = sums[sums[:, 1] > 0]
    return Interval(float(total[0] / total[1]), *percentiles(sums[:, 0] / sums[:, 1], level))


def mean_intervals(
    table: ArrayLike, seed: int, draws: int = 10_000, level: float = 0.95
) -> list[Interval]:
    """Means of the columns of a table with their percentile intervals over questions, [f].

    Args:
        table: [n, f], one row a question.
        seed, draws, level: as in `ratio_interval`.

    Each is what `ratio_interval` gives for its column with weights of 1, up to rounding; but the
    questions of a draw are drawn once for all columns. ValueError as there.
    """
    rows = np.asarray(table, np.float64)
    n = len(rows)
    found: dict[int, Interval] = {}
    # A column of few distinct values is drawn in another way, which is as fast for one alone.
    many = [c for c in range(rows.shape[1]) if not _has_few_kinds(np.unique(rows[:, c]), n)]
    for first in range(0, len(many), _COLUMNS):
        part = many[first : first + _COLUMNS]
        sums = resampled_sums(rows[:, part], seed, draws)
        for place, column in enumerate(part):
            ends = percentiles(sums[:, place] / n, level)
            found[column] = Interval(float(rows[:, column].sum() / n), *ends)
    for column in set(range(rows.shape[1])) - set(many):
        found[column] = ratio_interval(rows[:, column], np.ones(n), seed, draws, level)
    return [found[column] for column in range(rows.shape[1])]


def percentiles(values: Array, level: float = 0.95) -> tuple[float, float]:
    """The (1 - level) / 2 and (1 + level) / 2 quantiles of resampled values; NaN is left out."""
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    known = values[~np.isnan(values)]
    if known.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _kinds(rows: Array) -> tuple[Array, NDArray[np.int64]]:
    """The distinct rows in order of first appearance, and their counts."""
    kinds, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return kinds[order], counts[order]


def _has_few_kinds(kinds: Array, n: int) -> bool:
    """Whether counts of the distinct rows are drawn, and not the rows."""
    return _MULTINOMIAL_COST * len(kinds) < n


def _varying_sums(rows: Array, seed: int, draws: int) -> Array:
    if not rows.shape[1]:
        return np.empty((draws, 0))
    kinds, counts = _kinds(rows)
    if _has_few_kinds(kinds, len(rows)):
        generator = np.random.default_rng(seed)
        drawn = generator.multinomial(len(rows), counts / len(rows), size=draws)
        return np.asarray(drawn.astype(np.float64) @ kinds)
    # The number of streams is fixed, so that results do not depend on the number of threads.
    seeds = np.random.SeedSequence(seed).spawn(_STREAMS)
    shares = [draws // _STREAMS + (n < draws % _STREAMS) for n in range(_STREAMS)]
    if draws * len(rows) <= _SMALL:
        return np.concatenate(list(map(partial(_drawn_sums, rows), seeds, shares)))
    with ThreadPoolExecutor(_THREADS) as pool:
        parts = pool.map(partial(_drawn_sums, rows), seeds, shares)
    return np.concatenate(list(parts))


def _drawn_sums(rows: Array, seed: np.random.SeedSequence, draws: int) -> Array:
    generator = np.random.default_rng(seed)
    n, f = rows.shape
    sums = np.empty((draws, f))
    column = np.ascontiguousarray(rows[:, 0])
    step = max(1, _CHUNK // n)
    for start in range(0, draws, step):
        size = min(step, draws - start)
        drawn = generator.integers(n, size=(size, n))
        if f == 1:
            sums[start : start + size, 0] = np.take(column, drawn).sum(axis=1)
            continue
        drawn += np.arange(size)[:, None] * n
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        sums[start : start + size] = times.astype(np.float64) @ rows
    return sums
