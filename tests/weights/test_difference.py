"""Differences between models: fatal or minor, allowed by name, and long values by their middle."""

from pathlib import Path

from salsa_cli.weights.difference import (
    ABSENT,
    Difference,
    Mismatches,
    describe_values,
    is_allowed,
    sort_out,
)

A, B = Path("a"), Path("b")


def test_fatal_and_minor_each_once_and_in_their_order() -> None:
    given = [
        Difference("rope", "rope differs", True),
        Difference("template", "templates differ", False),
        Difference("rope", "rope differs", True),
        Difference("vocabulary", "tokens differ", True),
    ]
    assert sort_out(given) == Mismatches(("rope differs", "tokens differ"), ("templates differ",))
    allowed = sort_out(given, ["vocabulary"])
    assert allowed == Mismatches(("rope differs",), ("templates differ", "tokens differ"))


def test_a_key_is_allowed_with_all_that_is_in_it() -> None:
    assert is_allowed("rope.theta", ["rope"]) and is_allowed("rope", ["rope"])
    assert not is_allowed("rope", ["rope.theta"]) and not is_allowed("ropes", ["rope"])


def test_short_values_are_shown_whole() -> None:
    assert describe_values(16, ABSENT, A, B) == "16 in a, absent in b"
    assert describe_values("é", None, A, B) == '"é" in a, null in b'


def test_of_long_values_the_part_that_differs_is_shown() -> None:
    ours, theirs = "x" * 200 + "left" + "y" * 200, "x" * 200 + "right" + "y" * 200
    text = describe_values(ours, theirs, A, B)
    assert text.startswith("from character 201 on, ...")
    assert "left" in text.split(" in a, ")[0] and "right" in text.split(" in a, ")[1]
    assert len(text) < 200
