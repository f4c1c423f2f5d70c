"""The style of answers, stored answers, and win rates at equal length and style."""

from pathlib import Path
from typing import Any

import pytest

from salsa_cli.evaluation.results import style_control, win_rates
from salsa_cli.evaluation.results.comparisons import Rules
from salsa_cli.evaluation.results.style_control import AnswerStyle, StoredAnswer
from salsa_cli.evaluation.results.win_rates import Resampling
from salsa_cli.evaluation.verdicts.formats import Convention, Stored
from salsa_cli.evaluation.verdicts.verdict import Verdict
from tests.support import tiny
from tests.support.files import failure


def test_the_style_of_a_text() -> None:
    text = "# One\n\n- a\n- **b**\n1. c\n```\n# no header\n- no item\n```\n__d__ and *e*"
    assert style_control.of_text(text, 20) == AnswerStyle(20, 1, 3, 2)
    assert style_control.of_text("three plain words").token_len == 3


def test_stored_answers(tmp_path: Path) -> None:
    counts = {"header_count": {"h1": 1, "h2": 2}, "list_count": {"ordered": 3}, "bold_count": {}}
    metadata = {"question_id": "q", "conv_metadata": {"token_len": 5, **counts}}
    turns = [{"content": "**a** b", "token_len": 9}, {"content": "c", "token_len": 2}]
    fastchat = {"question_id": 81, "model_id": "m", "choices": [{"turns": turns}]}
    plain = {"question_id": 81, "model_id": "p", "choices": [{"turns": ["a b", "c"]}]}
    own = {"prompt": "?", "answer": "# A", "tokens": 4, "finished": True}
    files = {
        "x": tiny.write_rows(tmp_path / "x.jsonl", [metadata]),
        "m": tiny.write_rows(tmp_path / "some.jsonl", [fastchat, plain]),
    }
    named = f"y={tiny.write_rows(tmp_path / 'own.jsonl', [own])}"
    assert style_control.read([*map(str, files.values()), named]) == {
        "x": {"q": StoredAnswer(AnswerStyle(5, 3, 3, 0))},
        "m": {"81": StoredAnswer(AnswerStyle(11, 0, 0, 1), ("**a** b", "c"))},
        "p": {"81": StoredAnswer(AnswerStyle(3, 0, 0, 0), ("a b", "c"))},
        "y": {"0": StoredAnswer(AnswerStyle(4, 1, 0, 0), ("# A",), "?")},
    }


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({}, "row 2: no answer: expected"),
        ({"answer": 5}, "row 2: turn 1 of the answer is 5; expected a string"),
        ({"turns": ["a", {"tokens": 3}]}, "row 2: turn 2 of the answer is None; expected a string"),
        (
            {"conv_metadata": {"token_len": 5, "header_count": {"h1": -1}}},
            "row 2: column 'conv_metadata.header_count.h1' is -1; expected a whole number",
        ),
        (
            {"question_id": 1, "answer": "b"},
            "row 2: a second answer of bad to question 1; expected",
        ),
    ],
)
def test_stored_answers_that_are_wrong(row: dict[str, Any], words: str, tmp_path: Path) -> None:
    good = {"question_id": 1, "answer": "a"}
    bad = tiny.write_rows(tmp_path / "bad.jsonl", [good, {"question_id": 2, **row}])
    assert words in failure(lambda: style_control.read([str(bad)]))


# --------------------------------------------------------------------------- controlled rates


FEW = Resampling(seed=0, draws=200)


def answers(lengths: dict[str, list[int]]) -> dict[str, dict[str, StoredAnswer]]:
    return {
        model: {str(n): StoredAnswer(AnswerStyle(tokens, 0, 0, 0)) for n, tokens in enumerate(some)}
        for model, some in lengths.items()
    }


def judged(outcomes: list[float]) -> Stored:
    verdicts = [
        Verdict(str(n), "j", "x", "y", outcome=outcome) for n, outcome in enumerate(outcomes)
    ]
    return Stored("file", "salsa", Convention(), verdicts)


def test_answers_of_equal_length_leave_the_rate_as_it_is() -> None:
    texts = answers({"x": [10] * 40, "y": [10] * 40})
    stored = judged([1.0] * 30 + [0.0] * 10)
    found = style_control.controlled_rates([stored], texts, "length", "y", FEW)
    (row,) = found.rows
    assert (row.model, row.baseline, row.judge, row.control) == ("x", "y", "j", "length")
    # The fit has a weak prior, so the rate is 3/4 to a few thousandths.
    assert row.win_rate == pytest.approx(0.75, abs=5e-3)
    assert row.low < 0.75 < row.high


def test_a_model_that_wins_by_length_alone_is_even_at_equal_length() -> None:
    # x is longer on 30 of 40 questions, and the longer answer wins four times of five.
    longer = [n % 4 != 0 for n in range(40)]
    texts = answers({"x": [30 if one else 10 for one in longer], "y": [20] * 40})
    wins = [one if n % 5 else not one for n, one in enumerate(longer)]
    stored = judged([float(one) for one in wins])
    raw = sum(wins) / 40
    assert raw > 0.6
    found = style_control.controlled_rates([stored], texts, "length", "y", FEW)
    assert abs(found.rows[0].win_rate - 0.5) < abs(raw - 0.5)
    # Features are those of the baseline less the model's, so the coefficient is positive where
    # length wins.
    assert found.coefficients["token_len"] > 0


def test_wins_that_length_tells_without_a_mistake_have_no_controlled_rate() -> None:
    texts = answers({"x": [30, 10] * 20, "y": [20] * 40})
    found = style_control.controlled_rates([judged([1.0, 0.0] * 20)], texts, "length", "y", FEW)
    assert found.rows == () and found.separated is not None
    assert "perfect separation" in found.separated


def test_a_model_that_always_wins_has_no_controlled_rate() -> None:
    texts = answers({"x": [30, 10] * 20, "y": [20] * 40})
    found = style_control.controlled_rates([judged([1.0] * 40)], texts, "length", "y", FEW)
    assert found.rows == ()
    assert found.separated is not None and "no win rate for x" in found.separated


def test_missing_answers_are_named() -> None:
    stored, texts = judged([1.0, 0.0]), answers({"x": [10], "y": [10, 10]})
    for given, words in (
        ({"y": texts["y"]}, "the answers of x are missing; pass them with --answers x=FILE"),
        (texts, "the answer to question 1 of x is missing"),
    ):
        words_found = failure(
            lambda given=given: style_control.controlled_rates([stored], given, "length", "y", FEW)
        )
        assert words in words_found


def test_rates_of_shorter_and_longer_answers() -> None:
    # Alike within 5 % of a + b: 95 to 105, but not 94 to 106.
    texts = answers({"x": [95, 94, 120, 105], "y": [105, 106, 100, 95]})
    rules = Rules()
    compared = win_rates.comparisons([judged([1.0, 0.0, 1.0, 0.0])], rules)
    rows = style_control.length_rows(compared, rules, FEW, texts)
    assert [(row.category, row.n, row.win_rate) for row in rows] == [
        ("shorter", 1, 0.0),
        ("about as long", 2, 0.5),
        ("longer", 1, 1.0),
    ]
    del texts["x"]["0"]
    assert style_control.length_rows(compared, rules, FEW, texts) == ()
