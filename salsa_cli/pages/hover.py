"""Values of a chart on hover: strips over its plotting area, each with the values at one place.

The strips need no script: the style sheet shows the text of the one under the pointer. They are
laid out in shares of the plotting area, so one set serves every size in which a chart is drawn.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from salsa_cli.pages import histograms, scales, svg
from salsa_cli.pages.charts import Chart, Histogram, Line, LineChart
from salsa_cli.pages.marks import escaped
from salsa_cli.pages.scales import AxisScale, number

STRIPS = 160
"""Strips of a chart at most: they are about three pixels wide."""


@dataclass(frozen=True)
class Strip:
    """A part of the width of a plotting area, from 0 to 1, and the values that it tells."""

    start: float
    end: float
    text: str


def html(chart: Chart) -> str:
    """The strips of a chart; nothing for one whose points tell their own values."""
    if not isinstance(chart, LineChart | Histogram):
        return ""
    found = list(strips(chart))
    if not found:
        return ""
    widths = " ".join(f"{max(0.01, 1000 * (one.end - one.start)):.4g}fr" for one in found)
    cells = "".join(map(_cell, found))
    room = f"--left: {svg.plot(chart).left:.1f}; grid-template-columns: {widths}"
    return f'<div class="hover" aria-hidden="true" style="{room}">{cells}</div>'


def _cell(strip: Strip) -> str:
    """A strip; what it tells is shown in the other half of the plotting area."""
    late = ' class="late"' if strip.start + strip.end > 1 else ""
    return f'<i{late} data-values="{escaped(strip.text)}"></i>'


def strips(chart: LineChart | Histogram) -> Iterator[Strip]:
    """The strips from left to right; they cover the plotting area without a gap."""
    return _of_bins(chart) if isinstance(chart, Histogram) else _of_lines(chart)


def _of_lines(chart: LineChart) -> Iterator[Strip]:
    """One for each x that a line has, or for several of them where they are many."""
    shown = sorted(
        {
            x
            for line in chart.lines
            for x, y in zip(line.x, line.y, strict=True)
            if chart.x.shows(x) and chart.y.shows(y)
        }
    )
    if not shown:
        return
    width = -(-len(shown) // STRIPS)
    groups = [shown[first : first + width] for first in range(0, len(shown), width)]
    at = AxisScale(*svg.plot(chart).x_ends, 0.0, 1.0, chart.x.kind)
    inner = [(at(a[-1]) + at(b[0])) / 2 for a, b in pairwise(groups)]
    rows = [_rows_by_x(chart, line) for line in chart.lines]
    for group, start, end in zip(groups, [0.0, *inner], [*inner, 1.0], strict=True):
        where = f"{chart.x.label} {_span(group, chart.x.unit)}"
        told = (
            _told(chart, line.name, [values[x] for x in group if x in values])
            for line, values in zip(chart.lines, rows, strict=True)
        )
        yield Strip(start, end, "\n".join([where, *filter(None, told)]))


_Values = tuple[float, float | None, float | None]
"""A value with the ends of its band, if it has one."""


def _rows_by_x(chart: LineChart, line: Line) -> dict[float, _Values]:
    sides = zip(line.x, line.y, line.low or line.y, line.high or line.y, strict=True)
    banded = line.low is not None and line.high is not None
    return {
        x: (y, low if banded else None, high if banded else None)
        for x, y, low, high in sides
        if y is not None and chart.x.shows(x) and chart.y.shows(y)
    }


def _told(chart: LineChart, name: str, values: Sequence[_Values]) -> str:
    """The value of a line with its band, or the lowest and the highest of several."""
    if not values:
        return ""
    start = f"{name}: " if name else ""
    if len(values) > 1:
        return start + _span([y for y, _, _ in values], chart.y.unit)
    y, low, high = values[0]
    band = ""
    if low is not None and high is not None and isfinite(low) and isfinite(high) and low < high:
        band = f"  [{number(low, chart.y.unit)}, {number(high, chart.y.unit)}]"
    return f"{start}{number(y, chart.y.unit)}{band}"


def _of_bins(chart: Histogram) -> Iterator[Strip]:
    counted = histograms.count(chart)
    at = AxisScale(*svg.plot(chart).x_ends, 0.0, 1.0)
    for index, (left, right) in enumerate(pairwise(counted.edges)):
        told = [
            f"{sample.name}: {counts[index]:,} of {sum(counts):,} ({shares[index]:.1%})"
            for sample, counts, shares in zip(
                chart.samples, counted.counts, counted.shares, strict=True
            )
        ]
        where = f"{chart.x.label} {number(left, chart.x.unit)} to {number(right, chart.x.unit)}"
        yield Strip(at(left), at(right), "\n".join([where, *told]))


def _span(values: Sequence[float], unit: scales.Unit) -> str:
    """One value, or the lowest and the highest of several."""
    low, high = (number(end, unit) for end in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"
