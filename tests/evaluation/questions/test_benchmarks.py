"""Questions from their own formats: turns, categories, references, temperatures, seeds."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from salsa_cli import data
from salsa_cli.data import Message, Source
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.questions import answer_files, benchmarks
from salsa_cli.evaluation.questions.benchmarks import Question
from tests.support import tiny
from tests.support.real_data import shared_data


def load(path: Path, *rows: dict[str, Any]) -> list[Question]:
    return benchmarks.load(str(tiny.write_rows(path / "q.jsonl", list(rows))))


def test_mt_bench() -> None:
    questions = benchmarks.load(str(shared_data("mt_bench", "question.jsonl")))
    assert len(questions) == 80
    assert {(q.turns, q.length) for q in questions} == {(2, 1024)}
    assert Counter(q.temperature for q in questions) == {0.7: 20, 0.0: 40, 0.1: 20}
    first = questions[0]
    assert (first.id, first.category) == ("81", "writing")
    assert isinstance(first.opening, tuple) and first.opening[0].role == "user"
    assert first.followups == (
        "Rewrite your previous response. Start every sentence with the letter A.",
    )


def test_mt_bench_references_are_shown_in_three_categories() -> None:
    questions = answer_files.with_references(
        benchmarks.load(str(shared_data("mt_bench", "question.jsonl"))),
        str(shared_data("mt_bench", "reference_answer_gpt-4.jsonl")),
    )
    shown = Counter(q.category for q in questions if q.judged_references)
    assert shown == {"math": 10, "reasoning": 10, "coding": 10}
    assert {len(q.references) for q in questions if q.judged_references} == {2}
    assert any(q.references and not q.judged_references for q in questions)


@pytest.mark.parametrize(
    ("version", "categories"),
    [
        ("v0.1", {"arena-hard-v0.1": 500}),
        ("v2.0", {"hard_prompt": 500, "creative_writing": 250}),
    ],
)
def test_arena_hard(version: str, categories: dict[str, int]) -> None:
    questions = benchmarks.load(str(shared_data("arena_hard", f"{version}_question.jsonl.gz")))
    assert Counter(q.category for q in questions) == categories
    assert {(q.turns, q.length, q.temperature) for q in questions} == {(1, 4096, 0.0)}
    assert len({q.id for q in questions}) == len(questions)
    assert all(isinstance(q.opening, tuple) for q in questions)


def test_names_stand_for_what_the_hub_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []

    def source(*names: str) -> Source:
        asked.append("/".join(names))
        return Source(names[0], [{"prompt": "hi"}])

    monkeypatch.setattr(data, "read", source)
    monkeypatch.setattr(data, "read_hub_file", source)
    for name in benchmarks.HUB:
        assert len(benchmarks.load(name)) == 1
    arena = "lmarena-ai/arena-hard-auto/data/arena-hard-{}/question.jsonl"
    assert asked == [
        "HuggingFaceH4/mt_bench_prompts@train",
        *(arena.format(version) for version in ("v0.1", "v0.1", "v2.0")),
        "HuggingFaceH4/ultrafeedback_binarized@test_prefs",
    ]
    # A file of that name goes first.
    tiny.write_rows(tmp_path / "mt-bench", [{"prompt": "mine"}])
    benchmarks.load("mt-bench")
    assert asked[-1] == "mt-bench"


def test_ultrafeedback_prompts_are_a_user_turn(tmp_path: Path) -> None:
    chosen = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    (question,) = load(tmp_path, {"prompt": "hi", "prompt_id": "x", "chosen": chosen})
    assert (question.id, question.opening) == ("x", (Message("user", "hi"),))
    (flat,) = load(tmp_path, {"prompt": "hi", "chosen": "yo", "rejected": "no"})
    assert (flat.id, flat.opening, flat.temperature) == ("1", "hi", None)


def test_mt_bench_prompts_of_the_hub(tmp_path: Path) -> None:
    (question,) = load(
        tmp_path,
        {"category": "math", "prompt": ["a", "b"], "reference": ["c", None], "prompt_id": 111},
    )
    assert (question.id, question.followups, question.temperature) == ("111", ("b",), 0.0)
    assert question.judged_references == ("c", "")


def test_the_conversation_turn_by_turn(tmp_path: Path) -> None:
    (question,) = load(tmp_path, {"question_id": 1, "turns": ["one", "two", "three"]})
    said = question.conversation(["first", "second"])
    assert not isinstance(said, str)
    assert [(m.role, m.content) for m in said] == [
        ("user", "one"),
        ("assistant", "first"),
        ("user", "two"),
        ("assistant", "second"),
        ("user", "three"),
    ]
    assert question.conversation([]) == question.opening


def test_the_seed_is_of_the_words_and_not_of_the_place(tmp_path: Path) -> None:
    rows = [{"prompt": "the cat"}, {"prompt": "the dog"}, {"prompt": "the cat"}]
    one, two, again = load(tmp_path, *rows)
    two_first, one_second = load(tmp_path, rows[1], rows[0])
    assert one.seed(0, 0) == one_second.seed(0, 0)
    assert two.seed(0, 0) == two_first.seed(0, 0)
    different = {one.seed(0, 0), two.seed(0, 0), again.seed(0, 0), one.seed(1, 0), one.seed(0, 1)}
    assert len(different) == 5


def test_ids_are_unique(tmp_path: Path) -> None:
    rows = [{"prompt_id": "x", "prompt": text} for text in ("a", "b", "a")]
    assert [q.id for q in load(tmp_path, *rows)] == ["x", "x#2", "x#3"]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"turns": []}, "row 1: column 'turns' is not a list of strings"),
        ({"turns": ["a", ""]}, "row 1: column 'turns' is not a list of strings"),
        ({"turns": "a"}, "row 1: column 'turns' is not a list of strings"),
        ({"question": "a"}, "row 1: no column 'prompt'"),
        ({"prompt": "a", "reference": 3}, "row 1: column 'reference' is neither"),
        ({"prompt": "a", "id": ["b"]}, r"row 1: its id is \['b'\]; expected a string or a number"),
        ({"prompt": "a \ud800"}, "row 1: its text contains half of a surrogate pair"),
    ],
)
def test_rows_that_are_no_question(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(SalsaError, match=words):
        load(tmp_path, row)
