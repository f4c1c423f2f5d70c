"""Files of publishers: AlpacaEval, JudgeBench, RewardBench, evalscope, FastChat's newer columns."""

import html
import json
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation import verdict_files
from salsa_cli.evaluation.results import judge_agreement, win_rates
from salsa_cli.evaluation.results.comparisons import Rules
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.results.win_rates import Resampling
from salsa_cli.evaluation.verdicts import formats, oddities
from salsa_cli.evaluation.verdicts.verdict import Verdict
from salsa_cli.runs.events import silent
from tests.support import tiny
from tests.support.files import failure
from tests.support.verdict_rows import PAIR
from tests.support.verdict_rows import read_verdicts as read

FEW = Resampling(seed=0, draws=100)

ALPACA = {
    "instruction": "Say hello.",
    "output_1": "Hello.",
    "generator_1": "gpt4_turbo",
    "output_2": "Hello there.",
    "generator_2": "mine",
    "dataset": "helpful_base",
    "annotator": "weighted_alpaca_eval_gpt4_turbo",
    "preference": 1.75,
}
JUDGED = {
    "pair_id": "e30",
    "source": "mmlu-pro-law",
    "response_A": "F",
    "response_B": "A",
    "label": "A>B",
    "judge_name": "arena_hard",
    "judgments": [
        {"judgment": {"response": "so [[A>>B]]"}, "decision": "A>B"},
        {"judgment": {"response": "so [[B>A]]"}, "decision": "B>A"},
    ],
}


def written(path: Path, value: object) -> str:
    path.write_text(json.dumps(value))
    return str(path)


def test_alpaca_eval(tmp_path: Path) -> None:
    values = [1.75, 1, 2, 1.5, 0, None]
    file = read(tmp_path, *({**ALPACA, "preference": value} for value in values))
    assert [(v.a, v.b, v.outcome) for v in file.verdicts] == [
        ("mine", "gpt4_turbo", outcome) for outcome in (0.75, 0.0, 1.0, 0.5, 0.5, None)
    ]
    assert {v.judge for v in file.verdicts} == {"weighted_alpaca_eval_gpt4_turbo"}
    # One instruction is one question, in the files of all models.
    assert len({v.question for v in file.verdicts}) == 1
    assert file.outputs["mine"] == {file.verdicts[0].question: "Hello there."}


@pytest.mark.parametrize("value", [0.5, 2.5, "1", True])
def test_a_preference_that_is_none(tmp_path: Path, value: object) -> None:
    message = failure(lambda: read(tmp_path, {**ALPACA, "preference": value}))
    assert "expected a number from 1 to 2" in message


def test_alpaca_eval_at_equal_length(tmp_path: Path) -> None:
    # The longer output wins, by 0.8 whoever gave it: at equal length the two are even.
    rows = [
        {
            **ALPACA,
            "instruction": f"question {n}",
            "output_1": "word " * (10 + 5 * (n % 2)),
            "output_2": "word " * (15 - 5 * (n % 2)),
            "preference": 1.8 - 0.6 * (n % 2),
        }
        for n in range(40)
    ]
    file = written(tmp_path / "annotations.json", rows)
    config = EvalConfig(judgments=(file,), output=tmp_path / "out", draws=200)
    result = verdict_files.run(config, silent)
    assert isinstance(result, EvalResult)
    assert result.pairs[0].win_rate == pytest.approx(0.5, abs=1e-12)
    length = result.controlled[0].rows[0]
    assert (length.control, length.model) == ("length", "mine")
    assert length.win_rate == pytest.approx(0.5, abs=1e-6)
    # No reader can take it for the published rate, in the terminal, the record or the page.
    words = "salsa's own. They are not AlpacaEval's length-controlled win rate"
    assert [words in remark for remark in result.remarks] == [True]
    assert any(words in str(line) for line in result.summary())
    assert words in html.unescape((tmp_path / "out" / "report.html").read_text())
    assert {row.category: row.win_rate for row in result.lengths} == {
        "shorter": pytest.approx(0.2),
        "longer": pytest.approx(0.8),
    }


def test_preferences_counted_from_nought_are_remarked_on(tmp_path: Path) -> None:
    def remarks(*values: float) -> list[str]:
        return oddities.remarks(
            [
                read(
                    tmp_path,
                    *(
                        {**ALPACA, "instruction": str(n), "preference": value}
                        for n, value in enumerate(values)
                    ),
                )
            ]
        )

    (remark,) = remarks(0, 1, 0, 1)
    assert "every preference is 0 (a draw) or 1 (for output_1)" in remark
    assert remarks(0, 1, 2) == remarks(1, 1) == remarks(1.5, 2) == []


def test_numbers_of_csv_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "n.csv"
    path.write_text("l,r,w,t\nx,y,tie,1\nx,y,0.25,2\nx,y,,1\n")
    (file,) = formats.read([str(path)], columns=["a=l,b=r,outcome=w,turn=t"])
    assert [(v.outcome, v.turn) for v in file.verdicts] == [(0.5, 1), (0.25, 2), (None, 1)]
    path.write_text("question_id,model,judge,score\n1,x,gpt-4,7.5\n")
    (file,) = formats.read([str(path)])
    assert file.verdicts[0].score_a == 7.5


def test_judge_bench(tmp_path: Path) -> None:
    name = "dataset=judgebench,response_model=gpt-4o,judge_name=arena_hard,judge_model=o1.jsonl"
    other = {**JUDGED, "pair_id": "2d9", "judgments": [JUDGED["judgments"][0], None]}
    path = tiny.write_rows(tmp_path / name, [JUDGED, other])
    (file,) = formats.read([str(path)])
    label, first, second = file.verdicts[:3]
    assert (label.judge, label.outcome) == ("label", 1.0) == (file.gold, 1.0)
    # The second was shown the responses in the other order: it says the same.
    assert [(v.judge, v.order, v.outcome) for v in (first, second)] == [
        ("o1", "ab", 1.0),
        ("o1", "ba", 1.0),
    ]
    (row,) = judge_agreement.accuracies([file], FEW)
    assert (row.n, row.correct_forward, row.correct_backward, row.invalid) == (2, 2, 1, 1)


def test_reward_bench_results(tmp_path: Path) -> None:
    columns = {
        "id": ["0", "1", "2", "3"],
        "subset": ["Focus", "Focus", "Math", "Math"],
        "results": [1, 0, 0.25, None],
        "model": "org/rm",
    }
    (file,) = formats.read([written(tmp_path / "rm.json", columns)])
    assert {v.judge for v in file.verdicts} == {"org/rm"}
    compared = win_rates.comparisons([file], Rules())
    found = {r.category: r.win_rate for r in win_rates.category_rows(compared, Rules(), FEW)}
    assert found == {"Focus": 0.5, "Math": 0.25}


def test_evalscope(tmp_path: Path) -> None:
    games = [
        {"model_a": "qwen", "model_b": "base", "judgment": "A>>B"},
        {"model_a": "base", "model_b": "qwen", "judgment": "A>B"},
    ]
    review = {"sample_score": {"score": {"metadata": {"battle_result": {"games": games}}}}}
    file = read(tmp_path, {"index": 4, **review}, {"index": 5, "sample_score": {}} | review)
    assert [(v.question, v.a, v.b, v.order, v.outcome, v.strong) for v in file.verdicts[:2]] == [
        ("4", "qwen", "base", "ab", 1.0, True),
        ("4", "qwen", "base", "ba", 0.0, False),
    ]
    message = failure(lambda: read(tmp_path, {"index": 4, "sample_score": {}}))
    assert "no 'battle_result' in the metadata of its score" in message


def test_fastchat_with_judge_model(tmp_path: Path) -> None:
    row = {key: value for key, value in PAIR.items() if key != "judge"}
    file = read(tmp_path, {**row, "judge_model": "gpt-4", "judge_prompt": "pair"})
    assert (file.format, file.verdicts[0].judge) == ("FastChat pairwise", "gpt-4")


def test_llmbar_of_its_repository(tmp_path: Path) -> None:
    place = tmp_path / "LLMBar" / "Natural" / "evaluators" / "GPT-4" / "Vanilla"
    place.mkdir(parents=True)
    game = {"completion": ["Output (a)", "stop"], "winner": "1"}
    row = {
        "input": "i",
        "output_1": "a",
        "output_2": "b",
        "label": 1,
        "results": [{"swap = False": game, "swap = True": {**game, "winner": None}}],
    }
    (file,) = formats.read([written(place / "result.json", [row])])
    assert [(v.judge, v.order, v.outcome, v.category) for v in file.verdicts] == [
        ("label", None, 1.0, "Natural"),
        ("GPT-4/Vanilla", "ab", 1.0, "Natural"),
        ("GPT-4/Vanilla", "ba", None, "Natural"),
    ]


def test_a_near_miss_says_what_is_missing(tmp_path: Path) -> None:
    row = {("g2_win" if key == "g2_winner" else key): value for key, value in PAIR.items()}
    message = failure(lambda: read(tmp_path, row))
    assert (
        "the closest format is FastChat pairwise, which also needs g2_winner (is it g2_win?)"
    ) in message
    assert "--columns a=COLUMN" in message


def unknown(path: Path) -> str:
    rows: list[dict[str, Any]] = [
        {"id": 1, "left": "x", "right": "y", "vote": "left", "who": "ann"},
        {"id": 2, "left": "x", "right": "y", "vote": "tie", "who": "ann"},
        {"id": 3, "left": "x", "right": "y", "vote": "y", "who": "bob"},
        {"id": 4, "left": "x", "right": "y", "vote": 0.25, "who": "bob"},
        {"id": 5, "left": "x", "right": "y", "vote": None, "who": "bob"},
    ]
    return str(tiny.write_rows(path / "votes.jsonl", rows))


def test_columns_of_a_file_that_is_not_known(tmp_path: Path) -> None:
    name = unknown(tmp_path)
    with pytest.raises(SalsaError, match="unknown format of stored verdicts"):
        formats.read([name])
    (file,) = formats.read([name], columns=("a=left,b=right,outcome=vote", "question=id,judge=who"))
    assert file.verdicts == [
        Verdict("1", "ann", "x", "y", outcome=1.0),
        Verdict("2", "ann", "x", "y", outcome=0.5),
        Verdict("3", "bob", "x", "y", outcome=0.0),
        Verdict("4", "bob", "x", "y", outcome=0.25),
        Verdict("5", "bob", "x", "y", invalid="no verdict"),
    ]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("a", "--columns a: expected NAME=COLUMN, each NAME once, of a, b, outcome"),
        ("a=left,a=right", "each NAME once"),
        ("left=a", "expected NAME=COLUMN"),
        ("a=left,b=right", "--columns has no outcome; expected a, b and outcome"),
        ("a=left", "--columns has no score_a"),
        ("a=left,b=right,outcome=win", r"has no column win; it has id, left, right, vote, who"),
    ],
)
def test_columns_that_cannot_be(tmp_path: Path, columns: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        formats.read([unknown(tmp_path)], columns=(columns,))


def test_columns_without_effect(tmp_path: Path) -> None:
    name = str(tiny.write_rows(tmp_path / "v.jsonl", [PAIR]))
    with pytest.raises(UsageError, match="--columns has no effect: the format of every file is"):
        formats.read([name], columns=("a=model_1,b=model_2,outcome=g1_winner",))
    with pytest.raises(UsageError, match="--columns has no effect without --judgments"):
        EvalConfig(
            models=("m",), prompts="p", judge=("rm:r",), columns=("a=x",), output=tmp_path / "o"
        )


def test_fractions_count_as_they_are() -> None:
    verdicts = [Verdict(str(n), "j", "x", "y", outcome=v) for n, v in enumerate([0.9, 0.3, 0.6])]
    file = formats.Stored("f", "salsa", formats.Convention(), verdicts)
    rows = {}
    for baseline in ("y", "x"):
        rules = Rules(baseline=baseline)
        (rows[baseline],) = win_rates.pair_rows(win_rates.comparisons([file], rules), rules, FEW)
    assert rows["y"].win_rate == pytest.approx(0.6) and rows["y"].wins == 2
    assert rows["x"].win_rate == pytest.approx(1 - rows["y"].win_rate, abs=1e-12)
