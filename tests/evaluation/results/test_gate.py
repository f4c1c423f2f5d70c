"""`--fail-under`: which pair it is about, where its edge is, and that the results are there."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from salsa_cli import evaluate
from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import UsageError
from salsa_cli.evaluation import verdict_files
from salsa_cli.evaluation.results import gate
from salsa_cli.evaluation.results.arm_results import ArmPairRow, ArmResults
from salsa_cli.evaluation.results.eval_result import EvalResult
from salsa_cli.evaluation.results.win_rates import PairRow
from salsa_cli.runs.events import GateFailed, Result, silent
from tests.support import commands, tiny
from tests.support.verdict_rows import SINGLE, pairs
from tests.support.worlds import World


def row(a: str, b: str, low: float, n: int = 10) -> PairRow:
    return PairRow(a, b, "rm:p/rm", low + 0.1, low, low + 0.2, n, n, 0, 0, 0)


def gated(rows: list[PairRow], **changes: Any) -> Result:
    config = EvalConfig(judgments=("FILE",), output=Path("r"), **changes)
    return gate.gated(EvalResult("r", 10, tuple(rows), (), (), 1.0), config)


def test_the_edge() -> None:
    assert isinstance(gated([row("x", "y", 0.3)]), EvalResult)
    assert isinstance(gated([row("x", "y", 0.5)], fail_under=0.5), EvalResult)
    below = gated([row("x", "y", 0.4999)], fail_under=0.5)
    assert isinstance(below, GateFailed)
    assert below.reason == (
        "--fail-under 0.5: by rm:rm, x wins 60.0% against y, and the interval begins at 50.0%"
    )
    none = gated([row("x", "y", 0.0, n=0)], fail_under=0.0)
    assert isinstance(none, GateFailed) and "has a valid verdict" in none.reason


def test_the_first_pair_or_the_first_with_the_baseline() -> None:
    rows = [row("x", "x", 0.5), row("x", "y", 0.6), row("x", "z", 0.2), row("y", "z", 0.1)]
    assert isinstance(gated(rows, fail_under=0.55), EvalResult)
    below = gated(rows, fail_under=0.55, baseline="z")
    assert isinstance(below, GateFailed) and "x wins 30.0% against z" in below.reason
    with pytest.raises(UsageError, match="no two models were compared"):
        gated(rows[:1], fail_under=0.1)


def test_arms_of_several_runs_count_with_their_own_interval() -> None:
    score = ArmPairRow("x", "y", "j", "score", 3.0, 2.0, 4.0, 3, 3, 10)
    rate = ArmPairRow("x", "y", "rm:p/rm", "win rate", 0.2, -0.05, 0.45, 3, 3, 10)
    config = EvalConfig(judgments=("FILE",), output=Path("r"), fail_under=0.5)
    result = EvalResult("r", 10, (row("x/1", "y/1", 0.6),), (), (), 1.0)
    result = replace(result, arms=ArmResults((), (score, rate)))
    below = gate.gated(result, config)
    assert isinstance(below, GateFailed)
    assert "x wins 70.0% against y, and the interval begins at 45.0%" in below.reason


def stored(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> Result:
    file = tiny.write_rows(tmp_path / "judgments.jsonl", rows)
    settings: dict[str, Any] = {"judgments": (str(file),), "output": tmp_path / "r", "draws": 500}
    return verdict_files.run(EvalConfig(**{**settings, **changes}), silent)


def test_stored_verdicts_and_a_complete_run(tmp_path: Path) -> None:
    rows = pairs(30, 0, 10)
    failed = stored(tmp_path, rows, fail_under=0.7)
    assert isinstance(failed, GateFailed)
    assert {"report.html", "results.json", "salsa.json"} <= {
        one.name for one in (tmp_path / "r").iterdir()
    }
    assert isinstance(stored(tmp_path, rows, fail_under=0.7, resume=True), GateFailed)
    assert isinstance(stored(tmp_path, rows, fail_under=0.5, resume=True), EvalResult)
    assert isinstance(stored(tmp_path, rows, resume=True), EvalResult)
    with pytest.raises(UsageError, match="no two models were compared"):
        stored(tmp_path, [SINGLE], fail_under=0.5, output=tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ("A",)}, "--fail-under needs two models to compare; found a"),
        (
            {"grading": "single", "judge": ("openai:m",), "base_url": "http://127.0.0.1:9"},
            "--grading single does not compare models",
        ),
    ],
)
def test_what_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: Any, words: str
) -> None:
    monkeypatch.setattr("salsa_cli.evaluation.judges.api.ApiWriter.check", lambda self: None)
    config = EvalConfig(
        models=(str(world.a), str(world.b)),
        prompts=str(world.prompts),
        judge=(f"rm:{world.rm}",),
        output=tmp_path / "r",
        device="cpu",
        fail_under=0.5,
    )
    if changes.get("models"):
        changes = {"models": (str(world.a),)}
    with pytest.raises(UsageError, match=words):
        evaluate.run(replace(config, **changes), silent)


def test_the_command_line(world: World, tmp_path: Path) -> None:
    common = (
        *("eval", world.a, world.b, "--prompts", world.prompts, "--judge", f"rm:{world.rm}"),
        *("--response-length", 4, "--draws", 100, "--device", "cpu", "-o", tmp_path / "r"),
    )
    done = commands.run(*common, "--fail-under", "1", "--json", "-q")
    assert done.returncode == 3
    assert json.loads(done.stdout)["pairs"][0]["a"] == "a"
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --fail-under 1: by rm:rm, a wins ")
    assert (tmp_path / "r" / "report.html").is_file()
    again = commands.run(*common, "--fail-under", "1", "--resume", "--markdown")
    assert again.returncode == 3
    assert "- **failed** --fail-under 1: by rm:rm, a wins " in again.stdout
    assert again.stdout.startswith("**Mean scores**\n\n| model | judge |")
    passed = commands.run(*common, "--fail-under", "0", "--resume", "--markdown")
    assert passed.returncode == 0 and "**failed**" not in passed.stdout
    assert "| a | b | judge | a wins | 95% interval |" in passed.stdout
    both = commands.run(*common, "--json", "--markdown")
    assert both.returncode == 2 and "use one of them" in both.stderr
