"""FastChat's single grading, pairs and votes, from the smallest rows of each."""

from pathlib import Path

from salsa_cli.evaluation.verdicts.verdict import Verdict
from tests.support.verdict_rows import PAIR, SINGLE
from tests.support.verdict_rows import read_verdicts as read


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
