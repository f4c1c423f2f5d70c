"""Values on hover: every point of a short line, the range of every stretch of a long one."""

import re
from collections.abc import Sequence

import pytest

from salsa_cli import pages
from salsa_cli.pages import hover, styles, svg
from salsa_cli.pages.charts import Histogram, Line, LineChart, Points, Sample, ScatterChart
from salsa_cli.pages.scales import Axis
from tests.support.html_tree import Tree

UPDATE = Axis("update", unit="count")


def chart(*lines: Line) -> LineChart:
    return LineChart("t", UPDATE, Axis("value"), lines)


def told(*lines: Line) -> list[str]:
    return [one.text for one in hover.strips(chart(*lines))]


def test_each_strip_tells_the_values_of_all_lines_at_its_place() -> None:
    first = Line("policy", [1, 2, 4], [0.5, 1.0, 2.0], [0.4, 1.0, 1.5], [0.6, 1.0, 2.5])
    second = Line("critic", [1, 4], [7.0, None])
    assert told(first, second) == [
        "update 1\npolicy: 0.500  [0.400, 0.600]\ncritic: 7.00",
        "update 2\npolicy: 1.00",  # a band without a width is none
        "update 4\npolicy: 2.00  [1.50, 2.50]",
    ]
    assert told(Line("", [3], [0.25])) == ["update 3\n0.250"]


def test_strips_meet_halfway_between_the_points() -> None:
    found = list(hover.strips(chart(Line("", [0, 1, 4], [1, 2, 3]))))
    assert [(one.start, one.end) for one in found] == [(0, 0.125), (0.125, 0.625), (0.625, 1)]
    # Of three points each: between the last of the one strip and the first of the next.
    paired = next(hover.strips(chart(Line("", list(range(321)), [0.0] * 321))))
    assert (paired.start, paired.end) == (0, pytest.approx(2.5 / 320))


@pytest.mark.parametrize("count", [160, 161, 1000, 54_321])
def test_any_number_of_points_has_its_values_and_no_spike_is_lost(count: int) -> None:
    values = [0.0] * count
    values[count // 2] = 9.0
    found = list(hover.strips(chart(Line("", list(range(count)), values))))
    assert count / hover.STRIPS <= count / len(found) < 2 * max(1, count / hover.STRIPS)
    spikes = [one.text for one in found if "9.00" in one.text]
    assert len(spikes) == 1
    last = found[-1].text.split("\n")[0]
    assert last.endswith(f"{count - 1:,}")


def test_a_stretch_of_points_is_told_by_its_ends() -> None:
    values: Sequence[float] = [n % 7 for n in range(800)]
    texts = told(Line("a", list(range(800)), values))
    assert texts[1] == "update 5 to 9\na: 0 to 6.00"


def test_a_histogram_tells_counts_and_shares() -> None:
    samples = (Sample("start", [0.5] * 3 + [1.5]), Sample("end", [1.5, 1.5]))
    found = list(hover.strips(Histogram("t", Axis("reward", low=0, high=2), samples)))
    assert found[-1].text.split("\n")[1:] == ["start: 1 of 4 (25.0%)", "end: 2 of 2 (100.0%)"]
    assert found[0].start == 0 and found[-1].end == 1


def test_the_strips_lie_on_the_plotting_area_of_every_size() -> None:
    page = pages.render(pages.Page("t", (chart(Line("", [1, 2], [0, 9])),)))
    (left,) = re.findall(r"--left: ([\d.]+);", page)
    drawn = svg.draw(chart(Line("", [1, 2], [0, 9])), svg.WIDE)
    (first, last) = re.findall(r"([\d.]+) [\d.]+", re.findall(r'"line" d="M(.*?)"', drawn)[0])
    assert float(first) == pytest.approx(float(left), abs=0.06)
    assert float(last) == svg.WIDE.width - svg.RIGHT
    assert styles.CSS.count("calc(var(--left) *") == 5
    # The text of a strip in the right half is shown in the left one.
    assert page.count("<i data-values") == 1 and page.count('<i class="late" data-values') == 1
    # In a drawing of 1000 pixels, 1 pixel is a thousandth of the width.
    assert "calc(var(--left) * 0.1000%); right: 1.80%" in styles.CSS


def test_what_a_name_says_stays_text() -> None:
    hostile = "\"><script>alert('1')</script>\n&"
    page = pages.render(pages.Page("t", (chart(Line(hostile, [1, 2], [1, 2])),)))
    tree = Tree(page)
    assert "script" not in tree.tags
    values = [value for name, value in tree.attributes if name == "data-values"]
    assert values == [f"update {n}\n{hostile}: {n}.00" for n in (1, 2)]


def test_points_tell_their_own_values_and_nothing_tells_none() -> None:
    scatter = ScatterChart("t", Axis("x"), Axis("y"), (Points("p", [1], [2]),))
    assert hover.html(scatter) == "" and "p: 2.00 at 1.00" in svg.draw(scatter)
    assert hover.html(chart()) == hover.html(chart(Line("", [1], [None]))) == ""
