"""Answers in the formats of others, and the file that a kill may cut."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.data import Message
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.questions import answer_files, benchmarks
from salsa_cli.evaluation.questions.answer_files import Reply
from salsa_cli.evaluation.questions.benchmarks import Question
from tests.support import tiny
from tests.support.real_data import shared_data

QUESTIONS = [
    Question("1", (Message("user", "the cat"),), ("and then",)),
    Question("2", "the dog"),
]


def read(
    path: Path, rows: list[dict[str, Any]], questions: Sequence[Question] = QUESTIONS
) -> answer_files.Replies:
    return answer_files.read(str(tiny.write_rows(path / "a.jsonl", rows)), questions, "--answers")


def test_fastchat() -> None:
    questions = benchmarks.load(str(shared_data("mt_bench", "question.jsonl")))
    found = answer_files.read(
        str(shared_data("mt_bench", "model_answer", "gpt-4.jsonl.gz")), questions, "x"
    )
    assert len(found) == 80 and {len(turns) for turns in found.values()} == {2}
    assert found["81"][0].text.startswith("Title: Aloha, Hawaii!")


def test_arena_hard() -> None:
    questions = benchmarks.load(str(shared_data("arena_hard", "v0.1_question.jsonl.gz")))
    file = str(shared_data("arena_hard", "v0.1_model_answer", "gpt-4-0314.jsonl.gz"))
    found = answer_files.read(file, questions, "x")
    assert len(found) == 500
    assert all(reply.tokens for (reply,) in found.values())


def test_the_other_formats(tmp_path: Path) -> None:
    (question,) = QUESTIONS[1:]
    for row in (
        {"prompt": "the dog", "answer": "ran"},
        {"question_id": "2", "turns": [{"content": "ran", "tokens": 1}]},
        {"question_id": 2, "choices": [{"index": 0, "turns": ["ran"]}]},
        {"uid": "2", "messages": [{"role": "assistant", "content": {"answer": "ran"}}]},
        {"uid": "2", "messages": [{"role": "user", "content": "the dog"},
                                  {"role": "assistant", "content": "ran"}]},
    ):  # fmt: skip
        assert read(tmp_path, [row], [question])["2"][0].text == "ran"


def test_a_message_is_known_by_its_text(tmp_path: Path) -> None:
    rows = [{"prompt": "the cat", "turns": ["a", "b"]}, {"prompt": "the dog", "answer": "c"}]
    assert [reply.text for reply in read(tmp_path, rows)["1"]] == ["a", "b"]


def test_answers_to_other_questions_are_left_alone(tmp_path: Path) -> None:
    rows = [{"question_id": 9, "answer": "x"}, {"question_id": 2, "answer": "ran"}]
    assert set(read(tmp_path, rows, QUESTIONS[1:])) == {"2"}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"question_id": 2, "answer": "x"}], "has no answers to 1 of 2 prompts: 1; add them"),
        ([{"question_id": 1, "answer": "x"}], "has no answers to 1 of 2 prompts: 2"),
        (
            [{"question_id": 1, "answer": "x"}, {"question_id": 2, "answer": "x"}],
            "has too few turns for 1",
        ),
        ([{"question_id": 2, "answer": "x"}] * 2, "row 2: a second answer to 2"),
        ([{"question_id": 2, "text": "x"}], "row 1: no answer found; its columns are question_id"),
        ([{"question_id": 2, "answer": None}], "row 1: no answer found"),
        ([{"question_id": 2, "choices": ["x"]}], "row 1: no answer found"),
        ([{"question_id": 2, "messages": ["x"]}], "row 1: no answer found"),
        (
            [{"question_id": 2, "answer": "\udc00"}],
            "row 1: its answer contains half of a surrogate",
        ),
        (
            [{"question_id": 2, "turns": [{"content": "x", "tokens": "3"}]}],
            "row 1: 'tokens' is '3'; expected a whole number, 0 or more",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(SalsaError, match=words):
        read(tmp_path, rows)


def test_only_the_first_missing_ones_are_listed(tmp_path: Path) -> None:
    many = [Question(str(i), f"prompt {i}") for i in range(9)]
    with pytest.raises(SalsaError, match=r"8 of 9 prompts: 1, 2, 3, 4, 5 and 3 more"):
        read(tmp_path, [{"question_id": 0, "answer": "x"}], many)


def test_references_to_no_question(tmp_path: Path) -> None:
    file = tiny.write_rows(tmp_path / "r.jsonl", [{"question_id": 7, "answer": "x"}])
    with pytest.raises(SalsaError, match="has no answer to any of these questions"):
        answer_files.with_references(QUESTIONS, str(file))


def test_what_a_kill_cut_off_is_dropped(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    replies = (Reply("a\u2028b", True, 2, (5, 6)), Reply("", False, 0))
    answer_files.append(file, [answer_files.row(QUESTIONS[0], replies)])
    whole = file.read_bytes()
    answer_files.append(file, [answer_files.row(QUESTIONS[1], (Reply("c"),))])
    for cut in (1, 20):
        file.write_bytes(file.read_bytes()[:-cut])
        assert answer_files.stored(file) == {"1": replies}
        assert file.read_bytes() == whole
        answer_files.append(file, [answer_files.row(QUESTIONS[1], (Reply("c"),))])
        assert set(answer_files.stored(file)) == {"1", "2"}


def test_our_own_rows_can_be_given_back(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    replies = {"1": (Reply("a", True, 2), Reply("b", False, 3)), "2": (Reply("c", True, 1),)}
    answer_files.write(file, QUESTIONS, replies)
    assert answer_files.read(str(file), QUESTIONS, "x") == replies
