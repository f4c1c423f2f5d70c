"""`--keep-best`: the right update by hand-made figures, its folder, and what a kill leaves."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from math import nan
from pathlib import Path
from typing import Any

import pytest

from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError
from salsa_cli.rl import best, held_out
from salsa_cli.rl.actors import Actors
from salsa_cli.rl.best import BestPolicy, BestUpdate
from salsa_cli.rl.held_out_metrics import HeldOutMetrics
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.rl.run import Run
from salsa_cli.runs.events import silent
from tests.support import tiny
from tests.support.histories import history, measured
from tests.support.ppo_runs import configure, run
from tests.support.worlds import World

MODEL = "model.safetensors"


def updates(*rewards: float | None, start: HeldOutMetrics | None = None) -> Sequence[UpdateMetrics]:
    rows = history(len(rewards), heldout=[None if r is None else measured(r) for r in rewards])
    return [replace(rows[0], heldout_start=start), *rows[1:]]


def test_the_best_is_the_highest_and_the_earliest_of_equals() -> None:
    assert best.find(updates(None, 1.0, None, 3.0, 2.0, 3.0), "reward") == BestUpdate(
        4, "reward", 3.0, 0.1
    )
    assert best.find(updates(nan, 1.0), "reward") == BestUpdate(2, "reward", 1.0, 0.1)
    assert best.find(updates(None, None), "reward") is None


def test_the_start_may_be_the_best() -> None:
    found = best.find(updates(1.0, 2.0, start=measured(2.5)), "reward")
    assert found is not None and found.update == 0
    found = best.find(updates(1.0, 2.6, start=measured(2.5)), "reward")
    assert found is not None and found.update == 2


@pytest.mark.parametrize(("by", "update"), [("reward", 1), ("watch", 2), ("objective", 3)])
def test_it_is_the_best_by_what_is_asked_for(by: str, update: int) -> None:
    figures = [measured(3, 1, 1), measured(2, 3, 2), measured(1, 2, 3)]
    found = best.find(history(3, heldout=figures), by)
    assert found is not None and (found.update, found.value) == (update, 3)


def test_a_resumed_run_knows_what_it_had(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "p", eval_prompts="e", keep_best="reward")
    policy = BestPolicy(config, updates(1.0, 4.0))
    assert not policy.improves(replace(updates(4.0)[0], update=3))
    assert policy.improves(replace(updates(4.1)[0], update=4))
    assert not policy.improves(replace(updates(4.05)[0], update=5))
    assert not BestPolicy(replace(config, keep_best=None)).improves(updates(9.0)[0])


@pytest.fixture(scope="module")
def config(world: World, tmp_path_factory: pytest.TempPathFactory) -> PPOConfig:
    folder = tmp_path_factory.mktemp("best")
    prompts = tiny.write_rows(folder / "eval.jsonl", [{"prompt": "cat ? ?"}, {"prompt": "dog ?"}])
    return configure(
        world,
        folder / "policy",
        updates=5,
        eval_prompts=str(prompts),
        eval_every=1,
        keep_best="reward",
        snapshot_every=1,
        save_every=5,
        schedule="constant",
    )


def figures(values: Sequence[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the evaluation of the updates from 0 on find these rewards."""

    def given(update: int, kl_coef: float, actors: Actors, run: Run) -> Any:
        return held_out.HeldOutEvaluation(measured(values[update]), 0.5)

    monkeypatch.setattr(held_out, "evaluate", given)


@pytest.mark.parametrize(
    ("values", "update"),
    [((0, 1, 3, 2, 2, 1), 2), ((3, 1, 2, 2, 2, 1), 0), ((0, 1, 2, 3, 4, 5), 5)],
)
def test_the_folder_is_the_policy_of_the_best_update(
    world: World,
    config: PPOConfig,
    tmp_path: Path,
    values: Sequence[float],
    update: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    figures(values, monkeypatch)
    config = replace(config, output=tmp_path / "policy")
    result = run(config)
    kept = config.output / "best"
    snapshot = config.output / "snapshots" / f"{update:06d}"
    expected = (snapshot if update else world.a) / MODEL
    assert (kept / MODEL).read_bytes() == expected.read_bytes()
    assert (kept / "tokenizer.json").exists()
    assert json.loads((kept / "best.json").read_text()) == {
        "update": update, "by": "reward", "value": max(values), "standard_error": 0.1,
    }  # fmt: skip
    assert result.best == json.loads((kept / "best.json").read_text())
    assert "best by reward" in (config.output / "report.html").read_text()
    assert not list(config.output.glob("*.draft"))


KILLED = """
import os, signal, sys
from salsa_cli import cli
from salsa_cli.rl import held_out
from salsa_cli.runs import run_folder
from tests.support.histories import measured
rewards = [0, 1, 2, 1, 3, 1]
held_out.evaluate = lambda update, *_: held_out.HeldOutEvaluation(measured(rewards[update]), 0.5)
sync = run_folder._sync
def killed(folder):
    if folder.name == "best.draft" and (folder.parent / "checkpoints" / "000004.pt").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    sync(folder)
run_folder._sync = killed
cli.main()
"""


def test_killed_while_the_best_is_written_it_is_written_again(
    config: PPOConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best update before the kill is 2, and 4 when it strikes."""
    config = replace(config, output=tmp_path / "policy")
    options = f"""--reward {config.reward[0]} --prompts {config.prompts} --updates 5 --batch-size 8
        --response-length 6 --epochs 2 --minibatches 2 --learning-rate 1e-3 --save-every 5
        --eval-prompts {config.eval_prompts} --eval-every 1 --keep-best reward --snapshot-every 1
        --schedule constant --device cpu -q -o {config.output}""".split()
    command = [sys.executable, "-c", KILLED, "ppo", "--ref", *config.ref, *options]
    done = subprocess.run(command, check=False)
    assert done.returncode == -signal.SIGKILL
    partial = tmp_path / "policy.partial"
    assert json.loads((partial / "best" / "best.json").read_text())["update"] == 2
    assert (partial / "best.draft").exists()
    figures([0, 1, 2, 1, 3, 1], monkeypatch)
    ppo.run(replace(config, resume=True), silent)
    kept = config.output / "best"
    assert json.loads((kept / "best.json").read_text())["update"] == 4
    snapshot = config.output / "snapshots" / "000004" / MODEL
    assert (kept / MODEL).read_bytes() == snapshot.read_bytes()
    assert not list(config.output.glob("*.draft"))


def test_the_dry_run_counts_it(config: PPOConfig) -> None:
    dry = [
        ppo.run(replace(config, keep_best=by, dry_run=True), silent).record()["disk_when_finished"]
        for by in (None, "reward")
    ]
    assert [str(size)[-2:] for size in dry] == ["kB", "kB"]
    one, two = (float(str(size)[:-2]) for size in dry)
    assert two / one == pytest.approx(7 / 6, rel=0.01)  # the policy and five snapshots; the best


def test_a_held_out_fall_stops_the_run_with_the_best_kept(
    config: PPOConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard errors are 0.1: 1 below the best is seven of them and more, twice in a row."""
    figures([0, 2, 1, 1, 1, 1], monkeypatch)
    config = replace(config, output=tmp_path / "policy", stop_on=("heldout-fall",))
    with pytest.raises(SalsaError, match="stopped after update 3 by --stop-on heldout-fall"):
        ppo.run(config, silent)
    partial = tmp_path / "policy.partial"
    assert json.loads((partial / "best" / "best.json").read_text())["update"] == 1
    result = run(replace(config, resume=True, stop_on=()))
    assert result.updates == 5 and result.best["update"] == 1


def test_extended_it_compares_with_the_updates_before(
    config: PPOConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, output=tmp_path / "policy", updates=3, save_every=3)
    config = replace(config, keep_checkpoints=1)
    figures([0, 3, 1, 1, 2, 4, 1], monkeypatch)
    assert run(config).best["update"] == 1
    assert run(replace(config, resume=True, updates=4)).best["update"] == 1
    assert run(replace(config, resume=True, updates=6)).best["update"] == 5
    kept, snapshot = config.output / "best", config.output / "snapshots" / "000005"
    assert (kept / MODEL).read_bytes() == (snapshot / MODEL).read_bytes()
