"""Levels over a triangle: cells, areas above a level, and what is drawn."""

import re
from math import nan, sqrt
from xml.etree import ElementTree

import pytest

from salsa_cli.pages import svg, triangles
from salsa_cli.pages.charts import TriangleChart

TRIANGLE = triangles.Triangle(520.0)
GRID = [((2 - j - k) / 2, j / 2, k / 2) for j in range(3) for k in range(3 - j)]


def area(polygon: list[tuple[float, float]]) -> float:
    """By the shoelace formula, whichever way round."""
    following = [*polygon[1:], polygon[0]]
    return abs(sum(x * b - a * y for (x, y), (a, b) in zip(polygon, following, strict=True))) / 2


def test_the_corners_and_the_middle() -> None:
    left, right, top = (TRIANGLE.at(corner) for corner in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    assert right == (left[0] + TRIANGLE.side, left[1])
    assert top == pytest.approx(
        (left[0] + TRIANGLE.side / 2, left[1] - TRIANGLE.side * sqrt(3) / 2)
    )
    middle = TRIANGLE.at((1 / 3, 1 / 3, 1 / 3))
    assert middle == pytest.approx(
        tuple(sum(corner[axis] for corner in (left, right, top)) / 3 for axis in (0, 1))
    )


def test_the_cells_tile_the_triangle() -> None:
    found = triangles.cells(GRID)
    assert len(found) == 4
    whole = sqrt(3) / 4 * TRIANGLE.side**2
    for cell in found:
        assert area([TRIANGLE.at(GRID[n]) for n in cell]) == pytest.approx(whole / 4)
    assert len({frozenset(cell) for cell in found}) == 4
    assert len(triangles.cells([(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)])) == 1


@pytest.mark.parametrize(("level", "share"), [(-1.0, 1.0), (0.5, 0.25), (0.0, 1.0), (1.5, 0.0)])
def test_the_area_above_a_level(level: float, share: float) -> None:
    # The value rises from 0 on one side to 1 in a corner; above a half is the corner's quarter.
    corners = [((0.0, 0.0), 0.0), ((4.0, 0.0), 0.0), ((0.0, 4.0), 1.0)]
    assert area(triangles.above(corners, level) or [(0.0, 0.0)]) == pytest.approx(8 * share)


def drawn(chart: TriangleChart) -> ElementTree.Element:
    text = svg.draw(chart)
    assert not re.search(r"\b(nan|inf)\b", text)
    return ElementTree.fromstring(text)


def test_a_drawing() -> None:
    values = [0.0, 1.0, 2.0, 1.0, 3.0, 2.0]
    root = drawn(TriangleChart("t", ("a", "b", "<c>"), GRID, values, "mean score"))
    texts = [one.text for one in root.iter() if one.tag == "text"]
    assert {"a", "b", "<c>", "mean score", "3.00"} <= set(texts)
    best = next(one for one in root.iter() if one.get("class") == "best")
    assert (float(best.get("cx", "")), float(best.get("cy", ""))) == pytest.approx(
        TRIANGLE.at(GRID[4]), abs=0.06
    )
    paths = [one for one in root.iter() if one.get("class") == "level" and one.get("d")]
    areas = [
        sum(
            area([(float(x), float(y)) for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", part)])
            for part in path.get("d", "").split("Z")[:-1]
        )
        for path in paths
    ]
    assert areas == sorted(areas, reverse=True) and len(areas) >= 3
    assert areas[0] == pytest.approx(sqrt(3) / 4 * TRIANGLE.side**2, rel=1e-3)  # rounded to .1


def test_flat_and_missing_values() -> None:
    drawn(TriangleChart("t", ("a", "b", "c"), GRID, [1.0] * 6))
    drawn(TriangleChart("t", ("a", "b", "c"), GRID, [nan, 1.0, 2.0, 3.0, nan, 2.0]))
    drawn(TriangleChart("t", ("a", "b", "c"), GRID, [nan] * 6))
    drawn(TriangleChart("t", ("a", "b", "c"), [(0.2, 0.3, 0.5)], [1.0]))
