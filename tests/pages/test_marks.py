"""SVG primitives: escaped text, paths, signs, bars, and words that fit."""

from xml.etree import ElementTree

import pytest

from salsa_cli.pages import marks


def test_series_that_repeat_a_colour_are_dashed() -> None:
    assert 'class="s0"' in marks.group(7, "") and "dasharray" in marks.group(7, "")
    assert "dasharray" not in marks.group(6, "")


def test_square_characters_are_cut_by_their_width() -> None:
    assert marks.shorten("abcdefgh", 8 * marks.CHARACTER) == "abcdefgh"
    assert marks.shorten("abcdefghi", 8 * marks.CHARACTER) == "abcdefg…"
    squares = marks.shorten("\N{HIRAGANA LETTER A}" * 20, 100)
    assert squares == "\N{HIRAGANA LETTER A}" * 7 + "…" and marks.width(squares) <= 100
    assert marks.shorten("", 10) == "" and marks.shorten("abc", 1) == "a…"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("\"quoted\" 'twice'", "&quot;quoted&quot; &#x27;twice&#x27;"),
        ("two\r\nlines", "two\nlines"),
        ("\x00\ud800\u202e", "\ufffd\ufffd\ufffd"),
        ("tab\tand\nline", "tab\tand\nline"),
    ],
)
def test_any_text_is_safe(text: str, shown: str) -> None:
    assert marks.escaped(text) == shown


def test_a_path_joins_its_places() -> None:
    assert marks.path([(0, 1.25), (2, 3)]) == "M0.0 1.2L2.0 3.0"
    assert 'd="M0.0 0.0L1.0 1.0"' in marks.stroke("axis", (0, 0), (1, 1))


def test_a_bar_hangs_from_its_floor_where_it_is_negative() -> None:
    def edges(text: str) -> tuple[float, float]:
        bar = ElementTree.fromstring(text)
        return float(bar.get("y", "nan")), float(bar.get("height", "nan"))

    assert edges(marks.bar("b", 0, 10, 5, 30, "tip")) == (10, 20)
    assert edges(marks.bar("b", 0, 50, 5, 30, "tip")) == (30, 20)
    assert edges(marks.bar("b", 0, 30, 5, 30, "tip")) == (30, 0.8)  # thin, but there


def test_signs_repeat_after_five_and_carry_their_tip() -> None:
    shapes = {marks.sign(series, (0, 0)) for series in range(5)}
    assert len(shapes) == 5
    assert marks.sign(5, (0, 0)) == marks.sign(0, (0, 0))
    assert "<title>a &lt; b</title>" in marks.sign(0, (0, 0), "a < b")
    assert ElementTree.fromstring(marks.swatch(3)).get("aria-hidden") == "true"


def test_nothing_to_say_is_no_element() -> None:
    assert marks.word("", (0, 0), "start") == ""
    assert 'text-anchor="end"' in marks.word("x", (1, 2), "end")
