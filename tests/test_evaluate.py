"""The story of `eval` on models of a few thousand weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from salsa_cli import evaluate
from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation import judges
from salsa_cli.evaluation.judges import scoring
from salsa_cli.evaluation.judges.scoring import Scored
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.records import read_rows
from salsa_cli.runs.events import Event, Note, silent
from tests.support import tiny
from tests.support.worlds import World


def configure(world: World, output: Path, *models: object, **changes: Any) -> EvalConfig:
    settings: dict[str, Any] = {
        "models": tuple(str(model) for model in models),
        "prompts": str(world.prompts),
        "judge": (f"rm:{world.rm}",),
        "output": output,
        "response_length": 6,
        "batch_size": 5,
        "draws": 1000,
        "device": "cpu",
    }
    return EvalConfig(**{**settings, **changes})


def run(config: EvalConfig) -> EvalResult:
    result = evaluate.run(config, silent)
    assert isinstance(result, EvalResult)
    return result


def test_the_result(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "r", world.a, world.b)
    result = run(config)
    (pair,) = result.pairs
    assert (pair.a, pair.b, pair.judge) == ("a", "b", f"rm:{world.rm}")
    assert pair.n == 12 == pair.wins + pair.losses + pair.ties
    assert pair.win_rate == pytest.approx((pair.wins + pair.ties / 2) / 12)
    assert pair.low <= pair.win_rate <= pair.high
    stored = json.loads((tmp_path / "r" / "results.json").read_text())
    assert stored["pairs"][0]["win_rate"] == pair.win_rate
    answers = read_rows(tmp_path / "r" / "answers" / "a.jsonl")
    assert len(answers) == 12 and answers[0]["prompt"] == "the a"
    verdicts = read_rows(tmp_path / "r" / "judgments.jsonl")
    assert sum(v["outcome"] for v in verdicts) / 12 == pytest.approx(pair.win_rate)
    text, table = result.summary()
    assert "12 prompts" in text and table is not None


def test_turning_the_models_round_turns_the_rate_round(world: World, tmp_path: Path) -> None:
    (ab,) = run(configure(world, tmp_path / "ab", world.a, world.b)).pairs
    (ba,) = run(configure(world, tmp_path / "ba", world.b, world.a)).pairs
    assert ba.win_rate == 1 - ab.win_rate
    assert (ba.wins, ba.losses, ba.ties) == (ab.losses, ab.wins, ab.ties)
    assert (ba.low, ba.high) == pytest.approx((1 - ab.high, 1 - ab.low))


def test_a_model_against_itself_is_even(world: World, tmp_path: Path) -> None:
    (pair,) = run(configure(world, tmp_path / "r", world.a, f"again={world.a}")).pairs
    assert (pair.win_rate, pair.low, pair.high, pair.ties) == (0.5, 0.5, 0.5, 12)


def test_a_complete_run_that_is_resumed_is_handed_back(world: World, tmp_path: Path) -> None:
    models = (str(world.a), str(world.b))
    landscape = {"anchors": (str(world.a),), "line": models, "points": 2}
    config = configure(world, tmp_path / "r", *models, **landscape)
    result = run(config)
    heard: list[Event] = []
    again = evaluate.run(
        replace(config, resume=True, batch_size=3, max_invalid=0.0, concurrency=2), heard.append
    )
    assert again == result and again.summary() == result.summary()
    assert heard == [Note(f"{config.output} is already complete; nothing to do")]
    with pytest.raises(SalsaError, match=r"is complete, but .* seed was 0, is 1"):
        run(replace(config, resume=True, seed=1))
    with pytest.raises(SalsaError, match="already exists"):
        run(config)


def test_answers_do_not_depend_on_the_batch_size(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "five", world.a)
    run(config)
    run(replace(config, batch_size=1, output=tmp_path / "one"))
    five, one = (tmp_path / name / "answers" / "a.jsonl" for name in ("five", "one"))
    assert five.read_bytes() == one.read_bytes()


def test_one_model_alone_gets_scores(world: World, tmp_path: Path) -> None:
    result = run(configure(world, tmp_path / "r", world.a))
    assert result.pairs == ()
    (row,) = result.scores
    assert row.n == 12 and row.low <= row.score <= row.high
    _, table = result.summary()
    assert table is not None and table.rows[0][0] == "a"


def test_an_ensemble_is_one_judge(world: World, tmp_path: Path) -> None:
    for place, seed in enumerate((7, 8)):
        tiny.save_reward_model(tmp_path / "rms" / str(place), seed=seed)
    names = [tmp_path / "rms", tmp_path / "rms" / "0", tmp_path / "rms" / "1"]
    judge = tuple(f"rm:{name}" for name in names)
    result = run(configure(world, tmp_path / "r", world.a, world.b, judge=judge))
    scores = {(row.model, row.judge): row.score for row in result.scores}
    for model in ("a", "b"):
        both, first, second = (scores[model, name] for name in judge)
        assert both == pytest.approx((first + second) / 2, abs=1e-6)
    made = json.loads((tmp_path / "r" / "salsa.json").read_text())
    assert len(made["inputs"]["judges"][0]["members"]) == 2


def test_a_function_judges_beside_a_reward_model(world: World, tmp_path: Path) -> None:
    (tmp_path / "taste.py").write_text(
        "def score(prompts, answers):\n    return [len(a) for a in answers]\n"
    )
    judge = f"python:{tmp_path / 'taste.py'}:score"
    config = configure(
        world, tmp_path / "r", world.a, world.b, world.soup, judge=(f"rm:{world.rm}", judge)
    )
    result = run(config)
    assert [(p.a, p.b) for p in result.pairs if p.judge == judge] == [
        ("a", "b"),
        ("a", "soup"),
        ("b", "soup"),
    ]
    assert len(result.scores) == 6


def test_verdicts_by_hand() -> None:
    turns = scoring.turns_of([Question(name, "the cat") for name in "123"])
    scored = Scored("j", turns, {"x": [1.0, 2.0, 3.0], "y": [0.0, 2.0, 5.0]})
    found = scoring.verdicts(scored, [("x", "y")])
    assert [verdict.outcome for verdict in found] == [1.0, 0.5, 0.0]
    assert scoring.verdicts(scored, []) == []


def test_two_models_of_one_name(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "r", world.a, world.a)
    with pytest.raises(UsageError, match=r"two models are called 'a'; .* NAME=MODEL"):
        evaluate.run(config, silent)


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ("gpt", "expected rm:MODEL"),
        ("rm:", "expected rm:MODEL"),
        ("rm:taste.py:score", "expected a model folder"),
        ("python:nowhere", "expected FILE.py:FUNCTION"),
    ],
)
def test_judges_that_cannot_be(judge: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        judges.parse(judge)


def test_functions_that_fail(world: World, tmp_path: Path) -> None:
    source = tmp_path / "bad.py"
    source.write_text(
        "def short(p, a):\n    return [1.0]\n"
        "def nan(p, a):\n    return [float('nan')] * len(a)\n"
        "def crash(p, a):\n    return 1 / 0\n"
        "def huge(p, a):\n    return [1e300] * len(a)\n"
    )
    for name, words in (
        ("short", "returned 1 score for"),
        ("nan", "not a finite float32 number"),
        ("crash", "failed: ZeroDivisionError"),
        ("huge", "returned a score that is not a finite float32 number"),
        ("absent", "has no function 'absent'"),
    ):
        judge = f"python:{source}:{name}"
        config = configure(world, tmp_path / "r", world.a, judge=(judge,), force=True)
        with pytest.raises(SalsaError, match=words):
            evaluate.run(config, silent)
        assert not config.output.exists()
    with pytest.raises(SalsaError, match="cannot import"):
        judges.parse(f"python:{tmp_path / 'none.py'}:score")


def test_a_prompt_that_leaves_no_room(world: World, tmp_path: Path) -> None:
    path = tiny.write_rows(tmp_path / "p.jsonl", [{"prompt": " ".join(["the"] * 60)}])
    config = configure(world, tmp_path / "r", world.a, prompts=str(path))
    with pytest.raises(
        SalsaError, match="prompt 1: 60 tokens and --response-length 6 exceed the 64"
    ):
        evaluate.run(config, silent)


@pytest.mark.parametrize("code", ["sys.exit(3)", "raise SystemExit"])
def test_a_function_that_exits_is_a_judge_that_fails(
    world: World, tmp_path: Path, code: str
) -> None:
    file = tmp_path / "exits.py"
    file.write_text(f"import sys\ndef score(prompts, answers):\n    {code}\n")
    with pytest.raises(SalsaError, match=r"exits.py:score failed: SystemExit"):
        run(configure(world, tmp_path / "r", world.a, judge=(f"python:{file}:score",)))
    file.write_text(f"import sys\n{code}\n")
    with pytest.raises(SalsaError, match=r"cannot import .*exits.py \(SystemExit"):
        run(configure(world, tmp_path / "s", world.a, judge=(f"python:{file}:score",)))


def test_arms_of_several_runs(world: World, tmp_path: Path) -> None:
    """Two runs an arm: scores, win rates of matched runs, sentences; nothing is asked twice."""
    config = configure(
        world, tmp_path / "r", f"x={world.a},{world.b}", f"y={world.soup},{world.rm.parent}/c"
    )
    tiny.save_language_model(world.rm.parent / "c", seed=3, scale=0.1)
    result = run(config)
    assert [(row.a, row.b) for row in result.pairs] == [("x/a", "y/soup"), ("x/b", "y/c")]
    assert [(row.arm, row.runs, row.n) for row in result.arms.rows] == [("x", 2, 12), ("y", 2, 12)]
    measures = {row.measure: row for row in result.arms.pairs}
    means = {row.model: row.score for row in result.scores}
    expected = (means["x/a"] + means["x/b"] - means["y/soup"] - means["y/c"]) / 2
    assert measures["score"].difference == pytest.approx(expected)
    rates = [row.win_rate for row in result.pairs]
    assert measures["win rate"].difference + 0.5 == pytest.approx(sum(rates) / 2)
    text, table = result.summary()
    assert "no significant difference" in text and table is not None and len(table.rows) == 2
    again = run(replace(config, resume=True))
    assert again == result
    assert "Arms" in (tmp_path / "r" / "report.html").read_text()


def test_the_baseline_holds_for_judges_that_score(world: World, tmp_path: Path) -> None:
    result = run(configure(world, tmp_path / "r", world.a, world.b, world.soup, baseline="b"))
    assert [(row.a, row.b) for row in result.pairs] == [("a", "b"), ("soup", "b")]
