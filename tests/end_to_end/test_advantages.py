"""Every way to compute advantages with every kind of reference, the KL in the reward or the loss.

The first update of each cell is held against the oracle, with log-probabilities by transformers and
peft alone; each cell resumes to the bit.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.generation.rollouts import Rollout
from salsa_cli.records import read_rows
from salsa_cli.rl import disk, learning, memory, preflight
from salsa_cli.rl.learning import LearningMetrics, Targets
from salsa_cli.runs import checkpoints, run_folder
from salsa_cli.runs.events import DryRun, Measured, Note, Warned, silent
from tests.support import oracle, tiny
from tests.support.adapters import AdapterWorld
from tests.support.agreement import same_metrics
from tests.support.oracle import Batch, Recipe
from tests.support.ppo_runs import (
    configure,
    configure_adapted,
    rows_without_time,
    run,
    stopping_at,
)
from tests.support.worlds import World

WAYS: dict[str, dict[str, Any]] = {
    "gae": {"advantage": "gae", "samples_per_prompt": 2},
    "rloo": {"advantage": "rloo", "samples_per_prompt": 2},
    "group": {"advantage": "group"},
    "grpo": {"advantage": "grpo"},
}
REFERENCES = ("soup", "plain", "two references", "ema", "adapters")
PLACES: dict[str, dict[str, Any]] = {
    "reward": {},
    "loss": {"kl_in": "loss", "kl_estimator": "k3"},
}


def cell(
    way: str, reference: str, place: str, world: World, adapted: AdapterWorld, folder: Path
) -> PPOConfig:
    """Three updates of one step each: the figures of a row are those of its one step."""
    changes = {**WAYS[way], **PLACES[place], "epochs": 1, "minibatches": 1, "kl_coef": 0.3}
    changes |= {"updates": 3, "save_every": 1, "anchor_every": 1}
    if reference == "adapters":
        return configure_adapted(adapted, folder, **changes)
    kinds: dict[str, dict[str, Any]] = {
        "soup": {},
        "plain": {"ref": (str(world.b),), "policy": str(world.a)},
        "two references": {
            "ref": (str(world.soup), str(world.b)),
            "policy": str(world.a),
            "penalty": "mean-kl",
        },
        "ema": {"ref_update": "ema", "ref_rate": 0.5},
    }
    return configure(world, folder, **changes, **kinds[reference])


def models(config: PPOConfig, world: World, adapted: AdapterWorld) -> list[Any]:
    """The policy as it starts and the references, by transformers and peft alone."""
    if Path(config.ref[0]) != adapted.soup:
        names = (world.a, *config.ref)
        return [AutoModelForCausalLM.from_pretrained(name) for name in names]
    from peft import PeftModel

    return [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(adapted.base), folder)
        for folder in (adapted.a, adapted.soup)
    ]


@torch.no_grad()
def logprobs(model: Any, rollout: Rollout) -> list[np.ndarray]:
    """Of each answer alone, without padding, in float64 from the logits on."""
    sampled = rollout.sampled
    found = []
    for row in range(len(sampled.finished)):
        prompt = sampled.prompts.ids[row][sampled.prompts.mask[row]].tolist()
        answer = sampled.responses.ids[row][sampled.responses.mask[row]].tolist()
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
        here = logits[len(prompt) - 1 : -1].double().numpy()
        found.append(oracle.token_logprobs(here, answer, 1.0))
    return found


def first_update(config: PPOConfig) -> tuple[Rollout, Targets]:
    """Run; the rollout and the targets of the first update."""
    taken: list[tuple[Rollout, Targets]] = []
    plain = learning.learn

    def learn(update: int, rollout: Rollout, targets: Targets, *rest: Any) -> LearningMetrics:
        taken.append((rollout, targets))
        return plain(update, rollout, targets, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "learn", learn)
        run(config)
    return taken[0]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(
    "way",
    [way if way == "rloo" else pytest.param(way, marks=pytest.mark.slow) for way in WAYS],
)
def test_every_cell(
    way: str, reference: str, place: str, world: World, adapted: AdapterWorld, tmp_path: Path
) -> None:
    config = cell(way, reference, place, world, adapted, tmp_path / "policy")
    rollout, targets = first_update(config)
    rows = read_rows(config.output / "metrics.jsonl")
    policy, *refs = models(config, world, adapted)
    settings = Recipe(
        estimator=config.kl_estimator,
        coef=0.3,
        in_loss=place == "loss",
        advantage=way,
        size=config.group_size,
    )
    values = [] if rollout.values is None else rollout.values.double()
    expected = oracle.aim(
        Batch(
            logprobs(policy, rollout),
            [logprobs(one, rollout) for one in refs],
            [row[real].numpy() for row, real in zip(values, rollout.mask, strict=False)],
            rollout.scores.double().tolist(),
        ),
        settings,
    )
    # Log-probabilities in float32 are off by 1e-6; grpo divides by spreads down to 0.01.
    loose = {"grpo": 1e-3}.get(way, 1e-4)
    for row, answer in enumerate(expected.advantages):
        ours = targets.advantages[row][rollout.mask[row]]
        assert ours.tolist() == pytest.approx(answer.tolist(), abs=loose)
    nats = [
        float(oracle.mean_divergence(old, [ref[row] for ref in expected.refs], "k1").sum())
        for row, old in enumerate(expected.old)
    ]
    first = rows[0]
    assert first["kl"] == pytest.approx(np.mean(nats), abs=1e-4)
    assert first["objective"] == pytest.approx(first["reward"] - 0.3 * np.mean(nats), abs=1e-4)
    loss = oracle.policy_loss(expected, expected.old, settings)
    assert first["policy_loss"] == pytest.approx(loss, abs=loose)
    assert ("value_loss" in first) == (way == "gae")
    assert ("equal_groups" in first) == (way != "gae")
    assert [row["ratio_error"] for row in rows] == [0.0] * 3
    if reference in ("ema", "soup"):
        assert rows[2]["kl"] != rows[0]["kl"]

    again = replace(config, output=tmp_path / "again")
    with pytest.raises(KeyboardInterrupt):
        ppo.run(again, stopping_at(3))
    saved = checkpoints.latest_checkpoint(run_folder.partial_folder(again.output))
    assert saved is not None and saved.step == 2
    assert ("critic" in checkpoints.peek_checkpoint(saved)) == (way == "gae")
    run(replace(again, resume=True))
    assert rows_without_time(again.output) == rows_without_time(config.output)
    for name in ("model.safetensors", "adapter_model.safetensors"):
        if (config.output / name).exists():
            assert (again.output / name).read_bytes() == (config.output / name).read_bytes()


def test_without_a_critic_nothing_of_one_is_planned_or_recorded(
    world: World, tmp_path: Path
) -> None:
    notes: list[str] = []

    def listen(event: object) -> None:
        if isinstance(event, Note):
            notes.append(event.text)

    config = configure(world, tmp_path / "policy", **WAYS["rloo"], dry_run=True)
    dry = ppo.run(config, listen)
    assert isinstance(dry, DryRun)
    summary, table = dry.summary()
    assert "critic from: none (--advantage rloo)" in summary
    assert table is not None and "critic" not in [row[0] for row in table.rows]
    assert any("no critic (rloo)" in note for note in notes)
    run(replace(config, dry_run=False, updates=1))
    assert "critic" not in json.loads((config.output / "salsa.json").read_text())["inputs"]
    report = (config.output / "report.html").read_text()
    assert "Critic" not in report and "Prompts whose answers have equal rewards" in report


def test_half_of_the_trained_memory_is_saved(world: World, tmp_path: Path) -> None:
    """Weights, gradients and moments of one of two models of a size; and of a checkpoint."""
    machine = memory.Machine(
        frozen=4, product=4, sampling=12, chunk=1000, pass_tokens=2048, headroom=0.6
    )
    held = {}
    for way in ("gae", "rloo"):
        config = configure(world, tmp_path / "policy", **WAYS[way])
        plan = preflight.prepare(config, silent)
        found = memory.plan_memory(plan, config, machine).models
        held[way] = sum(one.gradients + one.optimiser for one in found.values())
        held[f"{way} disk"] = disk.plan_disk(plan, config).checkpoint
    assert 0.48 < held["rloo"] / held["gae"] < 0.56  # the critic has no output layer
    assert held["rloo disk"] < 0.6 * held["gae disk"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"critic": "reward"}, "--critic is not used by --advantage rloo"),
        ({"critic_learning_rate": 1e-4}, "--critic-learning-rate is not used by"),
        ({"critic_warmup": 1}, "--critic-warmup is not used by"),
        ({"value_clip": 0.1}, "--value-clip is not used by"),
        ({"lam": 1.0}, "--lambda is not used by"),
        ({"gamma": 0.9}, "--gamma is not used by"),
        ({"whiten_rewards": True}, "--whiten-rewards is not used by"),
        ({"stop_on": ("weak-critic",)}, "--stop-on weak-critic is not used by"),
        ({"critic_warmup": 1, "lam": 1.0}, "--lambda, --critic-warmup are not used by"),
        ({"samples_per_prompt": 1}, "expected --samples-per-prompt 2 or more, found 1"),
        (
            {"samples_per_prompt": 3},
            "--samples-per-prompt 3; expected a multiple of 6, such as 6",
        ),
        (
            {"samples_per_prompt": 4, "processes": 4, "minibatches": 1},
            "--batch-size 8, which counts answers, cannot be divided by --samples-per-prompt 4 and "
            "4 processes; expected a multiple of 16, such as 16",
        ),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], words: str, world: World) -> None:
    settings = {"samples_per_prompt": 2, "advantage": "rloo", **changes}
    with pytest.raises(UsageError) as caught:
        configure(world, Path("unused"), **settings)
    assert words in str(caught.value)


def test_all_else_that_a_run_may_have(world: World, tmp_path: Path) -> None:
    """Ensembles, watched and normalised rewards, held-out prompts, snapshots, 8-bit moments."""
    (tmp_path / "taste.py").write_text(
        "def score(prompts, answers):\n    return [float(a.count('happy')) for a in answers]\n"
    )
    taste = f"{tmp_path / 'taste.py'}:score"
    held_out = tiny.write_rows(
        tmp_path / "held.jsonl", [{"prompt": "happy sad"}, {"prompt": "mat"}]
    )
    config = configure(
        world,
        tmp_path / "policy",
        **WAYS["rloo"],
        reward=(str(world.rm), taste),
        ensemble="min",
        watch_reward=(taste,),
        normalize_reward=True,
        eval_prompts=str(held_out),
        eval_every=2,
        snapshot_every=2,
        optimiser="adamw-8bit",
        gradient_checkpointing=True,
    )
    run(config)
    rows = read_rows(config.output / "metrics.jsonl")
    assert len(rows) == 4 and set(rows[0]["rewards"]) == {str(world.rm), taste}
    assert rows[0]["watched"].keys() == {taste}
    assert (config.output / "snapshots" / "000002" / "model.safetensors").exists()
    settings = json.loads((config.output / "salsa.json").read_text())["settings"]
    assert (settings["advantage"], settings["samples_per_prompt"]) == ("rloo", 2)


@pytest.mark.parametrize(
    "spread",
    [
        pytest.param([], marks=pytest.mark.slow, id="replicated"),
        pytest.param(["--shard"], id="sharded"),
    ],
)
def test_two_processes_compute_what_one_does(
    spread: list[str], world: World, tmp_path: Path
) -> None:
    """Each draws the answers of two prompts of four; passes and order differ, figures do not."""
    config = configure(
        world, tmp_path / "one", batch_size=16, advantage="grpo", micro_batch_size=1, updates=2
    )
    run(config)
    line = [sys.executable, "-m", "salsa_cli", "ppo", "--ref", world.soup, "--reward", world.rm]
    line += ["--prompts", world.prompts, "-o", tmp_path / "two", "--processes", "2"]
    line += ["--batch-size", "16", "--advantage", "grpo", "--micro-batch-size", "1"]
    line += ["--updates", "2", "--response-length", "6", "--epochs", "2", "--minibatches", "2"]
    line += ["--learning-rate", "1e-3", "--save-every", "2", "--device", "cpu", *spread]
    subprocess.run(list(map(str, line)), check=True, timeout=300, capture_output=True)
    same_metrics(config.output, tmp_path / "two")
    ours, theirs = (read_rows(tmp_path / one / "samples.jsonl") for one in ("one", "two"))
    assert [row["answer"] for row in ours] == [row["answer"] for row in theirs]


@pytest.mark.parametrize("way", WAYS)
def test_a_moving_reference_of_adapters_is_refused_and_says_why(
    way: str, adapted: AdapterWorld, tmp_path: Path
) -> None:
    config = configure_adapted(adapted, tmp_path / "policy", **WAYS[way], ref_update="ema")
    with pytest.raises(SalsaError, match=r"--ref-update ema updates full weights, and .* adapter"):
        preflight.prepare(config, silent)


def test_the_loss_of_equal_rewards_is_that_of_the_kl_alone(world: World, tmp_path: Path) -> None:
    """Each group is counted, and the run says so once."""
    (tmp_path / "same.py").write_text("def score(p, a):\n    return [0.1] * len(a)\n")
    config = configure(
        world,
        tmp_path / "policy",
        reward=(f"{tmp_path / 'same.py'}:score",),
        advantage="group",
        kl_coef=0.0,
        learning_rate=1e-6,
        stop_on=("equal-groups",),
    )
    warned: list[str] = []
    rows: list[Any] = []

    def listen(event: object) -> None:
        if isinstance(event, Warned):
            warned.append(event.text)
        if isinstance(event, Measured):
            rows.append(event.values)

    with pytest.raises(SalsaError, match="by --stop-on equal-groups: in 6 of the last 6 prompts"):
        ppo.run(config, listen)
    assert [(row["groups"], row["equal_groups"]) for row in rows] == [(2, 2)] * 3
    assert [row["policy_grad_norm"] for row in rows] == [0.0] * 3
    assert sum(text.startswith("equal-groups") for text in warned) == 1
