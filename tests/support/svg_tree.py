"""A drawn chart as a tree of elements."""

import re
from xml.etree import ElementTree

from salsa_cli.pages import svg
from salsa_cli.pages.charts import Chart


def drawn(chart: Chart) -> ElementTree.Element:
    """The chart as a tree: it is well-formed, and every number in it is finite."""
    text = svg.draw(chart)
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"<(text|title).*?</\1>", "", text))
    return ElementTree.fromstring(text)


def classes(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if element.get("class") == name]


def places(path: ElementTree.Element) -> list[tuple[float, float]]:
    numbers = re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path.get("d", ""))
    return [(float(x), float(y)) for x, y in numbers]
