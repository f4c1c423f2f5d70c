"""Contents of charts: lines, points, intervals, reliability, histograms. `svg` draws them.

A value that is None, NaN or infinite is a gap. Every title, label and name is plain text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from salsa_cli.pages.scales import Axis

Number = float | None


@dataclass(frozen=True)
class Rule:
    """A dashed line across the chart at one value of the x or y axis, with a label."""

    axis: Literal["x", "y"]
    value: float
    label: str = ""


@dataclass(frozen=True)
class Line:
    """Values `y` at `x`, joined in order; `low` and `high` draw a band."""

    name: str
    x: Sequence[float]
    y: Sequence[Number]
    low: Sequence[Number] | None = None
    high: Sequence[Number] | None = None

    def __post_init__(self) -> None:
        _same_length(self.name, self.x, self.y, self.low or self.x, self.high or self.x)


@dataclass(frozen=True)
class LineChart:
    """Lines over a common x axis."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line]
    rules: Sequence[Rule] = ()
    note: str = ""


@dataclass(frozen=True)
class Points:
    """One series of points; `labels` are drawn where they fit."""

    name: str
    x: Sequence[Number]
    y: Sequence[Number]
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        _same_length(self.name, self.x, self.y, self.labels or self.x)


@dataclass(frozen=True)
class ScatterChart:
    """Points of one or several kinds."""

    title: str
    x: Axis
    y: Axis
    points: Sequence[Points]
    rules: Sequence[Rule] = ()
    note: str = ""


@dataclass(frozen=True)
class Estimate:
    """One row of an interval chart; rows of one `group` share a colour."""

    label: str
    estimate: float
    low: float
    high: float
    group: str = ""


@dataclass(frozen=True)
class IntervalChart:
    """One dot with whiskers per row; `reference` is the value of no effect."""

    title: str
    x: Axis
    rows: Sequence[Estimate]
    reference: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Bin:
    """A bin of predictions: their mean, the observed share with its interval, and their count."""

    predicted: float
    observed: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class ReliabilityChart:
    """Observed share against predicted probability; a calibrated model lies on the diagonal."""

    title: str
    bins: Sequence[Bin]
    x_label: str = "predicted probability"
    y_label: str = "observed share"
    note: str = ""


@dataclass(frozen=True)
class Sample:
    """Values whose distribution a histogram shows; those that are not finite are left out."""

    name: str
    values: Sequence[Number]


@dataclass(frozen=True)
class Histogram:
    """The shares of one sample or several in common bins."""

    title: str
    x: Axis
    samples: Sequence[Sample]
    rules: Sequence[Rule] = ()
    note: str = ""


@dataclass(frozen=True)
class TriangleChart:
    """Values of mixtures of three things, on a regular grid over a triangle, with levels.

    corners: what stands at the bottom left, the bottom right and the top.
    weights: the shares of the three, one row a point, each summing to 1.
    label: what the values are.
    """

    title: str
    corners: tuple[str, str, str]
    weights: Sequence[Sequence[float]]
    values: Sequence[float]
    label: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        _same_length(self.title, self.weights, self.values)


Chart = LineChart | ScatterChart | IntervalChart | ReliabilityChart | Histogram | TriangleChart


def legend(chart: Chart) -> list[str]:
    """Names of the series, in the order of their colours."""
    match chart:
        case LineChart():
            return [line.name for line in chart.lines]
        case ScatterChart():
            return [points.name for points in chart.points]
        case Histogram():
            return [sample.name for sample in chart.samples]
        case IntervalChart():
            return list(dict.fromkeys(row.group for row in chart.rows))
        case ReliabilityChart() | TriangleChart():
            return []


def _same_length(name: str, first: Sequence[object], *others: Sequence[object]) -> None:
    if any(len(other) != len(first) for other in others):
        lengths = ", ".join(str(len(values)) for values in (first, *others))
        raise ValueError(f"the sequences of {name!r} differ in length: {lengths}")
