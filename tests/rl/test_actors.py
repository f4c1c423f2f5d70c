"""The models of a run: which learn, in which types, and what a checkpoint brings back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from salsa_cli.devices.runtime import Runtime
from salsa_cli.models import loading
from salsa_cli.models.backbones import Placement
from salsa_cli.reward_models.rewards import RewardScale
from salsa_cli.rl import actors as acting
from salsa_cli.rl.actors import Actors, TrainingState, load_actors, restore_state, save_state
from salsa_cli.runs import checkpoints
from tests.support.ppo_runs import begun, configure
from tests.support.worlds import World


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def step(actors: Actors) -> None:
    """One optimiser step of both learners along the sum of their weights."""
    for learner in (actors.actor, actors.critic):
        loss = sum(p.square().sum() for p in learner.trained.parameters())
        torch.autograd.backward(loss)
        learner.step(1.0)
        learner.follow()


def test_policy_and_critic_learn_and_the_others_are_frozen(world: World, tmp_path: Path) -> None:
    actors = load_actors(begun(configure(world, tmp_path / "o"), tmp_path / "run"))
    for learner in (actors.actor, actors.critic):
        assert all(parameter.requires_grad for parameter in learner.trained.parameters())
    frozen = [*actors.references, *(member.model for member in actors.reward.members)]  # type: ignore[attr-defined]
    for model in frozen:
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert not model.training
    assert actors.watched is None and actors.server is None and actors.parked == {}
    start = loading.load_language_model(
        world.a, Placement(torch.float32, torch.device("cpu"))
    ).model
    assert same(weights(start), weights(actors.policy.model))


def test_a_reference_that_moves_is_in_float32_whatever_the_device_freezes_in(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Runtime, "frozen_dtype", property(lambda _: torch.bfloat16))
    for changes, dtype in (({}, torch.bfloat16), ({"ref_update": "ema"}, torch.float32)):
        config = configure(world, tmp_path / "o", **changes)
        actors = load_actors(begun(config, tmp_path / "run"))
        assert {p.dtype for p in actors.references[0].parameters()} == {dtype}
        assert {p.dtype for p in actors.policy.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("moving", [False, True])
def test_a_checkpoint_brings_back_all_that_the_next_update_depends_on(
    world: World, tmp_path: Path, moving: bool
) -> None:
    config = configure(world, tmp_path / "o", ref_update="ema" if moving else "none")
    run = begun(config, tmp_path / "run")
    actors = load_actors(run)
    scales = (RewardScale(0.5, 2.0),)
    actors = replace(actors, reward=replace(actors.reward, scales=scales))
    step(actors)
    if moving:
        with torch.no_grad():
            for parameter in actors.references[0].parameters():
                parameter.add_(1.0)
    save_state(TrainingState(3, 0.125), {}, actors, run)
    after = [weights(model) for model in (actors.policy.model, actors.critic.trained)]
    reference = weights(actors.references[0])
    step(actors)

    saved = checkpoints.latest_checkpoint(run.folder)
    assert saved is not None and saved.step == 3
    fresh, state = restore_state(saved, load_actors(run), config)
    assert state == TrainingState(3, 0.125)
    assert fresh.reward.scales == scales
    assert same(after[0], weights(fresh.policy.model))
    assert same(after[1], weights(fresh.critic.trained))
    assert same(reference, weights(fresh.references[0]))
    # The moments of the optimiser come back too: the next step is the same to the bit.
    step(fresh)
    assert same(weights(actors.policy.model), weights(fresh.policy.model))
    assert same(weights(actors.critic.trained), weights(fresh.critic.trained))


def test_learning_mode_forgets_activations_only_while_it_lasts(
    world: World, tmp_path: Path
) -> None:
    config = configure(world, tmp_path / "o", gradient_checkpointing=True)
    actors = load_actors(begun(config, tmp_path / "run"))

    def layers() -> set[bool]:
        modules = actors.policy.model.modules()
        return {m.gradient_checkpointing for m in modules if hasattr(m, "gradient_checkpointing")}

    assert layers() == {False}
    with acting.learning_mode(actors, config):
        assert True in layers()
    assert layers() == {False}
    with acting.learning_mode(actors, replace(config, gradient_checkpointing=False)):
        assert layers() == {False}
