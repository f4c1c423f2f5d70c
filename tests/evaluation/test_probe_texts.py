"""Texts and answers of a probe, as tokens."""

from typing import Any

import pytest

from salsa_cli.data import Source
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.probe_texts import ProbeText, read
from tests.support import tiny

WORD = {word: 4 + place for place, word in enumerate(tiny.WORDS)}
THE, CAT, SAT, END = WORD["the"], WORD["cat"], WORD["sat"], 2


def texts(*rows: dict[str, Any], longest: int = 100) -> list[ProbeText]:
    return list(read(Source("texts.jsonl", list(rows)), tiny.tokenizer(), longest).texts)


def test_a_whole_text_is_measured_from_its_second_token() -> None:
    assert texts({"text": "the cat sat"}) == [ProbeText((THE, CAT, SAT), 1)]
    assert texts({"text": "the cat sat"}, longest=2) == [ProbeText((THE, CAT), 1)]


@pytest.mark.parametrize("column", ["completion", "chosen", "answer", "response", "output"])
def test_an_answer_is_measured_with_its_end(column: str) -> None:
    (found,) = texts({"prompt": "the cat", column: " sat"})
    assert found == ProbeText((THE, CAT, SAT, END), 2) and found.count == 2


def test_what_is_cut_is_counted() -> None:
    rows = [
        {"text": "the cat sat"},
        {"text": "the cat"},
        {"prompt": "the cat", "answer": " sat"},
        {"prompt": "the cat", "answer": " the cat"},
    ]
    found = read(Source("texts.jsonl", rows), tiny.tokenizer(), 2)
    assert [len(one.ids) for one in found.texts] == [2, 2]
    assert (found.cut, found.left_out, found.longest) == (1, 2, 2)


def test_text_without_an_answer_is_refused() -> None:
    with pytest.raises(SalsaError, match=r"row 1: no text and no answer; expected a column 'text'"):
        texts({"prompt": "the cat"})
    with pytest.raises(SalsaError, match="none of its texts has a token to predict"):
        texts({"text": "the"})
