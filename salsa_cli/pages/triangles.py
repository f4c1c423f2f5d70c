"""Levels over a triangle: the geometry and the drawing of a `TriangleChart`.

Between the points of the grid, values are interpolated linearly. The area above each level is one
path, so that neighbouring cells leave no seam; areas of higher levels lie on those of lower ones
and are darker for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

from salsa_cli.pages import marks, scales
from salsa_cli.pages.charts import TriangleChart
from salsa_cli.pages.marks import Place
from salsa_cli.pages.scales import Axis, AxisScale

Vertex = tuple[Place, float]

_LEFT, _TOP, _UNDER = 24.0, 30.0, 44.0
_BESIDE, _BAR_WIDTH = 120.0, 14.0
"""Room next to the triangle, where the scale of colours is."""

_LABELLED = 21
"""Grids of at most so many points have their values written next to the points."""


@dataclass(frozen=True)
class Triangle:
    """A triangle in a drawing of some width."""

    width: float

    @property
    def side(self) -> float:
        """The length of its sides."""
        return self.width - _BESIDE

    @property
    def floor(self) -> float:
        """Where its lower side is."""
        return _TOP + self.side * sqrt(3) / 2

    def at(self, weights: Sequence[float]) -> Place:
        """Where a mixture lies: the corners are bottom left, bottom right and top."""
        _, right, top = weights
        height = self.side * sqrt(3) / 2
        return _LEFT + self.side * (right + top / 2), self.floor - height * top


def height(width: float) -> float:
    """The height of a drawing of some width."""
    return Triangle(width).floor + _UNDER


def cells(weights: Sequence[Sequence[float]]) -> list[tuple[int, int, int]]:
    """The small triangles of a regular grid, as indices of its points.

    A grid with s steps on each edge has (s + 1)(s + 2) / 2 points and s * s triangles; those with a
    missing point are left out.
    """
    steps = round((sqrt(8 * len(weights) + 1) - 3) / 2)
    at = {(round(w[1] * steps), round(w[2] * steps)): n for n, w in enumerate(weights)}
    found = []
    for j in range(steps):
        for k in range(steps - j):
            found.append(((j, k), (j + 1, k), (j, k + 1)))
            if j + k + 2 <= steps:
                found.append(((j + 1, k + 1), (j + 1, k), (j, k + 1)))
    return [(at[a], at[b], at[c]) for a, b, c in found if {a, b, c} <= at.keys()]


def above(corners: Sequence[Vertex], level: float) -> list[Place]:
    """The part of a cell whose interpolated value is at least `level`, as a polygon."""
    polygon: list[Place] = []
    for (start, low), (end, high) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if low >= level:
            polygon.append(start)
        if (low >= level) != (high >= level):
            polygon.append(_between(start, end, (level - low) / (high - low)))
    return polygon


def body(chart: TriangleChart, width: float) -> Iterator[str]:
    """The parts of the drawing, from the ground upwards."""
    triangle = Triangle(width)
    known = [value for value in chart.values if isfinite(value)]
    axis = Axis(chart.label)
    ends = scales.fit(axis, known)
    ticks = scales.ticks(axis, ends)
    levels = [ends[0], *(tick for tick in ticks if ends[0] < tick < ends[1])]
    yield marks.group(0, "".join(_area(chart, triangle, level) for level in levels))
    outline = [triangle.at(corner) for corner in ((1, 0, 0), (0, 1, 0), (0, 0, 1))]
    yield f'<path class="edge" d="{marks.path(outline)}Z"/>'
    yield marks.group(0, _points(chart, triangle))
    yield _names(chart, triangle)
    yield _colour_bar(triangle, axis, ends, ticks, levels)


def _between(start: Place, end: Place, share: float) -> Place:
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _area(chart: TriangleChart, triangle: Triangle, level: float) -> str:
    parts = []
    for cell in cells(chart.weights):
        corners = [(triangle.at(chart.weights[n]), chart.values[n]) for n in cell]
        if all(isfinite(value) for _, value in corners):
            polygon = above(corners, level)
            parts += [f"{marks.path(polygon)}Z"] if len(polygon) > 2 else []
    return f'<path class="level" d="{"".join(parts)}"/>' if parts else ""


def _points(chart: TriangleChart, triangle: Triangle) -> str:
    shown = [n for n, value in enumerate(chart.values) if isfinite(value)]
    best = max(shown, key=lambda n: chart.values[n], default=None)
    drawn = ""
    for n in shown:
        at, value = triangle.at(chart.weights[n]), scales.number(chart.values[n])
        shares = " / ".join(f"{weight:.2f}" for weight in chart.weights[n])
        if n == best:
            drawn += f'<circle class="best" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="8"/>'
        drawn += marks.sign(0, at, f"{shares}: {value}")
        if len(chart.values) <= _LABELLED or n == best:
            drawn += marks.word(value, (at[0], at[1] - 11), "middle", "strong")
    return drawn


def _names(chart: TriangleChart, triangle: Triangle) -> str:
    left, right, top = chart.corners
    room, peak, low = triangle.side / 2 - 8, triangle.at((0, 0, 1)), triangle.floor + 24
    return (
        marks.word(marks.shorten(left, room), (_LEFT - 8, low), "start", "strong")
        + marks.word(marks.shorten(right, room), (_LEFT + triangle.side + 8, low), "end", "strong")
        + marks.word(marks.shorten(top, room), (peak[0] + 14, peak[1] + 4), "start", "strong")
    )


def _colour_bar(
    triangle: Triangle,
    axis: Axis,
    ends: tuple[float, float],
    ticks: Sequence[float],
    levels: Sequence[float],
) -> str:
    scale = AxisScale(*ends, triangle.floor, triangle.floor - triangle.side / 2)
    left = triangle.width - 64.0
    bars = "".join(
        f'<rect class="level" x="{left:.1f}" y="{scale.end:.1f}" width="{_BAR_WIDTH}" '
        f'height="{scale(level) - scale.end:.1f}"/>'
        for level in levels
    )
    words = "".join(
        marks.word(name, (left + _BAR_WIDTH + 6, scale(tick) + 4), "start")
        for tick, name in zip(ticks, scales.labels(axis, tuple(ticks)), strict=True)
    )
    label = marks.word(axis.label, (triangle.width - 4, scale.end - 14), "end", "label")
    return marks.group(0, bars) + words + label
