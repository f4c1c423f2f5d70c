"""`salsa ppo --weights bfloat16`: what is narrow, and that a run resumes to the bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from salsa_cli import ppo
from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError
from salsa_cli.models import learners
from salsa_cli.records import read_rows
from salsa_cli.rl.actors import load_actors
from salsa_cli.runs.events import silent
from tests.support.ppo_runs import configure, rows_without_time, stopping_at
from tests.support.worlds import World

NARROW: dict[str, Any] = {
    "weights": "bfloat16",
    "optimiser": "adamw-8bit",
    "micro_batch_size": 2,
    "anchor_every": 2,
}


def last_rows(config: PPOConfig) -> list[dict[str, Any]]:
    ppo.run(config, silent)
    return read_rows(config.output / "metrics.jsonl")


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}, {"optimiser": "adamw"}])
def test_the_first_ratio_is_one_and_the_policy_moves(
    world: World, tmp_path: Path, changes: dict[str, Any]
) -> None:
    rows = last_rows(configure(world, tmp_path / "policy", **{**NARROW, **changes}))
    assert [row["ratio_error"] for row in rows] == [0.0] * 4
    assert all(row["approx_kl"] > 1e-5 for row in rows)
    assert all(row["policy_grad_norm"] > 0 and row["critic_grad_norm"] > 0 for row in rows)


def test_both_models_are_narrow_and_frozen_ones_are_as_before(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[torch.dtype]] = []

    def loading(*given: Any) -> Any:
        actors = load_actors(*given)
        assert isinstance(actors.actor._optimiser, learners.ChunkedAdamW)
        for model in (actors.policy.model, actors.critic.model, actors.references[0]):
            seen.append({one.dtype for one in model.parameters()})
        return actors

    monkeypatch.setattr(ppo, "load_actors", loading)
    ppo.run(configure(world, tmp_path / "policy", updates=1, **NARROW), silent)
    assert seen == [{torch.bfloat16}, {torch.bfloat16}, {torch.float32}]


EMA = {"ref": ("A",), "ref_update": "ema"}


@pytest.mark.parametrize("changes", [{}, pytest.param(EMA, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_goes_on_to_the_same_bits(
    world: World, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Rounding included: its seeds depend on the step."""
    if changes:
        changes = {**changes, "ref": (str(world.a),)}
    whole = configure(world, tmp_path / "whole", **{**NARROW, **changes})
    ppo.run(whole, silent)
    cut = replace(whole, output=tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        ppo.run(cut, stopping_at(3))
    ppo.run(replace(cut, resume=True), silent)
    assert rows_without_time(cut.output) == rows_without_time(whole.output)
    one, two = (folder / "model.safetensors" for folder in (whole.output, cut.output))
    assert one.read_bytes() == two.read_bytes()


def test_another_seed_rounds_otherwise(world: World, tmp_path: Path) -> None:
    """Only the rounding: answers are drawn by the seed, too, but the first ones are equal here."""
    states = []
    for seed in (0, 1):
        storage = learners.MomentStorage.of("adamw-8bit", offload=False, seed=seed)
        parameter = torch.full((16, 64), 0.02).bfloat16().requires_grad_()
        made = learners._optimizer([parameter], 1e-6, storage)
        parameter.grad = torch.ones_like(parameter)
        made.step()
        states.append(parameter.detach().clone())
    assert not torch.equal(*states)


def test_adapters_have_no_use_for_it(world: World, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = configure(world, tmp_path / "policy", weights="bfloat16", lora_rank=2)
    with pytest.raises(SalsaError, match="--weights bfloat16 has no effect on adapters"):
        ppo.run(config, silent)
