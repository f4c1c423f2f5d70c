"""Files of stored verdicts: each format by its smallest row, and rows that are wrong."""

from pathlib import Path
from typing import Any

import pytest

from salsa_cli.evaluation.results import style_control
from salsa_cli.evaluation.results.style_control import AnswerStyle, StoredAnswer
from salsa_cli.evaluation.verdicts import formats, oddities
from salsa_cli.evaluation.verdicts.formats import Stored
from salsa_cli.evaluation.verdicts.verdict import Verdict
from tests.support import tiny
from tests.support.files import failure
from tests.support.verdict_rows import LLMBAR, OWN, PAIR, PANDALM, SINGLE, UNREAD, V01, V20


def read(tmp_path: Path, *rows: dict[str, Any], name: str = "j.jsonl", **given: Any) -> Stored:
    (found,) = formats.read([str(tiny.write_rows(tmp_path / name, list(rows)))], **given)
    return found


def test_fastchat_single(tmp_path: Path) -> None:
    found = read(tmp_path, SINGLE, {**SINGLE, "score": -1, "judgment": "Hm."})
    assert found.format == "FastChat single"
    good, failed = found.verdicts
    assert good == Verdict("81", "gpt-4", "x", turn=2, score_a=7.0)
    assert failed.score_a is None and failed.invalid is not None and failed.text == "Hm."


def test_fastchat_pair(tmp_path: Path) -> None:
    found = read(tmp_path, PAIR, {**PAIR, "g1_winner": "error", "g2_winner": "model_2"})
    assert found.format == "FastChat pairwise"
    assert [(v.order, v.outcome) for v in found.verdicts] == [
        ("ab", 1.0),
        ("ba", 0.5),
        ("ab", None),
        ("ba", 0.0),
    ]
    assert {(v.question, v.judge, v.a, v.b) for v in found.verdicts} == {("81", "gpt-4", "x", "y")}


def test_fastchat_votes(tmp_path: Path) -> None:
    vote = {"question_id": 81, "model_a": "x", "model_b": "y", "winner": "model_b", "turn": 2}
    vote |= {"judge": "expert_0"}
    found = read(tmp_path, vote, {**vote, "winner": "tie (inconsistent)"})
    assert found.format == "FastChat votes"
    assert found.verdicts[0] == Verdict("81", "expert_0", "x", "y", turn=2, outcome=0.0)
    assert found.verdicts[1].outcome == 0.5


def test_arena_hard_v01(tmp_path: Path) -> None:
    odd = {**V01, "games": [{"score": None}, {"score": "A<B"}]}
    found = read(tmp_path, V01, odd, baseline="base")
    assert found.format == "Arena-Hard v0.1"
    first, second, none, unknown = found.verdicts
    # The baseline is shown first in the first game: A>>B is a strong loss of the model.
    assert first == Verdict("ab", "gpt-4", "x", "base", order="ba", outcome=0.0, strong=True)
    assert second == Verdict("ab", "gpt-4", "x", "base", order="ab", outcome=1.0)
    assert none.invalid == "no label in the judge's text"
    assert unknown.invalid == "a label that the benchmark does not know: A<B"
    assert read(tmp_path, V01).verdicts[0].b == "gpt-4-0314"


def test_arena_hard_v20(tmp_path: Path) -> None:
    found = read(tmp_path, V20)
    assert found.format == "Arena-Hard v2.0"
    strong, failed = found.verdicts
    assert (strong.b, strong.outcome, strong.strong) == ("o3-mini-2025-01-31", 1.0, True)
    assert (strong.category, strong.text) == ("hard_prompt", "so [[A<<B]]")
    assert failed.invalid is not None and failed.order == "ab"
    story = {**V20, "category": "creative_writing"}
    assert read(tmp_path, story).verdicts[0].b == "gemini-2.0-flash-001"
    assert read(tmp_path, story, baseline="z").verdicts[0].b == "z"
    assert read(tmp_path, {**story, "baseline": "w"}, baseline="z").verdicts[0].b == "w"
    lost = failure(lambda: read(tmp_path, {**V20, "category": "poems"}))
    assert lost.endswith("row 1: no baseline for category 'poems'; name it with --baseline")


def test_llmbar(tmp_path: Path) -> None:
    folder = tmp_path / "natural" / "result"
    folder.mkdir(parents=True)
    found = read(folder, LLMBAR, name="GPT-4__CoT.jsonl")
    assert (found.format, found.gold) == ("LLMBar", "label")
    label, first, second = found.verdicts
    assert (label.judge, label.outcome, label.order) == ("label", 0.0, None)
    assert (first.judge, first.outcome, first.order) == ("GPT-4__CoT", 1.0, "ab")
    assert second.invalid is not None and second.order == "ba"
    assert {v.question for v in found.verdicts} == {"natural/3"}


def test_pandalm(tmp_path: Path) -> None:
    people = tiny.write_rows(tmp_path / "testset.jsonl", [PANDALM])
    said = [{"idx": 0, "gpt_result": "Tie"}, {"idx": 1, "gpt_result": "garbage"}]
    model = tiny.write_rows(tmp_path / "gpt_verdicts.jsonl", said)
    # The model's file comes first: the names of its sides are in the other.
    verdicts = [v for one in formats.read([str(model), str(people)]) for v in one.verdicts]
    assert [(v.judge, v.a, v.b, v.outcome) for v in verdicts] == [
        ("gpt", "x", "y", 0.5),
        ("gpt", "response1", "response2", None),
        ("annotator1", "x", "y", 1.0),
        ("annotator2", "x", "y", 0.5),
        ("annotator3", "x", "y", 0.0),
    ]


def test_our_own(tmp_path: Path) -> None:
    first = {"prompt": 3, "a": "x", "b": "y", "judge": "rm:r", "outcome": 1.0, "score_a": 2.0}
    assert read(tmp_path, OWN).verdicts == [Verdict("7", "rm:r", "x", "y", outcome=0.5)]
    assert read(tmp_path, {**first, "score_b": 1.0}).verdicts[0].question == "3"


def test_a_folder_is_its_files(tmp_path: Path) -> None:
    for name in ("b", "a"):
        tiny.write_rows(tmp_path / f"{name}.jsonl", [{**V01, "model": name}])
    found = formats.read([str(tmp_path)])
    assert [Path(one.source).name for one in found] == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("row", "changes", "words"),
    [
        (SINGLE, {"score": "7"}, "column 'score' is '7'; expected a number"),
        (SINGLE, {"score": float("nan")}, "column 'score' is nan; expected a number"),
        (SINGLE, {"score": 10**400}, "expected a number"),
        (SINGLE, {"model": "\ud800"}, r"column 'model' is '\ud800'; it holds half of a surrogate"),
        (SINGLE, {"model": ""}, "column 'model' is ''; expected a text"),
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
        (V01, {"games": [{"score": ""}]}, "or null where the judge gave none"),
        (LLMBAR, {"label": 3}, "column 'label' is 3; expected one of 1, 2"),
        (LLMBAR, {"label": True}, "column 'label' is True; expected one of 1, 2"),
        (LLMBAR, {"order_12": {"winner": [1]}}, "expected a 'winner' of 1, 2 or nothing"),
        (LLMBAR, {"order_12": {"winner": True}}, "expected a 'winner' of 1, 2 or nothing"),
        (LLMBAR, {"order_12": {"winner": "a"}}, "expected a 'winner' of 1, 2 or nothing"),
        (PANDALM, {"annotator2": 3}, "column 'annotator2' is 3; expected one of 0, 1, 2"),
        (PANDALM, {"cmp_key": "x"}, "column 'cmp_key' is 'x'; expected MODEL_MODEL"),
        (OWN, {"outcome": 3}, "column 'outcome' is 3; expected 0, 0.5 or 1"),
        (OWN, {"turn": 0}, "column 'turn' is 0; expected 1 or more"),
        (OWN, {"a": ""}, "column 'a' is ''; expected a text"),
        (OWN, {"score_a": float("nan")}, "column 'score_a' is nan; expected a finite number"),
        (UNREAD, {"outcome": 1}, "'outcome' beside 'invalid'; expected one of them to be absent"),
    ],
)
def test_rows_that_are_wrong(
    row: dict[str, Any], changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    message = failure(lambda: read(tmp_path, row, {**row, **changes}))
    assert "j.jsonl, row 2: " in message and words in message


def test_labels_that_arena_hard_does_not_know(tmp_path: Path) -> None:
    odd = {**V01, "question_id": "cd", "games": [{"score": "A<B"}, {"score": "A>>>B"}]}
    more = {**V01, "question_id": "ef", "games": [{"score": None}, {"score": "A<B"}]}
    first, second = oddities.remarks([read(tmp_path, V01, odd, more)])
    assert first.endswith(
        "j.jsonl, row 2: a label that the benchmark does not know: A<B; 2 games with it are "
        "counted as invalid"
    )
    assert second.endswith("know: A>>>B; 1 game with it is counted as invalid")
    assert oddities.remarks([read(tmp_path, V01)]) == []


def test_verdicts_that_repeat_an_earlier_one(tmp_path: Path) -> None:
    other = {**PAIR, "model_1": "y", "model_2": "x"}
    rows = [PAIR, {**PAIR, "question_id": 82}, {**PAIR, "turn": 2}, {**PAIR, "judge": "human"}]
    assert oddities.remarks([read(tmp_path, *rows)]) == []
    # Told from the other side, its first game is the second of the first row, and says otherwise.
    (remark,) = oddities.remarks([read(tmp_path, *rows, other)])
    place = tmp_path / "j.jsonl"
    assert remark == (
        f"{place}, row 5: the same question, models, order and judge as {place}, row 1. "
        "2 verdicts have an earlier one like that, 0 of them a copy of it; each is counted"
    )
    again = read(tmp_path, {**SINGLE, "score": 3}, name="again.jsonl")
    (remark,) = oddities.remarks([read(tmp_path, SINGLE, SINGLE), again])
    assert "row 2: the same" in remark and "2 verdicts have" in remark and ", 1 of them a" in remark


def test_gold_labels_stand_beside_every_judge(tmp_path: Path) -> None:
    both = [read(tmp_path, LLMBAR, name=name) for name in ("one.jsonl", "two.jsonl")]
    assert oddities.remarks(both) == []


def test_a_file_that_is_named_twice(tmp_path: Path) -> None:
    file = tiny.write_rows(tmp_path / "j.jsonl", [PAIR])
    message = failure(lambda: formats.read([str(file), str(tmp_path)]))
    assert message == f"{file} is named 2 times; name it once"


def test_a_row_that_lacks_a_column(tmp_path: Path) -> None:
    short = {key: value for key, value in PAIR.items() if key != "g2_winner"}
    message = failure(lambda: read(tmp_path, PAIR, short))
    assert message.endswith("row 2: no column g2_winner, which FastChat pairwise has")


def test_a_file_of_something_else(tmp_path: Path) -> None:
    message = failure(lambda: read(tmp_path, {"question_id": 1, "turns": []}))
    assert "the first row has the columns question_id, turns; expected a file of" in message


# --- the style of answers ---


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
