"""Charts drawn as inline SVG.

Colours are CSS classes (`s0` to `s6`) that the page defines for light and dark, so one drawing
serves both. Series differ by colour and by sign, and by dashes once the colours repeat.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite

from salsa_cli.pages import histograms, marks, scales, triangles
from salsa_cli.pages.charts import (
    Chart,
    Estimate,
    Histogram,
    IntervalChart,
    Line,
    LineChart,
    Number,
    ReliabilityChart,
    Rule,
    ScatterChart,
    TriangleChart,
    legend,
)
from salsa_cli.pages.marks import CHARACTER, Place, escaped
from salsa_cli.pages.scales import Axis, AxisScale

DENSITY = 0.7
"""Points of a line per pixel of the width; more would not be seen."""


@dataclass(frozen=True)
class Size:
    """The size of a drawing in its own pixels; text is 12 of them high.

    The page shows the drawing that fits the width that there is (`styles`), so that text is legible
    on a telephone and a wide window is used.
    """

    name: str
    width: float
    height: float


NARROW = Size("narrow", 360.0, 260.0)
MEDIUM = Size("medium", 520.0, 290.0)
BROAD = Size("broad", 740.0, 320.0)
WIDE = Size("wide", 1000.0, 360.0)
FULL = Size("full", 1400.0, 400.0)

TOP, BOTTOM, RIGHT = 26.0, 40.0, 18.0
"""Room around the plotting area of a chart with two axes; `Plot.left` is to its left."""

_FEW_ROWS, _LEAST_ROOM = 8, 260.0
_DOTTED = 40
"""A line of fewer points shows each of them."""


def draw(chart: Chart, size: Size = MEDIUM) -> str:
    """The chart as one `<svg>` element."""
    match chart:
        case LineChart():
            return _line_chart(chart, size)
        case ScatterChart():
            return _scatter_chart(chart, size)
        case IntervalChart():
            return (_interval_rows if _fits_rows(chart, size) else _interval_chart)(chart, size)
        case ReliabilityChart():
            return _reliability_chart(chart, size)
        case Histogram():
            return _histogram(chart, size)
        case TriangleChart():
            height = triangles.height(size.width)
            return _picture(chart.title, size, height, triangles.body(chart, size.width))


def sizes(chart: Chart, *, alone: bool = True) -> tuple[Size, ...]:
    """The sizes in which a chart is drawn; the page shows the one that fits.

    Squares stay small; only a chart that stands alone may take the whole width of a window.
    """
    if isinstance(chart, ReliabilityChart | TriangleChart):
        return NARROW, MEDIUM
    return (NARROW, MEDIUM, BROAD, WIDE, FULL) if alone else (NARROW, MEDIUM, BROAD, WIDE)


def thin(points: Sequence[Place], most: int) -> Sequence[Place]:
    """About `most` of the points: the lowest and the highest of each stretch, so that no spike
    is lost."""
    if len(points) <= most:
        return points
    size = -(-len(points) * 2 // most)
    kept = {0, len(points) - 1}
    for first in range(0, len(points), size):
        stretch = range(first, min(first + size, len(points)))
        kept |= {f(stretch, key=lambda i: points[i][1]) for f in (min, max)}
    return [points[i] for i in sorted(kept)]


@dataclass(frozen=True)
class Plot:
    """The plotting area of a chart with two axes: the ends of the axes and the room to its left.

    `left` is in pixels and the same in every size of a drawing.
    """

    x_ends: tuple[float, float]
    y_ends: tuple[float, float]
    left: float


def plot(chart: LineChart | Histogram) -> Plot:
    """The plotting area of a chart whose x axis ends with its data."""
    if isinstance(chart, Histogram):
        counted = histograms.count(chart)
        edges, heights = counted.edges, [share for one in counted.shares for share in one]
        return _plot(chart.x, _SHARE, edges, heights, chart.rules, round_x=False)
    xs = [x for line in chart.lines for x in line.x]
    ys = [y for line in chart.lines for side in (line.y, line.low, line.high) for y in side or ()]
    return _plot(chart.x, chart.y, xs, ys, chart.rules, round_x=False)


_SHARE = Axis("share of the answers", unit="percent", low=0.0)


@dataclass(frozen=True)
class _Frame:
    """The plotting area: two scales and the marks of its axes."""

    x: AxisScale
    y: AxisScale
    axes: str

    def at(self, x: float, y: float) -> Place:
        return self.x(x), self.y(y)


def _line_chart(chart: LineChart, size: Size) -> str:
    frame = _frame(chart.x, chart.y, plot(chart), size)
    most = int(DENSITY * size.width)
    series = [
        marks.group(index, _band(chart, frame, line) + _curve(chart, frame, index, line, most))
        for index, line in enumerate(chart.lines)
    ]
    lines, words = _rules(frame, chart.rules)
    return _picture(chart.title, size, size.height, [frame.axes, lines, *series, words])


def _curve(chart: LineChart, frame: _Frame, index: int, line: Line, most: int) -> str:
    drawn = ""
    shown = [chart.x.shows(x) and chart.y.shows(y) for x, y in zip(line.x, line.y, strict=True)]
    for run in _runs(shown):
        points = thin([(line.x[i], y) for i in run if (y := line.y[i]) is not None], most)
        if len(points) > 1:
            drawn += f'<path class="line" d="{marks.path(frame.at(*point) for point in points)}"/>'
        if len(points) == 1 or len(line.x) <= _DOTTED:
            drawn += "".join(marks.sign(index, frame.at(*point)) for point in points)
    return drawn


def _band(chart: LineChart, frame: _Frame, line: Line) -> str:
    if line.low is None or line.high is None:
        return ""
    sides = list(zip(line.x, line.low, line.high, strict=True))
    shown = [chart.x.shows(x) and chart.y.shows(a) and chart.y.shows(b) for x, a, b in sides]
    drawn = ""
    for run in _runs(shown):
        under = [frame.at(sides[i][0], a) for i in run if (a := sides[i][1]) is not None]
        over = [frame.at(sides[i][0], b) for i in run if (b := sides[i][2]) is not None]
        drawn += f'<path class="band" d="{marks.path([*under, *reversed(over)])}Z"/>'
    return drawn


def _scatter_chart(chart: ScatterChart, size: Size) -> str:
    xs = [x for points in chart.points for x in points.x]
    ys = [y for points in chart.points for y in points.y]
    frame = _frame(chart.x, chart.y, _plot(chart.x, chart.y, xs, ys, chart.rules), size)
    series, words = [], _Words(frame)
    for index, points in enumerate(chart.points):
        body = ""
        names = points.labels or [""] * len(points.x)
        for x, y, name in zip(points.x, points.y, names, strict=True):
            if x is None or y is None or not (chart.x.shows(x) and chart.y.shows(y)):
                continue
            tip = _tooltip(chart.x, chart.y, name or points.name, x, y)
            body += marks.sign(index, frame.at(x, y), tip)
            words.want(name, frame.at(x, y))
        series.append(marks.group(index, body))
    lines, named = _rules(frame, chart.rules)
    parts = [frame.axes, lines, *series, words.drawn(), named]
    return _picture(chart.title, size, size.height, parts)


def _interval_chart(chart: IntervalChart, size: Size) -> str:
    height, head, left, right = 42.0, 8.0, 14.0, size.width - RIGHT
    values = [v for row in chart.rows for v in (row.estimate, row.low, row.high)]
    x = AxisScale(
        *scales.widen(chart.x, scales.fit(chart.x, [*values, chart.reference])),
        left,
        right,
        chart.x.kind,
    )
    bottom = head + height * len(chart.rows)
    parts = [_x_marks(chart.x, x, head, bottom)]
    groups = legend(chart)
    for index, row in enumerate(chart.rows):
        top, colour = head + height * index, groups.index(row.group)
        figures = _figures(row, chart.x)
        label = marks.shorten(row.label, right - left - CHARACTER * (len(figures) + 2))
        if chart.reference is not None:  # only next to the whiskers, so that it crosses no text
            at = x(chart.reference)
            parts.append(marks.stroke("rule", (at, top + 20), (at, top + 40)))
        reach = marks.stroke("reach", (x(row.low), top + 30), (x(row.high), top + 30))
        dot = marks.sign(colour, (x(row.estimate), top + 30), f"{row.label}: {figures}")
        parts += [
            marks.word(label, (left, top + 15), "start", "strong"),
            marks.word(figures, (right, top + 15), "end"),
            marks.group(colour, reach + dot),
        ]
    return _picture(chart.title, size, bottom + BOTTOM, parts)


def _fits_rows(chart: IntervalChart, size: Size) -> bool:
    """Whether names and figures leave room for whiskers between them."""
    if size == NARROW or (size == MEDIUM and len(chart.rows) < _FEW_ROWS):
        return False
    names = max((marks.width(row.label) for row in chart.rows), default=0.0)
    figures = max((marks.width(_figures(row, chart.x)) for row in chart.rows), default=0.0)
    return size in (WIDE, FULL) or size.width - names - figures >= _LEAST_ROOM


def _interval_rows(chart: IntervalChart, size: Size) -> str:
    """One line a row: its name, its whiskers, its figures."""
    height, head = 26.0, 8.0
    values = [v for row in chart.rows for v in (row.estimate, row.low, row.high)]
    figures = [_figures(row, chart.x) for row in chart.rows]
    names = [marks.shorten(row.label, size.width * 0.3) for row in chart.rows]
    left = 34.0 + max(map(marks.width, names), default=0.0)
    right = size.width - 34.0 - max(map(marks.width, figures), default=0.0)
    ends = scales.widen(chart.x, scales.fit(chart.x, [*values, chart.reference]))
    x = AxisScale(*ends, left, right, chart.x.kind)
    bottom = head + height * len(chart.rows)
    parts = [_x_marks(chart.x, x, head, bottom)]
    if chart.reference is not None:
        at = x(chart.reference)
        parts.append(marks.stroke("rule", (at, head), (at, bottom)))
    groups = legend(chart)
    for index, row in enumerate(chart.rows):
        y, colour = head + height * (index + 0.5), groups.index(row.group)
        dot = marks.sign(colour, (x(row.estimate), y), f"{row.label}: {figures[index]}")
        parts += [
            marks.word(names[index], (14.0, y + 4), "start", "strong"),
            marks.word(figures[index], (size.width - 14.0, y + 4), "end"),
            marks.group(colour, marks.stroke("reach", (x(row.low), y), (x(row.high), y)) + dot),
        ]
    return _picture(chart.title, size, bottom + BOTTOM, parts)


def _figures(row: Estimate, axis: Axis) -> str:
    # A difference of equal means can be a rounding error of float64 next to 0.
    least = 1e-12 * max(abs(row.low), abs(row.high))
    estimate, low, high = (
        scales.number(0.0 if abs(value) < least else value, axis.unit)
        for value in (row.estimate, row.low, row.high)
    )
    return f"{estimate}  [{low}, {high}]"


def _reliability_chart(chart: ReliabilityChart, size: Size) -> str:
    x, y = (Axis(label, low=0.0, high=1.0) for label in (chart.x_label, chart.y_label))
    frame = _frame(x, y, _plot(x, y, [], [], ()), size)
    diagonal = marks.stroke("rule", frame.at(0, 0), frame.at(1, 1))
    most = max((found.count for found in chart.bins), default=0) or 1
    body = ""
    for found in chart.bins:
        place = frame.at(found.predicted, found.observed)
        tip = f"{found.count:,} predicted {found.predicted:.2f}, {found.observed:.2f} observed"
        floor = frame.y.start
        body += (
            marks.bar("faint", place[0] - 5, floor - 44.0 * found.count / most, 10, floor, tip)
            + marks.stroke(
                "whisker", (place[0], frame.y(found.low)), (place[0], frame.y(found.high))
            )
            + marks.sign(0, place, tip)
        )
    return _picture(chart.title, size, size.height, [frame.axes, diagonal, marks.group(0, body)])


def _histogram(chart: Histogram, size: Size) -> str:
    """The outline of each series over common bins, filled so that both are seen."""
    counted = histograms.count(chart)
    frame = _frame(chart.x, _SHARE, plot(chart), size)
    lines, words = _rules(frame, chart.rules)
    series = []
    for index, shares in enumerate(counted.shares):
        outline = [frame.at(counted.edges[0], 0.0)]
        for left, right, share in zip(counted.edges, counted.edges[1:], shares, strict=False):
            outline += [frame.at(left, share), frame.at(right, share)]
        outline.append(frame.at(counted.edges[-1], 0.0))
        drawn = marks.path(outline)
        body = f'<path class="band" d="{drawn}Z"/><path class="line" d="{drawn}"/>'
        series.append(marks.group(index, body))
    return _picture(chart.title, size, size.height, [frame.axes, lines, *series, words])


def _plot(
    x_axis: Axis,
    y_axis: Axis,
    xs: Iterable[Number],
    ys: Iterable[Number],
    rules: Sequence[Rule],
    *,
    round_x: bool = True,
) -> Plot:
    """Ends that hold all values and rules."""
    x_ends = scales.fit(x_axis, [*xs, *(rule.value for rule in rules if rule.axis == "x")])
    y_ends = scales.fit(y_axis, [*ys, *(rule.value for rule in rules if rule.axis == "y")])
    y_ends = scales.widen(y_axis, y_ends)
    if round_x:
        x_ends = scales.widen(x_axis, x_ends)
    names = scales.labels(y_axis, scales.ticks(y_axis, y_ends))
    return Plot(x_ends, y_ends, 14.0 + CHARACTER * max(map(len, names)))


def _frame(x_axis: Axis, y_axis: Axis, plot: Plot, size: Size) -> _Frame:
    """Scales in pixels, and the marks of the axes."""
    ticks = scales.ticks(y_axis, plot.y_ends)
    names = scales.labels(y_axis, ticks)
    x = AxisScale(*plot.x_ends, plot.left, size.width - RIGHT, x_axis.kind)
    y = AxisScale(*plot.y_ends, size.height - BOTTOM, TOP, y_axis.kind)
    drawn = "".join(
        marks.stroke("grid", (x.start, y(tick)), (x.end, y(tick)))
        + marks.word(name, (x.start - 7, y(tick) + 4), "end")
        for tick, name in zip(ticks, names, strict=True)
    )
    drawn += marks.word(y_axis.label, (2, 13), "start", "label")
    return _Frame(x, y, drawn + (_x_marks(x_axis, x, TOP, y.start) if x_axis.label else ""))


def _x_marks(axis: Axis, x: AxisScale, top: float, bottom: float) -> str:
    ticks = scales.ticks(axis, (x.low, x.high))
    drawn = "".join(
        marks.stroke("grid", (x(tick), top), (x(tick), bottom))
        + marks.word(name, (x(tick), bottom + 17), "middle")
        for tick, name in zip(ticks, scales.labels(axis, ticks), strict=True)
    )
    return drawn + marks.word(axis.label, (x.end, bottom + 34), "end", "label")


def _rules(frame: _Frame, rules: Sequence[Rule]) -> tuple[str, str]:
    """The lines of the rules, to lie under the data, and their words, to lie above it."""
    lines, words, row = "", "", 0
    for rule in rules:
        if not isfinite(rule.value):
            continue
        if rule.axis == "y":
            at = frame.y(rule.value)
            lines += marks.stroke("rule", (frame.x.start, at), (frame.x.end, at))
            words += marks.word(rule.label, (frame.x.end - 3, at - 5), "end", "label")
        else:
            at = frame.x(rule.value)
            lines += marks.stroke("rule", (at, frame.y.start), (at, frame.y.end))
            late = at > (frame.x.start + frame.x.end) / 2
            place = (at - 5 if late else at + 5, TOP + 11 + 14 * row)
            words += marks.word(rule.label, place, "end" if late else "start", "label")
            row += 1
    return lines, words


@dataclass
class _Words:
    """Labels of points, placed where they cover neither a point nor an earlier label."""

    frame: _Frame
    points: list[Place] = field(default_factory=list)
    wanted: list[tuple[str, Place]] = field(default_factory=list)

    def want(self, name: str, place: Place) -> None:
        self.points.append(place)
        if name:
            self.wanted.append((name, place))

    def drawn(self) -> str:
        taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in self.points]
        drawn = ""
        for name, (x, y) in self.wanted:
            word = marks.shorten(name, 200)
            width = marks.width(word)
            for left, base in (
                (x + 8, y + 4),
                (x - 8 - width, y + 4),
                (x - width / 2, y - 9),
                (x - width / 2, y + 18),
            ):
                box = (left, base - 10, left + width, base + 3)
                inside = self.frame.x.start <= left and left + width <= self.frame.x.end + RIGHT
                if inside and not any(_overlap(box, other) for other in taken):
                    taken.append(box)
                    drawn += marks.word(word, (left, base), "start")
                    break
        return drawn


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _runs(shown: Sequence[bool]) -> list[list[int]]:
    """Indices of the stretches between gaps."""
    runs: list[list[int]] = [[]]
    for index, visible in enumerate(shown):
        if visible:
            runs[-1].append(index)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _tooltip(x_axis: Axis, y_axis: Axis, name: str, x: float, y: float) -> str:
    figures = f"{scales.number(y, y_axis.unit)} at {scales.number(x, x_axis.unit)}"
    return f"{name}: {figures}" if name else figures


def _picture(title: str, size: Size, height: float, parts: Iterable[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {size.width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escaped(title)}">{"".join(parts)}</svg>'
    )
