"""Numbers, sizes, durations and lines as people read them."""

import pytest

from salsa_cli import formatting


@pytest.mark.parametrize(
    ("given", "length", "shown"),
    [
        ("one\n two\t three ", 20, "one two three"),
        ("abcdefghij", 10, "abcdefghij"),
        ("abcdefghijk", 10, "abcdefg..."),
        ("red\x1b[31m", 20, "red\N{REPLACEMENT CHARACTER}[31m"),
        ("", 5, ""),
    ],
)
def test_untrusted_text_is_one_short_line(given: str, length: int, shown: str) -> None:
    assert formatting.plain(given, length) == shown
    assert len(formatting.plain(given, length)) <= length


@pytest.mark.parametrize(
    ("count", "unit", "shown"),
    [
        (13_500_000_000, "B", "13.5GB"),
        (1000, "B", "1kB"),
        (999, "B", "999B"),
        (0, "B", "0B"),
        (2_340_000, "B", "2.34MB"),
        (1.5e12, "B", "1.5TB"),
        (1234567, "tensors", "1,234,567"),
    ],
)
def test_amounts(count: float, unit: str, shown: str) -> None:
    assert formatting.amount(count, unit) == shown


@pytest.mark.parametrize(("plural", "one"), [("are", "is"), ("have", "has"), ("leave", "leaves")])
def test_verbs_agree_with_a_number(plural: str, one: str) -> None:
    assert [formatting.verb(n, plural) for n in (0, 1, 2)] == [plural, one, plural]


def test_long_counts_and_sibilants() -> None:
    assert formatting.counted(1700, "pair") == "1,700 pairs"
    assert [formatting.counted(n, "loss") for n in (1, 2)] == ["1 loss", "2 losses"]


def test_counts_of_things() -> None:
    assert [formatting.counted(n, "pair") for n in (0, 1, 700)] == [
        "0 pairs",
        "1 pair",
        "700 pairs",
    ]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.000"),
        (0.05, "0.050"),
        (-1.2345, "-1.234"),
        (12.345, "12.3"),
        (999.94, "999.9"),
        (1234.5, "1,234"),
        (2_000_000.0, "2e+06"),
        (0.0001, "0.0001"),
        (12345678, "12,345,678"),
        (7, "7"),
    ],
)
def test_figures(value: float, shown: str) -> None:
    assert formatting.figure(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (4.24, "4.2 s"),
        (0.02, "less than 0.1 s"),
        (0.1, "0.1 s"),
        (42.4, "42 s"),
        (60, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert formatting.duration(seconds) == shown


def test_lines_are_broken_between_words() -> None:
    text = (
        "error: two problems-at-once:\n  - the first of both\n  salsa ppo --ref REF\nsft-a/sft-b/x"
    )
    assert formatting.fitted(text, 16) == (
        "error: two\nproblems-at-once:\n  - the first of\n    both\n  salsa ppo --ref REF\n"
        "sft-a/sft-b/x"
    )
    assert formatting.fitted("one two three four", 9, hanging="  ") == "one two\n  three\n  four"
    assert formatting.fitted(text, 80) == text
