"""Contents of charts: sequences of one length, and the names of their series."""

import pytest

from salsa_cli.pages.charts import (
    Bin,
    Estimate,
    IntervalChart,
    Line,
    LineChart,
    Points,
    ReliabilityChart,
    ScatterChart,
    legend,
)
from salsa_cli.pages.scales import Axis

X, Y = Axis("x"), Axis("y")


def test_sequences_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="'loss' differ in length: 2, 3"):
        Line("loss", [1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="differ in length"):
        Line("loss", [1, 2], [1, 2], [1], [1, 2])
    with pytest.raises(ValueError, match="differ in length"):
        Points("p", [1], [1], ["a", "b"])


def test_the_legend_names_each_series_once_in_its_order() -> None:
    lines = LineChart("t", X, Y, (Line("b", [1], [1]), Line("a", [1], [2])))
    assert legend(lines) == ["b", "a"]
    assert legend(ScatterChart("t", X, Y, (Points("p", [1], [None]),))) == ["p"]
    rows = [Estimate(str(n), 0.5, 0.4, 0.6, group) for n, group in enumerate("kjk")]
    assert legend(IntervalChart("t", X, rows)) == ["k", "j"]
    assert legend(ReliabilityChart("t", (Bin(0.5, 0.4, 0.3, 0.6, 7),))) == []
