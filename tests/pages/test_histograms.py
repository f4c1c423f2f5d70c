"""Bins of histograms, by hand and by numpy."""

import numpy as np
import pytest

from salsa_cli.pages import histograms, svg
from salsa_cli.pages.charts import Histogram, Sample, legend
from salsa_cli.pages.scales import Axis
from tests.support.svg_tree import classes, drawn, places


def histogram(*samples: Sample, axis: Axis | None = None) -> Histogram:
    return Histogram("t", axis or Axis("reward"), samples)


def test_two_samples_share_their_bins() -> None:
    # The smaller sample has 8 values: at most 4 bins of a round width over 0..8.
    found = histograms.count(
        histogram(Sample("a", [0, 0, 1, 2, 3, 5, 7, 8]), Sample("b", [2, 4, 6, 6, 7, 8, 8, 8]))
    )
    assert found.edges == (0, 2, 4, 6, 8)
    assert found.counts == ((3, 2, 1, 2), (0, 1, 1, 6))
    assert found.shares == ((3 / 8, 2 / 8, 1 / 8, 2 / 8), (0, 1 / 8, 1 / 8, 6 / 8))


def test_every_value_is_in_one_bin_as_numpy_counts() -> None:
    values = np.random.default_rng(0).normal(size=5000)
    found = histograms.count(histogram(Sample("a", values.tolist())))
    expected, _ = np.histogram(values, bins=np.array(found.edges))
    assert list(found.counts[0]) == expected.tolist() and sum(found.counts[0]) == 5000
    assert 10 <= len(found.counts[0]) <= histograms.MOST


@pytest.mark.parametrize("values", [[], [None], [float("nan"), 2.0], [3.0] * 9, [1e-9, 1e9]])
def test_odd_samples_have_bins(values: list[float | None]) -> None:
    finite = [v for v in values if v is not None and v == v]
    found = histograms.count(histogram(Sample("a", values)))
    assert sum(found.counts[0]) == len(finite)
    drawn(histogram(Sample("a", values), Sample("b", [])))


def test_the_outline_of_each_sample_is_drawn() -> None:
    chart = histogram(Sample("a", [0.0] * 8 + [8.0] * 8), Sample("b", [4.0] * 16))
    assert legend(chart) == ["a", "b"]
    root = drawn(chart)
    first, second = (places(path) for path in classes(root, "line"))
    floor = svg.MEDIUM.height - svg.BOTTOM
    assert first[0][1] == first[-1][1] == floor
    # Half of the first sample and all of the second are in one bin.
    top = [min(y for _, y in outline) for outline in (first, second)]
    assert floor - top[1] == pytest.approx(2 * (floor - top[0]), abs=0.2)
    assert len(classes(root, "band")) == 2
