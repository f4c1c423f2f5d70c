"""`salsa eval RUN...` without prompts and judges, on runs of `salsa ppo`."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from salsa_cli.config.eval import EvalConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.evaluation import curves
from salsa_cli.evaluation.results.curve_results import CurveResult
from salsa_cli.records import read_json, read_rows
from salsa_cli.runs.events import DryRun, silent
from tests.support import commands, ppo_runs, tiny, worlds


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with a soup as the reference, one without, each with held-out prompts."""
    root = tmp_path_factory.mktemp("runs")
    world = worlds.make(root / "world")
    held_out = tiny.write_rows(root / "held.jsonl", [{"prompt": "cat sun"}, {"prompt": "dog rain"}])
    for name, ref, seed in (
        ("salsa-0", world.soup, 0),
        ("salsa-1", world.soup, 1),
        ("ppo-0", world.a, 0),
    ):
        ppo_runs.run(
            ppo_runs.configure(
                world,
                root / name,
                ref=(str(ref),),
                policy=str(world.a),
                seed=seed,
                eval_prompts=str(held_out),
                eval_every=2,
            )
        )
    return root


def configure(root: Path, output: Path, *models: str, **changes: Any) -> EvalConfig:
    given = models or (f"salsa={root}/salsa-*", f"ppo={root}/ppo-0")
    return EvalConfig(models=given, output=output, **changes)


def run(config: EvalConfig) -> CurveResult:
    result = curves.run(config, silent)
    assert isinstance(result, CurveResult)
    return result


def test_the_curves_are_those_that_the_runs_logged(runs: Path, tmp_path: Path) -> None:
    result = run(configure(runs, tmp_path / "r"))
    first, second, ppo = (
        read_rows(runs / name / "metrics.jsonl") for name in ("salsa-0", "salsa-1", "ppo-0")
    )
    by = {(curve.figure, curve.arm): curve for curve in result.curves}
    reward = by["reward", "salsa"]
    assert reward.update == (1, 2, 3, 4) and reward.low is not None
    for place, (one, two) in enumerate(zip(first, second, strict=True)):
        assert reward.mean[place] == pytest.approx((one["reward"] + two["reward"]) / 2, rel=1e-12)
        assert reward.low[place] == min(one["reward"], two["reward"])
    assert by["kl", "ppo"].mean == tuple(row["kl"] for row in ppo)
    held_out = by["heldout/reward", "ppo"]
    stored = [ppo[0]["heldout_start"], ppo[1]["heldout"], ppo[3]["heldout"]]
    assert held_out.update == (0, 2, 4)
    assert held_out.mean == tuple(one["reward"]["mean"] for one in stored)
    assert held_out.high is not None
    assert held_out.high[1] - held_out.mean[1] == pytest.approx(
        1.96 * stored[1]["reward"]["standard_error"]
    )
    assert [(arm.arm, arm.seeds) for arm in result.arms] == [("salsa", (0, 1)), ("ppo", (0,))]
    assert {one.setting for one in result.differences} == {"ref", "contents of reference"}
    assert CurveResult.of(read_json(tmp_path / "r" / "results.json")) == result
    again = run(configure(runs, tmp_path / "r", resume=True))
    assert again == result


def test_the_page(runs: Path, tmp_path: Path) -> None:
    run(configure(runs, tmp_path / "r"))
    text = (tmp_path / "r" / "report.html").read_text()
    parts = ("On held-out prompts", "In training", "Settings that differ", "The same prompts")
    assert [text.index(f"<h2>{part}</h2>") for part in parts] == sorted(
        text.index(f"<h2>{part}</h2>") for part in parts
    )
    assert text.count("<figcaption>KL to the reference</figcaption>") == 2
    assert "Objective" in text and "Reward against KL" in text and "(salsa/salsa-" in text
    samples = read_rows(runs / "ppo-0" / "samples.jsonl")
    latest = max(samples, key=lambda row: int(row["update"]))
    assert f"update {latest['update']}" in text


def test_runs_of_different_lengths_and_equal_seeds_are_remarked(runs: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.mkdir()
    tiny.write_rows(short / "metrics.jsonl", read_rows(runs / "salsa-0" / "metrics.jsonl")[:2])
    (short / "salsa.json").write_text((runs / "salsa-0" / "salsa.json").read_text())
    result = run(configure(runs, tmp_path / "r", f"x={runs}/salsa-0,{short}"))
    assert result.remarks[:2] == (
        "x: its runs have 2 to 4 updates; its curves end at the shortest run.",
        "x: two of its runs have the same seed.",
    )
    assert {curve.update for curve in result.curves if curve.figure == "reward"} == {(1, 2)}


def test_what_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--max-prompts, --fail-under has no effect without"):
        run(configure(runs, tmp_path / "r", fail_under=0.5, max_prompts=3))
    with pytest.raises(SalsaError, match="is not a run of salsa ppo"):
        run(configure(runs, tmp_path / "r", str(runs / "world" / "a")))
    assert not (tmp_path / "r").exists()
    plan = curves.run(configure(runs, tmp_path / "r", dry_run=True), silent)
    assert isinstance(plan, DryRun) and plan.facts == {"arms": "salsa, ppo", "runs": 3}
    config = configure(runs, runs / "salsa-0", force=True)
    with pytest.raises(SalsaError):  # the output is one of the inputs
        run(config)
    run(configure(runs, tmp_path / "r"))
    with pytest.raises(SalsaError, match="already exists"):
        run(configure(runs, tmp_path / "r"))
    with pytest.raises(SalsaError, match="was made with other settings"):
        run(replace(configure(runs, tmp_path / "r", f"{runs}/ppo-0"), resume=True))


def test_the_command_line(runs: Path, tmp_path: Path) -> None:
    models = (f"salsa={runs}/salsa-0,{runs}/salsa-1", runs / "ppo-0")
    done = commands.run("eval", *models, "-o", tmp_path / "r", "--json")
    assert done.returncode == 0, done.stderr
    assert [arm["arm"] for arm in json.loads(done.stdout)["arms"]] == ["salsa", "ppo-0"]
    assert "loading PyTorch" not in done.stderr
    alone = commands.run("eval", runs / "world" / "a", "-o", tmp_path / "s")
    assert alone.returncode == 1
    assert "To compare models, add --prompts and --judge" in alone.stderr
    half = commands.run("eval", runs / "ppo-0", "--prompts", "x.jsonl", "-o", tmp_path / "s")
    assert half.returncode == 2 and "missing --judge" in half.stderr
