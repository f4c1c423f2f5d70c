"""One row of each format of stored verdicts, and results of files of such rows."""

from pathlib import Path
from typing import Any

from salsa_cli.config.eval import EvalConfig
from salsa_cli.evaluation import verdict_files
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.verdicts import formats
from salsa_cli.evaluation.verdicts.formats import Stored
from salsa_cli.runs.events import silent
from tests.support import tiny

SINGLE = {"question_id": 81, "model": "x", "judge": ["gpt-4", "single-v1"], "score": 7, "turn": 2}


PAIR = {
    "question_id": 81,
    "model_1": "x",
    "model_2": "y",
    "g1_winner": "model_1",
    "g2_winner": "tie",
    "judge": ["gpt-4", "pair-v2"],
    "turn": 1,
}


V01 = {
    "question_id": "ab",
    "model": "x",
    "judge": "gpt-4",
    "games": [{"score": "A>>B"}, {"score": "A>B"}],
}


V20 = {
    "uid": "cd",
    "category": "hard_prompt",
    "model": "x",
    "judge": "gpt-4.1",
    "games": [{"score": "A<<B", "judgment": {"answer": "so [[A<<B]]"}}, None],
}


LLMBAR = {
    "i": 3,
    "label": 2,
    "order_12": {"winner": "1", "completion": "Output (a)"},
    "order_21": {"winner": None, "completion": "Neither."},
}


PANDALM = {"idx": 0, "cmp_key": "x_y", "annotator1": 1, "annotator2": 0, "annotator3": 2}


OWN = {"question": "7", "judge": "rm:r", "a": "x", "b": "y", "outcome": 0.5}


UNREAD = {"question": "7", "judge": "rm:r", "a": "x", "b": "y", "invalid": "no verdict found"}


def count_files(tmp_path: Path, *files: list[dict[str, Any]], **changes: Any) -> EvalResult:
    names = tuple(
        str(tiny.write_rows(tmp_path / f"{n}.jsonl", rows)) for n, rows in enumerate(files)
    )
    settings: dict[str, Any] = {"output": tmp_path / "out", "force": True, "draws": 2000}
    result = verdict_files.run(EvalConfig(judgments=names, **{**settings, **changes}), silent)
    assert isinstance(result, EvalResult)
    return result


def pairs(wins: int, ties: int, losses: int, **changes: Any) -> list[dict[str, Any]]:
    winners = ["model_1"] * wins + ["tie"] * ties + ["model_2"] * losses
    return [
        {**PAIR, "question_id": n, "g1_winner": winner, "g2_winner": winner, **changes}
        for n, winner in enumerate(winners)
    ]


def read_verdicts(
    tmp_path: Path, *rows: dict[str, Any], name: str = "j.jsonl", **given: Any
) -> Stored:
    (found,) = formats.read([str(tiny.write_rows(tmp_path / name, list(rows)))], **given)
    return found
