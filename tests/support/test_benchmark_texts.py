"""Judges' texts, read by hand-made examples; the stored ones are read in test_conformance."""

import pytest

from tests.support import benchmark_texts as texts


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Good. Rating: [[7]]", 7.0),
        ("[[8.5]] and later [[3]]", 8.5),
        ("Rating: [6]", 6.0),
        ("[5] but in the end [[9]]", 9.0),
        ("Rating: 7", None),
        ("[[seven]]", None),
    ],
)
def test_mt_bench_ratings(text: str, rating: float | None) -> None:
    assert texts.mt_bench_rating(text) == rating


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ("[[A]]", "A"),
        ("so [[B]].", "B"),
        ("[[C]]", "tie"),
        ("not [[B]] but [[A]]", "A"),
        ("not [[C]] but [[B]]", "B"),
        ("[A]", None),
    ],
)
def test_mt_bench_winners(text: str, winner: str | None) -> None:
    assert texts.mt_bench_winner(text) == winner


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ("[[8, 7]]", "A"),
        ("[[7,8.5]]", "B"),
        ("[[7.0, 7.1]]", "tie"),
        ("[3, 9]", "B"),
        ("[[8]]", None),
    ],
)
def test_mt_bench_two_ratings(text: str, winner: str | None) -> None:
    assert texts.mt_bench_ratings_winner(text) == winner


@pytest.mark.parametrize(
    ("text", "v01", "v20"),
    [
        ("[[A>>B]]", "A>>B", "A>>B"),
        ("[[A>B]] I say [[A>B]]", "A>B", "A>B"),
        ("[[A>B]] or rather [[B>A]]", None, "B>A"),
        ("[[a=b]]", None, "A=B"),
        ("[B>A]", None, "B>A"),
        ("[A>B] [[B>>A]]", "B>>A", "B>>A"),
        ("A>B", None, None),
        ("[[]]", None, None),
    ],
)
def test_arena_hard_labels(text: str, v01: str | None, v20: str | None) -> None:
    assert texts.arena_hard_label(text) == v01
    assert texts.arena_hard_v2_label(text) == v20


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("Output (a)", "a"),
        ("Output (b).", "b"),
        ("I think.\nOutput (b)\n", "b"),
        ("Output (a) is short. Therefore, Output (b) is better.", "b"),
        ("Output (a) does not answer. Neither does Output (b).", None),
        ("Both are equal.", None),
    ],
)
def test_llmbar_choices(text: str, choice: str | None) -> None:
    assert texts.llmbar_choice(text) == choice
