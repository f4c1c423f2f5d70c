"""Rows that are wrong: the message names file, row, column and what was expected."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.files import failure
from tests.support.verdict_rows import LLMBAR, OWN, PAIR, PANDALM, SINGLE, UNREAD, V01
from tests.support.verdict_rows import read_verdicts as read


@pytest.mark.parametrize(
    ("row", "changes", "words"),
    [
        (SINGLE, {"score": "7"}, "column 'score' is '7'; expected a number"),
        (SINGLE, {"score": float("nan")}, "column 'score' is nan; expected a number"),
        (SINGLE, {"score": 10**400}, "expected a number"),
        (
            SINGLE,
            {"model": "\ud800"},
            (
                r"column 'model' is '\ud800'; it contains half of a "
                r"surrogate"
            ),
        ),
        (SINGLE, {"model": ""}, "column 'model' is ''; expected a string"),
        (SINGLE, {"judge": []}, "column 'judge' is []; expected the name of a judge"),
        (SINGLE, {"turn": 0}, "column 'turn' is 0; expected 1 or more"),
        (SINGLE, {"question_id": None}, "column 'question_id' is None; expected an id"),
        (PAIR, {"g2_winner": "x"}, "column 'g2_winner' is 'x'; expected one of model_1, model_2"),
        (V01, {"games": "A>B"}, "column 'games' is 'A>B'; expected a list of games"),
        (V01, {"games": [{"label": "A>B"}]}, "a game without 'score'; it has label"),
        (
            V01,
            {"games": [{"score": "A>B"}, {"score": "tie"}]},
            "game 2: the score is 'tie'; expected",
        ),
        (V01, {"games": [{"score": 3}]}, "game 1: the score is 3; expected one of A>>B, A>B, A=B"),
        (V01, {"games": [{"score": ""}]}, "or null if the judge gave none"),
        (LLMBAR, {"label": 3}, "column 'label' is 3; expected one of 1, 2"),
        (LLMBAR, {"label": True}, "column 'label' is True; expected one of 1, 2"),
        (LLMBAR, {"order_12": {"winner": [1]}}, "expected a 'winner' of 1, 2 or none"),
        (LLMBAR, {"order_12": {"winner": True}}, "expected a 'winner' of 1, 2 or none"),
        (LLMBAR, {"order_12": {"winner": "a"}}, "expected a 'winner' of 1, 2 or none"),
        (PANDALM, {"annotator2": 3}, "column 'annotator2' is 3; expected one of 0, 1, 2"),
        (PANDALM, {"cmp_key": "x"}, "column 'cmp_key' is 'x'; expected MODEL_MODEL"),
        (OWN, {"outcome": 3}, "column 'outcome' is 3; expected a number from 0 to 1"),
        (OWN, {"turn": 0}, "column 'turn' is 0; expected 1 or more"),
        (OWN, {"a": ""}, "column 'a' is ''; expected a string"),
        (OWN, {"score_a": float("nan")}, "column 'score_a' is nan; expected a finite number"),
        (UNREAD, {"outcome": 1}, "'outcome' together with 'invalid'; expected only one of them"),
    ],
)
def test_rows_that_are_wrong(
    row: dict[str, Any], changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    message = failure(lambda: read(tmp_path, row, {**row, **changes}))
    assert "j.jsonl, row 2: " in message and words in message
