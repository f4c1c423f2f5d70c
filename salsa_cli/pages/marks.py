"""SVG primitives of charts: paths, symbols, rectangles, whiskers, text.

`escaped` is the only place where text is escaped.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable
from html import escape
from itertools import accumulate

COLOURS = 7
CHARACTER = 6.7
"""Estimated width of a character in the 12 pixels of a chart's text."""

SQUARE = 12.0
"""Estimated width of a full-width character."""

Place = tuple[float, float]

# Controls and halves of surrogate pairs, which HTML does not allow or UTF-8 does not hold; and the
# two that reverse the letters that follow them.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202d\u202e\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]"
)


def escaped(text: str) -> str:
    """Any text as HTML that shows it, in an element or in a quoted attribute."""
    return escape(_UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n")))


def path(places: Iterable[Place]) -> str:
    """The `d` of a path that joins the places by straight lines."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def group(series: int, body: str) -> str:
    """Marks in the colour of a series; dashed once the colours repeat."""
    dashed = ' stroke-dasharray="6 4"' if series >= COLOURS else ""
    return f'<g class="s{series % COLOURS}"{dashed}>{body}</g>'


def sign(series: int, place: Place, tip: str = "") -> str:
    """A filled sign, by the series: circle, square, triangle up, diamond, triangle down."""
    x, y = place
    shapes = (
        f"M{x - 3.5:.1f} {y:.1f}a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0",
        f"M{x - 3.2:.1f} {y - 3.2:.1f}h6.4v6.4h-6.4",
        f"M{x:.1f} {y - 4.2:.1f}l4.2 7.4h-8.4",
        f"M{x:.1f} {y - 4.6:.1f}l4.6 4.6l-4.6 4.6l-4.6 -4.6",
        f"M{x:.1f} {y + 4.2:.1f}l4.2 -7.4h-8.4",
    )
    title = f"<title>{escaped(tip)}</title>" if tip else ""
    return f'<path class="dot" d="{shapes[series % len(shapes)]}Z">{title}</path>'


def bar(kind: str, left: float, top: float, width: float, floor: float, tip: str) -> str:
    """A bar of class `kind` from `floor` to `top`, upwards or downwards; thin where they meet."""
    y, height = min(top, floor), max(abs(floor - top), 0.8)
    return (
        f'<rect class="{kind}" x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" '
        f'height="{height:.1f}"><title>{escaped(tip)}</title></rect>'
    )


def stroke(kind: str, start: Place, end: Place) -> str:
    """A straight line of class `kind`."""
    return f'<path class="{kind}" d="{path((start, end))}"/>'


def word(text: str, place: Place, anchor: str, kind: str = "tick") -> str:
    """A text of class `kind` at a place, by its `start`, `middle` or `end`."""
    if not text:
        return ""
    x, y = place
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {where}>{escaped(text)}</text>'


def shorten(text: str, room: float) -> str:
    """The text, cut to about `room` pixels."""
    ends = list(accumulate(map(_advance, text)))
    if not ends or ends[-1] <= max(room, 2 * CHARACTER) + 1e-6:
        return text
    return text[: max(1, bisect_right(ends, room - CHARACTER + 1e-6))] + "…"


def width(text: str) -> float:
    """Estimated width of a text in pixels."""
    return sum(map(_advance, text))


def _advance(character: str) -> float:
    """Width of a character: Chinese, Japanese and Korean ones fill a square."""
    if unicodedata.combining(character):
        return 0.0
    return SQUARE if unicodedata.east_asian_width(character) in "WF" else CHARACTER


def swatch(series: int) -> str:
    """The sign of a series for a legend: its line and its sign."""
    body = stroke("line", (1, 6), (23, 6)) + sign(series, (12, 6))
    return f'<svg class="swatch" viewBox="0 0 24 12" aria-hidden="true">{group(series, body)}</svg>'
