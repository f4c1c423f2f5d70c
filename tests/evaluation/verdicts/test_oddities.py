"""Remarks on files of verdicts: unknown labels, repeated verdicts."""

from pathlib import Path

from salsa_cli.evaluation.verdicts import oddities
from tests.support.verdict_rows import LLMBAR, PAIR, SINGLE, V01
from tests.support.verdict_rows import read_verdicts as read


def test_labels_that_arena_hard_does_not_know(tmp_path: Path) -> None:
    odd = {**V01, "question_id": "cd", "games": [{"score": "A<B"}, {"score": "A>>>B"}]}
    more = {**V01, "question_id": "ef", "games": [{"score": None}, {"score": "A<B"}]}
    first, second = oddities.remarks([read(tmp_path, V01, odd, more)])
    assert first.endswith(
        "j.jsonl, row 2: a label unknown to the benchmark: A<B; 2 games with it are "
        "counted as invalid"
    )
    assert second.endswith("benchmark: A>>>B; 1 game with it is counted as invalid")
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
        "2 verdicts have an earlier one, 0 of them an exact copy; all are counted"
    )
    again = read(tmp_path, {**SINGLE, "score": 3}, name="again.jsonl")
    (remark,) = oddities.remarks([read(tmp_path, SINGLE, SINGLE), again])
    assert (
        "row 2: the same" in remark
        and "2 verdicts have" in remark
        and ", 1 of them an exact" in remark
    )


def test_gold_labels_stand_beside_every_judge(tmp_path: Path) -> None:
    both = [read(tmp_path, LLMBAR, name=name) for name in ("one.jsonl", "two.jsonl")]
    assert oddities.remarks(both) == []
