"""`--best-of` on models of a few thousand weights, against all subsets of the same samples."""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from salsa_cli import evaluate
from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import UsageError
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.records import read_json, read_rows
from salsa_cli.runs.events import Advanced, DryRun, Event, silent
from tests.support import tiny
from tests.support.worlds import World

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
LENGTH = "def score(prompts, answers):\n    return [float(len(a)) for a in answers]\n"


def configure(world: World, tmp_path: Path, **changes: Any) -> EvalConfig:
    (tmp_path / "taste.py").write_text(LENGTH)
    settings: dict[str, Any] = {
        "models": (str(world.a), str(world.b)),
        "prompts": str(world.prompts),
        "judge": (f"rm:{world.rm}", f"python:{tmp_path / 'taste.py'}:score"),
        "output": tmp_path / "r",
        "response_length": 6,
        "batch_size": 5,
        "draws": 200,
        "device": "cpu",
        "best_of": 3,
        "best_of_models": ("a",),
        "samples_per_prompt": 5,
    }
    return EvalConfig(**{**settings, **changes})


def run(config: EvalConfig, report: Callable[[Event], None] = silent) -> EvalResult:
    result = evaluate.run(config, report)
    assert isinstance(result, EvalResult)
    return result


def table(file: Path, judge: str) -> Array:
    """The rewards of the samples, [prompts, samples]."""
    rows = [row for row in read_rows(file) if row["judge"] == judge]
    return np.array([row["rewards"] for row in sorted(rows, key=lambda row: row["sample"])]).T


def all_subsets(rewards: Array, scores: Array, n: int) -> float:
    """The mean over prompts and subsets; rewards that tie count by the mean of their scores."""
    values = []
    for chosen, counted in zip(rewards, scores, strict=True):
        for subset in combinations(range(len(chosen)), n):
            most = max(chosen[list(subset)])
            values.append(np.mean([counted[i] for i in subset if chosen[i] == most]))
    return float(np.mean(values))


def test_the_best_of_three_is_the_mean_over_all_subsets(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path)
    result = run(config)
    judge = config.judge[0]
    rewards, lengths = (table(tmp_path / "r" / "best_of.jsonl", name) for name in config.judge)
    assert rewards.shape == (12, 5)
    assert [(row.model, row.judge, row.n) for row in result.best_of] == [
        ("a", name, n) for name in config.judge for n in (1, 2, 3)
    ]
    for row in result.best_of:
        scores = rewards if row.judge == judge else lengths
        assert row.score == pytest.approx(all_subsets(rewards, scores, row.n), abs=1e-12)
        assert row.low <= row.score <= row.high and row.chosen_by == judge
        assert (row.prompts, row.samples) == (12, 5)
        assert row.kl == pytest.approx(log(row.n) - (row.n - 1) / row.n, abs=1e-15)
    # The first sample is the answer that is judged; the others are of other seeds.
    scores = {(row.model, row.judge): row.score for row in result.scores}
    assert rewards[:, 0].mean() == pytest.approx(scores["a", judge], abs=1e-6)
    assert len({tuple(column) for column in rewards.T}) == 5
    of_a = next(row for row in result.best_of if (row.judge, row.n) == (judge, 3))
    gap, _ = result.against_best_of
    assert (gap.model, gap.sampled, gap.n, gap.judge) == ("b", "a", 3, judge)
    assert gap.difference == pytest.approx(scores["b", judge] - of_a.score, abs=1e-6)
    assert gap.low <= gap.difference <= gap.high
    text = result.summary()[0]
    assert "the best of 3 of a scores " in text and "at most 0.43 nats per answer" in text
    assert "the best of 3 of a, chosen by rm:rm, scores " in text
    assert "b scores " in text and " compared with the best of 3 of a (" in text
    assert EvalResult.of(read_json(tmp_path / "r" / "results.json")) == result
    assert "Best of n" in (tmp_path / "r" / "report.html").read_text()


def test_results_of_before_have_none(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path, best_of=None, best_of_models=(), samples_per_prompt=None)
    result = run(config)
    stored = read_json(tmp_path / "r" / "results.json")
    del stored["best_of"], stored["against_best_of"]
    assert EvalResult.of(stored) == result and result.best_of == ()


def test_a_run_that_stopped_goes_on(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path)

    class Stopped(Exception):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, Advanced) and event.stage == "samples of a" and event.done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(config, stop)
    file = tmp_path / "r.partial" / "best_of.jsonl"
    rows = read_rows(file)
    assert len(rows) == 6  # three passes, two judges
    rows[0]["rewards"] = [700.0] * 12
    tiny.write_rows(file, rows)
    heard: list[Event] = []
    result = run(replace(config, resume=True), heard.append)
    done = [one.done for one in heard if isinstance(one, Advanced) and "samples" in one.stage]
    assert done == [4, 5]
    whole = run(replace(config, output=tmp_path / "whole"))
    # The mark on what was there is still on it; everything else is the same.
    assert result.best_of[2].score > 100 > whole.best_of[2].score
    again, fresh = (
        table(tmp_path / name / "best_of.jsonl", config.judge[0])[:, 1:] for name in ("r", "whole")
    )
    assert np.array_equal(again, fresh)


def test_all_models_and_four_times_as_many_samples_by_default(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path, best_of=2, best_of_models=(), samples_per_prompt=None)
    plan = evaluate.run(replace(config, dry_run=True), silent)
    assert isinstance(plan, DryRun)
    assert plan.facts["answers to sample for best of N"] == 2 * 12 * 7
    result = run(config)
    assert {(row.model, row.samples) for row in result.best_of} == {("a", 8), ("b", 8)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"best_of": None}, "--best-of-models, --samples-per-prompt has no effect without"),
        ({"samples_per_prompt": 2}, r"--best-of 3 .* --samples-per-prompt 2; expected at least 3"),
        ({"best_of_models": ("c",)}, r"--best-of-models c: no such model; .* of a, b"),
        ({"temperature": 0.0}, "prompt 1 is answered at temperature 0"),
        ({"models": (), "answers": ("x=FILE",)}, "--best-of needs a MODEL"),
        (
            {"judge": ("openai:m",), "grading": "single", "base_url": "http://localhost:1"},
            "--best-of needs a judge that returns scores",
        ),
    ],
)
def test_what_is_refused(world: World, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        run(configure(world, tmp_path, **changes))
