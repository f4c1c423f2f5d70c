"""What a judge is shown, and how its judgement is read."""

from pathlib import Path

import pytest

from salsa_cli.data import Message
from salsa_cli.errors import UsageError
from salsa_cli.evaluation.judges import wording
from salsa_cli.evaluation.questions.benchmarks import Question

TWO_TURNS = Question(
    "1", (Message("user", "Q1"),), ("Q2",), category="math", references=("R1", "R2")
)


def shown(question: Question, turn: int, template: str = wording.PAIRWISE) -> str:
    answers = {"answer_a": ["first of A", "second of A"], "answer_b": ["first of B", "second of B"]}
    return wording.fill(template, question, turn, answers)


def test_the_first_turn_shows_nothing_of_the_second() -> None:
    text = shown(TWO_TURNS, 1)
    assert "Q1" in text and "first of A" in text and "first of B" in text and "R1" in text
    assert "second of" not in text and "Q2" not in text and "R2" not in text


def test_the_second_turn_shows_both_conversations() -> None:
    text = shown(TWO_TURNS, 2)
    places = [
        text.index(part) for part in ("first of A", "second of A", "first of B", "second of B")
    ]
    assert places == sorted(places)
    assert text.count("Q2") == 2 and "R2" in text


def test_the_answers_stand_where_the_order_puts_them() -> None:
    text = shown(TWO_TURNS, 1, "{answer_b} | {answer_a} | {question}")
    assert text == "first of B | first of A | Q1"


def test_references_are_hidden_where_mt_bench_hides_them() -> None:
    writing = Question("1", "Q", category="writing", references=("R1",))
    assert "R1" not in shown(writing, 1) and "[Reference]" not in shown(writing, 1)
    own = Question("1", "Q", category="my own", references=("R1",))
    assert "R1" in shown(own, 1)


def test_braces_of_an_answer_stay_as_they_are() -> None:
    answers = {"answer_a": ["{answer_b}"], "answer_b": ["{question} {x}"]}
    assert (
        wording.fill("{answer_a}|{answer_b}", TWO_TURNS, 1, answers) == "{answer_b}|{question} {x}"
    )


def test_earlier_turns_of_a_conversation_are_shown() -> None:
    opening = (Message("system", "S"), Message("user", "U"))
    text = wording.fill("{question}|{answer}", Question("1", opening), 1, {"answer": ["x"]})
    assert text == "System: S\n\nUser: U|x"


def test_our_own_prompts_have_their_placeholders(tmp_path: Path) -> None:
    for grading, text in (("pairwise", wording.PAIRWISE), ("single", wording.SINGLE)):
        (tmp_path / "p.txt").write_text(text)
        assert wording.template(grading, tmp_path / "p.txt") == wording.template(grading, None)


@pytest.mark.parametrize(
    ("grading", "text", "words"),
    [
        ("pairwise", "{question}", r"has no \{answer_a\}, \{answer_b\}; pairwise grading expects"),
        ("single", "{question}", r"has no \{answer\}; single grading expects \{question\}"),
        ("single", "{question} {answer} {answer_a}", r"has \{answer_a\}, which is unknown"),
        ("pairwise", "compare them", r"has no \{question\}, \{answer_a\}, \{answer_b\}"),
    ],
)
def test_prompts_that_cannot_be_used(tmp_path: Path, grading: str, text: str, words: str) -> None:
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(UsageError, match=words):
        wording.template(grading, tmp_path / "p.txt")


def test_a_prompt_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read as text"):
        wording.template("single", tmp_path / "none.txt")


def test_other_braces_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text('{question} {answer} {"json": {}}')
    assert "json" in wording.template("single", tmp_path / "p.txt")
