"""What a person sees of a PPO run while it goes on, and what stops it: warnings, NaN, trackers."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from salsa_cli import ppo
from salsa_cli.config import base
from salsa_cli.config.ppo import WARNINGS
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.records import read_rows
from salsa_cli.rl import monitors
from salsa_cli.runs import checkpoints, run_folder, tracking
from salsa_cli.runs.events import Event, Said, Warned, silent
from tests.support.html_tree import Tree
from tests.support.ppo_runs import configure, rows_without_time, run, weights
from tests.support.trackers import scalars
from tests.support.worlds import World


def warnings(events: list[Event]) -> list[str]:
    return [event.text.split(":")[0] for event in events if isinstance(event, Warned)]


def test_the_names_of_the_warnings_are_those_of_the_monitors() -> None:
    assert tuple(monitors.MONITORS) == WARNINGS
    assert tuple(tracking.PACKAGES) == base.TRACKERS
    assert monitors.FOREWARNING in monitors.MONITORS


def test_a_run_tells_its_warnings_and_what_it_says(world: World, tmp_path: Path) -> None:
    events: list[Event] = []
    config = configure(world, tmp_path / "policy", no_eos="subtract", no_eos_value=1.0)
    ppo.run(config, events.append)
    said = [event for event in events if isinstance(event, Said)]
    assert len(said) == config.updates
    first = read_rows(config.output / "samples.jsonl")[0]
    assert said[0] == Said(first["prompt"], first["answer"])
    # A random model seldom ends its answers, and it is said once.
    assert warnings(events).count("missing-end") == 1
    tree = Tree((config.output / "report.html").read_text(encoding="utf-8"))
    assert tree.text["h1"] == ["salsa ppo: policy"]
    assert "missing-end, update 1:" in tree.text["strong"]


def test_a_warning_stops_the_run_which_then_resumes_to_the_same_bits(
    world: World, tmp_path: Path
) -> None:
    whole = configure(world, tmp_path / "whole")
    run(whole)
    config = configure(world, tmp_path / "policy", stop_on=("missing-end",), save_every=3)
    with pytest.raises(SalsaError) as stopped:
        run(config)
    partial = run_folder.partial_folder(config.output)
    text = str(stopped.value)
    assert text.startswith("stopped after update 1 by --stop-on missing-end: 12% of the answers")
    assert text.endswith(f"{partial} keeps the run up to step 1; continue it with --resume")
    assert not config.output.exists()
    noted = json.loads((partial / "state.json").read_text())
    assert noted["reason"].startswith("stopped after update 1 by --stop-on missing-end: 12%")
    goes_on = noted["resume"]
    assert goes_on.endswith(f"-o {config.output} --resume") and "--stop-on" not in goes_on
    page = re.sub("<[^/][^>]*>|</span>", "", (partial / "report.html").read_text())
    assert page.index("stopped after update 1") < page.index(goes_on) < page.index("</figure")
    assert "To continue this one as it is, leave out --stop-on missing-end" in text
    # Repeated as it was, it must not end well what was stopped for a reason.
    for again in (replace(config, resume=True), replace(config, resume=True, dry_run=True)):
        with pytest.raises(SalsaError, match="raised missing-end after update 1, which --stop-on"):
            ppo.run(again, silent)
    assert partial.exists() and not config.output.exists()
    events: list[Event] = []
    ppo.run(replace(config, resume=True, stop_on=("length-collapse",)), events.append)
    assert "missing-end" not in warnings(events)  # it was named before the run stopped
    assert rows_without_time(config.output) == rows_without_time(whole.output)
    for name, weight in weights(whole.output).items():
        assert torch.equal(weights(config.output)[name], weight), name


def test_a_stop_may_name_other_warnings_when_a_run_resumes(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", stop_on=("missing-end", "length-collapse"))
    with pytest.raises(SalsaError):
        run(config)
    run(replace(config, resume=True, stop_on=()))
    assert len(read_rows(config.output / "metrics.jsonl")) == config.updates


@pytest.mark.parametrize("anchor_every", [0, 10])
def test_the_forewarning_stops_before_the_first_step(
    world: World, tmp_path: Path, anchor_every: int
) -> None:
    config = configure(world, tmp_path / "policy", kl_coef=1.0, anchor_every=anchor_every)
    events: list[Event] = []
    ppo.run(config, events.append)
    assert warnings(events).count("cheap-stopping") == 1
    at = [type(event).__name__ for event in events]
    assert at.index("Warned") < at.index("Measured")
    with pytest.raises(SalsaError, match="stopped before the first update by --stop-on cheap"):
        run(replace(config, output=tmp_path / "other", stop_on=("cheap-stopping",)))
    assert not run_folder.partial_folder(tmp_path / "other").exists()


def test_a_warning_in_the_last_update_stops_nothing(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", updates=1, stop_on=("missing-end",))
    assert run(config).updates == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_on": ("lenght",)}, "--stop-on lenght: expected one of cheap-stopping, length-co"),
        ({"track": ("mlflow",)}, "--track mlflow: expected one of tensorboard, wandb, trackio"),
        ({"stop_on": ("reward-hacking",)}, "no effect without --watch-reward"),
        ({"stop_on": ("cheap-stopping",), "penalty": "chi2"}, "no effect with --penalty chi2"),
    ],
)
def test_names_that_nobody_knows(
    world: World, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        configure(world, tmp_path / "policy", **changes)


def test_tensorboard_holds_the_metrics(world: World, tmp_path: Path) -> None:
    config = configure(world, tmp_path / "policy", track=("tensorboard", "tensorboard"))
    run(config)
    rows = read_rows(config.output / "metrics.jsonl")
    found = scalars(config.output / "tensorboard")
    assert [step for step, _ in found["reward"]] == [1, 2, 3, 4]
    # TensorBoard keeps float32.
    assert [value for _, value in found["kl"]] == pytest.approx([row["kl"] for row in rows])
    assert found["kl_anchors/start"][0] == (1, 0.0)


def test_a_missing_tracker_is_refused_before_anything(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_installed", lambda package: False)
    config = configure(world, tmp_path / "policy", ref=("nowhere",), track=("wandb",))
    with pytest.raises(SalsaError, match="--track wandb: not installed"):
        run(config)
    assert list(tmp_path.iterdir()) == []


def poisoned(model: Path, copy: Path, weight: str, value: float) -> Path:
    """A copy of a model folder in which one number of one weight is not finite."""
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    tensors = load_file(copy / "model.safetensors")
    tensors[weight].view(-1)[0] = value
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    return copy


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["policy", "reference", "critic", "reward"])
def test_a_stored_weight_that_is_not_finite_is_named_before_training(
    world: World, tmp_path: Path, part: str, value: float
) -> None:
    source = {"policy": world.a, "reference": world.soup, "critic": world.rm, "reward": world.rm}
    bad = poisoned(source[part], tmp_path / "bad", "model.norm.weight", value)
    changes: dict[str, dict[str, Any]] = {
        "policy": {"policy": str(bad)},
        "reference": {"ref": (str(bad),), "policy": str(world.a), "anchor_every": 0},
        "critic": {"critic": str(bad)},
        "reward": {"reward": (str(bad),), "critic": "policy"},
    }
    config = configure(world, tmp_path / "policy", **changes[part])
    named = r"bad/model.safetensors: 1 of 16 values of model.norm.weight are NaN or infinite"
    with pytest.raises(SalsaError, match=named):
        ppo.run(config, silent)


def test_a_reward_that_fails_later_keeps_the_last_checkpoint(world: World, tmp_path: Path) -> None:
    function = tmp_path / "fickle.py"
    function.write_text(
        "calls = []\n"
        "def score(prompts, answers):\n"
        "    calls.append(1)\n"
        "    return [float('nan') if len(calls) == 4 else 1.0] * len(answers)\n"
    )
    config = configure(world, tmp_path / "policy", reward=(f"{function}:score",))
    with pytest.raises(SalsaError) as stopped:
        run(config)
    assert "update 4" in str(stopped.value) and "not a finite" in str(stopped.value)
    assert "keeps the run up to step 2" in str(stopped.value)
    partial = run_folder.partial_folder(config.output)
    assert checkpoints.latest_checkpoint(partial) == checkpoints.Saved(
        2, checkpoints.checkpoint_path(partial, 2)
    )
    rows = [json.loads(line) for line in (partial / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    assert "3 updates" in (partial / "report.html").read_text(encoding="utf-8")
