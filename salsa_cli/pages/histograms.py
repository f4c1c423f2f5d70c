"""Bins of a histogram: their edges and the share of each sample in them."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, isfinite

from salsa_cli.pages import scales
from salsa_cli.pages.charts import Histogram, Number

MOST = 40
"""Bins that a histogram has at most: more are too thin for a narrow screen."""


@dataclass(frozen=True)
class Counts:
    """Shares and counts of each sample in the bins between neighbouring edges.

    A bin holds the values from its left edge up to, but not including, its right one; the last bin
    includes both.
    """

    edges: tuple[float, ...]
    shares: tuple[tuple[float, ...], ...]
    counts: tuple[tuple[int, ...], ...]


def count(chart: Histogram) -> Counts:
    """The bins of a histogram: round numbers, as many as the smallest sample can fill.

    The number of bins is at most twice the square root of the size of the smallest sample,
    and at most `MOST`.
    """
    samples = [[v for v in one.values if v is not None and isfinite(v)] for one in chart.samples]
    every = [value for sample in samples for value in sample]
    low, high = scales.fit(chart.x, every)
    smallest = min((len(sample) for sample in samples if sample), default=1)
    step = scales.step(low, high, chart.x.unit, min(MOST, ceil(2 * smallest**0.5)))
    first, last = scales.outer(low, high, step)
    edges = tuple(index * step for index in range(first, last + 1))
    counts = tuple(_counts(sample, edges) for sample in samples)
    return Counts(edges, tuple(tuple(n / max(1, sum(one)) for n in one) for one in counts), counts)


def _counts(values: Sequence[Number], edges: Sequence[float]) -> tuple[int, ...]:
    found = [0] * (len(edges) - 1)
    for value in values:
        assert value is not None
        found[min(max(0, bisect_right(edges, value) - 1), len(found) - 1)] += 1
    return tuple(found)
