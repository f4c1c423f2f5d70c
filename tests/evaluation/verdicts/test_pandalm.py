"""PandaLM's annotators, and the verdicts of a model on the same items."""

from pathlib import Path

from salsa_cli.evaluation.verdicts import formats
from tests.support import tiny
from tests.support.verdict_rows import PANDALM


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
