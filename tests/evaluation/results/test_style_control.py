"""The style of answers, stored answers, and win rates at equal length and style."""

from pathlib import Path
from typing import Any

import pytest

from salsa_cli.evaluation.results import style_control
from salsa_cli.evaluation.results.style_control import AnswerStyle, StoredAnswer
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
        ({"answer": 5}, "row 2: turn 1 of the answer is 5; expected a text"),
        ({"turns": ["a", {"tokens": 3}]}, "row 2: turn 2 of the answer is None; expected a text"),
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
