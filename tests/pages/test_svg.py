"""Charts: what is drawn, and where."""

from math import exp, inf, nan
from xml.etree import ElementTree

import pytest

from salsa_cli.pages import marks, svg
from salsa_cli.pages.charts import (
    Bin,
    Estimate,
    IntervalChart,
    Line,
    LineChart,
    Points,
    ReliabilityChart,
    Rule,
    ScatterChart,
    legend,
)
from salsa_cli.pages.scales import Axis
from tests.support.svg_tree import classes, drawn, places

HOSTILE = "<script>alert(\"&')</script>\x00\ud800"


def texts(root: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in root.iter() if element.tag == "text"]


def line_chart(line: Line, *rules: Rule, y: Axis | None = None) -> LineChart:
    return LineChart("t", Axis("update"), y or Axis("value"), (line,), rules)


def test_a_line_goes_through_its_points() -> None:
    # The y axis is widened from 0..9 to 0..10; its labels are two characters wide.
    root = drawn(line_chart(Line("a", [0.0, 1.0, 4.0], [0.0, 5.0, 9.0])))
    left, right = 14 + 2 * marks.CHARACTER, svg.MEDIUM.width - 18
    bottom, top = svg.MEDIUM.height - 40, 26.0
    (path,) = classes(root, "line")
    expected = [
        (left, bottom),
        (left + (right - left) / 4, (bottom + top) / 2),
        (right, bottom + (top - bottom) * 0.9),
    ]
    for found, place in zip(places(path), expected, strict=True):
        assert found == pytest.approx(place, abs=0.06)  # drawn to a tenth of a pixel
    assert len(classes(root, "dot")) == 3


def test_missing_values_are_gaps_and_a_lonely_point_is_a_dot() -> None:
    values = [1.0, 2.0, None, 3.0, nan, 4.0, inf, 5.0, 6.0]
    root = drawn(line_chart(Line("a", list(range(9)), values)))
    assert [len(places(path)) for path in classes(root, "line")] == [2, 2]
    many = [1.0, None, *([2.0] * 60)]
    root = drawn(line_chart(Line("a", list(range(62)), many)))
    assert len(classes(root, "dot")) == 1


def test_a_logarithmic_axis_leaves_out_what_is_not_positive() -> None:
    root = drawn(line_chart(Line("a", [1, 2, 3, 4], [1, 0, 10, 100]), y=Axis(kind="log")))
    (path,) = classes(root, "line")
    assert len(places(path)) == 2
    assert {"1", "10", "100"} <= set(texts(root))


def test_a_band_goes_along_one_side_and_back_on_the_other() -> None:
    root = drawn(line_chart(Line("a", [0, 1, 2], [1, 1, 1], [0, 0, None], [2, 2, 2])))
    (band,) = classes(root, "band")
    corners = places(band)
    assert len(corners) == 4
    assert corners[0][0] == corners[3][0] and corners[1][0] == corners[2][0]
    assert corners[0][1] == corners[1][1] > corners[2][1] == corners[3][1]


def test_a_long_line_keeps_its_spikes() -> None:
    points = [(float(i), 0.0) for i in range(100_000)]
    points[54_321] = (54_321.0, 9.0)
    points[76_543] = (76_543.0, -9.0)
    kept = svg.thin(points, 800)
    assert len(kept) <= 802
    assert {points[0], points[54_321], points[76_543], points[-1]} <= set(kept)
    assert list(kept) == sorted(kept)
    assert svg.thin(points[:10], 10) == points[:10]


def test_rules_stand_inside_the_chart_with_their_words() -> None:
    line = Line("a", [0, 10], [0, 1])
    root = drawn(line_chart(line, Rule("y", 5.0, "start"), Rule("x", 4.0, "collapse")))
    assert len(classes(root, "rule")) == 2
    assert {"start", "collapse", "4"} <= set(texts(root))  # the y axis reaches the rule at 5


def test_scattered_labels_do_not_cover_one_another() -> None:
    chart = ScatterChart(
        "t",
        Axis("x", low=0),
        Axis("y"),
        (Points("p", [3, 3, 6, None], [1, 1, 2, 3], ["one", "other", "far", "gone"]),),
    )
    root = drawn(chart)
    words = {e.text: e for e in root.iter() if e.text in ("one", "other", "far", "gone")}
    assert {"one", "other", "far"} == set(words)
    assert words["one"].get("x") != words["other"].get("x")
    assert len(classes(root, "dot")) == 3


def test_whiskers_reach_from_low_to_high() -> None:
    chart = IntervalChart(
        "t",
        Axis("rate", unit="percent", low=0, high=1),
        (Estimate("a", 0.5, 0.25, 0.75, "j"), Estimate("b", 1.0, 1.0, 1.0, "k")),
        reference=0.5,
    )
    root = drawn(chart)
    left, right = 14.0, svg.MEDIUM.width - 18
    reach = [places(path) for path in classes(root, "reach")]
    assert [x for x, _ in reach[0]] == pytest.approx(
        [left + (right - left) * share for share in (0.25, 0.75)], abs=0.06
    )
    reference, _ = classes(root, "rule")  # one a row, beside its whiskers
    assert places(reference)[0][0] == pytest.approx((left + right) / 2, abs=0.06)
    assert "50.0%  [25.0%, 75.0%]" in texts(root)
    assert legend(chart) == ["j", "k"]
    assert len(classes(root, "s0")) == len(classes(root, "s1")) == 1


def test_a_calibrated_model_lies_on_the_diagonal() -> None:
    bins = (Bin(0.25, 0.25, 0.1, 0.4, 10), Bin(0.75, 0.75, 0.6, 0.9, 40))
    root = drawn(ReliabilityChart("t", bins))
    (start, end) = places(classes(root, "rule")[0])
    for dot, share in zip(classes(root, "dot"), (0.25, 0.75), strict=True):
        x, y = places(dot)[0]
        assert x + 3.5 == pytest.approx(start[0] + share * (end[0] - start[0]), abs=0.11)
        assert y == pytest.approx(start[1] + share * (end[1] - start[1]), abs=0.11)
    first, second = (float(bar.get("height", "")) for bar in classes(root, "faint"))
    assert second == pytest.approx(4 * first, abs=0.1)


def test_nothing_to_show_is_an_empty_chart() -> None:
    for chart in (
        LineChart("t", Axis("x"), Axis("y"), ()),
        line_chart(Line("a", [1, 2], [None, nan])),
        ScatterChart("t", Axis("x"), Axis("y"), ()),
        IntervalChart("t", Axis("x"), ()),
        ReliabilityChart("t", ()),
    ):
        drawn(chart)


def test_extreme_numbers_are_drawn() -> None:
    for values in ([1e-300, 2e-300], [1e300, -1e300], [5.0, 5.0], [1e9, 1e9 + 1], [exp(-700), 1]):
        drawn(line_chart(Line("a", [1, 2], values)))


def test_every_word_is_escaped() -> None:
    axis = Axis(HOSTILE)
    for chart in (
        LineChart(HOSTILE, axis, axis, (Line(HOSTILE, [1], [2]),), (Rule("x", 1, HOSTILE),)),
        ScatterChart(HOSTILE, axis, axis, (Points(HOSTILE, [1], [2], [HOSTILE]),)),
        IntervalChart(HOSTILE, axis, (Estimate(HOSTILE, 1, 0, 2, HOSTILE),)),
        ReliabilityChart(HOSTILE, (Bin(0.5, 0.5, 0, 1, 3),), HOSTILE, HOSTILE),
    ):
        root = drawn(chart)
        assert not list(root.iter("script"))
        svg.draw(chart).encode("utf-8")


def interval_chart(count: int, label: str = "m") -> IntervalChart:
    rows = [Estimate(f"{label}{n}", n / 10, n / 10 - 0.1, n / 10 + 0.1) for n in range(count)]
    return IntervalChart("t", Axis("score"), rows, reference=0.2)


def test_a_rounding_error_next_to_zero_is_told_as_zero() -> None:
    row = Estimate("m", -7e-17, -0.25, 0.25)
    drawn = svg.draw(IntervalChart("t", Axis("difference"), (row,)), svg.FULL)
    assert "0  [\N{MINUS SIGN}0.250, 0.250]" in drawn
    assert "\N{MULTIPLICATION SIGN}10" not in drawn


def test_many_intervals_take_a_line_each_where_there_is_room() -> None:
    def heights(chart: IntervalChart) -> list[float]:
        return [
            float(ElementTree.fromstring(svg.draw(chart, size)).get("viewBox", "").split()[3])
            for size in (svg.NARROW, svg.MEDIUM, svg.WIDE)
        ]

    stacked, in_lines = 8 + 42 * 10 + 40, 8 + 26 * 10 + 40
    assert heights(interval_chart(10)) == [stacked, in_lines, in_lines]
    assert heights(interval_chart(10, "a model with a very long name ")) == [
        *(stacked, stacked, in_lines)
    ]
    assert heights(interval_chart(7))[1] == 8 + 42 * 7 + 40


@pytest.mark.parametrize(
    "size", [svg.NARROW, svg.MEDIUM, svg.BROAD, svg.WIDE, svg.FULL], ids=lambda one: one.name
)
def test_everything_is_inside_the_drawing(size: svg.Size) -> None:
    for chart in (
        interval_chart(10),
        line_chart(Line("a", [0.0, 1.0, 4.0], [0.0, 5.0, 9.0])),
        ScatterChart("t", Axis("x"), Axis("y"), [Points("p", [1, 2], [3, 4], ["one", "two"])]),
        ReliabilityChart("t", [Bin(0.2, 0.3, 0.1, 0.5, 4), Bin(0.9, 0.8, 0.7, 0.9, 9)]),
    ):
        root = ElementTree.fromstring(svg.draw(chart, size))
        width, height = (float(part) for part in root.get("viewBox", "").split()[2:])
        assert width == size.width
        for text in classes(root, "tick") + classes(root, "strong"):
            assert 0 <= float(text.get("x", "")) <= width
            assert 0 <= float(text.get("y", "")) <= height
        for mark in classes(root, "line") + classes(root, "reach"):
            assert all(0 <= x <= width and 0 <= y <= height for x, y in places(mark))
