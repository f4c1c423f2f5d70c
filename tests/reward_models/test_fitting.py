"""The gradient of a step against a restatement in NumPy; accumulation; what is not finite."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from salsa_cli.config.train_rm import TrainRMConfig
from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.models import forward, loading
from salsa_cli.models.loading import RewardModel
from salsa_cli.reward_models import fitting
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.runs.events import silent
from tests.support.worlds import World

DEVICE = start_runtime("cpu")
PAIRS = (
    EncodedPair("p", (4, 6, 9, 2), (4, 7, 2), margin=0.5, row=1),
    EncodedPair("p", (5, 2), (5, 9, 9, 9, 11, 2), margin=0.0, row=2),
    EncodedPair("q", (7, 8, 10, 11, 12), (7, 2), margin=-0.25, row=3),
)


def configure(world: World, **changes: Any) -> TrainRMConfig:
    settings = {"model": str(world.a), "data": "prefs.jsonl", "output": Path("rm")}
    return TrainRMConfig(**{**settings, **changes})


def new_model(world: World) -> RewardModel:
    reward = loading.new_reward_model(world.a, DEVICE.device, seed=3)
    loading.trainable(reward.model)
    return reward


def plain(reward: RewardModel) -> fitting.Scoring:
    """The model's own pass, as one process trains it."""
    return partial(forward.last_scores, reward.model)


def last_states(reward: RewardModel, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """What the head reads: the body's last state of each row, alone and without padding."""
    states = []
    for row in rows:
        with torch.no_grad():
            states.append(reward.model.model(torch.tensor([row])).last_hidden_state[0, -1])
    return torch.stack(states).double().numpy()


def restated(
    reward: RewardModel, smoothing: float, center: float, margins: bool = True
) -> tuple[float, np.ndarray]:
    """Loss and gradient of the head in float64, from the formulas alone.

    With z = w.(h_c - h_r) - m:  loss = -(1 - e) log s(z) - e log s(-z) + c (w.h_c + w.h_r)^2,
    and dloss/dw = -[(1 - e) s(-z) - e s(z)] (h_c - h_r) + 2 c (w.h_c + w.h_r) (h_c + h_r).
    """
    w = reward.model.score.weight.detach().double().numpy()[0]
    good = last_states(reward, [pair.chosen for pair in PAIRS])
    bad = last_states(reward, [pair.rejected for pair in PAIRS])
    margin = np.array([pair.margin if margins else 0.0 for pair in PAIRS])
    z = (good - bad) @ w - margin
    right, wrong = 1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z))
    total = (good + bad) @ w
    loss = -(1 - smoothing) * np.log(right) - smoothing * np.log(wrong) + center * total**2
    slope = -((1 - smoothing) * wrong - smoothing * right)
    gradient = slope[:, None] * (good - bad) + 2 * center * total[:, None] * (good + bad)
    return float(loss.mean()), gradient.mean(axis=0)


@pytest.mark.parametrize("micro", [None, 1, 2])
@pytest.mark.parametrize(("smoothing", "center"), [(0.0, 0.0), (0.2, 0.0), (0.1, 0.05)])
def test_loss_and_gradient_are_those_of_the_formula(
    world: World, smoothing: float, center: float, micro: int | None
) -> None:
    reward = new_model(world)
    config = configure(world, label_smoothing=smoothing, center=center, micro_batch_size=micro)
    row = fitting.accumulate_gradients(reward, plain(reward), PAIRS, 0, config, DEVICE)
    loss, gradient = restated(reward, smoothing, center)
    # float32 against float64, through two layers of attention
    assert row["loss"] == pytest.approx(loss, rel=1e-5)
    found = reward.model.score.weight.grad[0].double().numpy()
    np.testing.assert_allclose(found, gradient, rtol=1e-4, atol=1e-6)
    # The test sees what it should: another loss without the margins.
    assert abs(loss - restated(reward, smoothing, center, margins=False)[0]) > 1e-3


def test_accumulation_is_normalised_over_the_pairs_of_the_batch(world: World) -> None:
    gradients = []
    for micro in (None, 2):  # 2 and 1: unequal parts
        reward = new_model(world)
        fitting.accumulate_gradients(
            reward, plain(reward), PAIRS, 0, configure(world, micro_batch_size=micro), DEVICE
        )
        gradients.append(torch.cat([p.grad.flatten() for p in reward.model.parameters()]))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_a_step_says_what_it_measured(world: World) -> None:
    reward = new_model(world)
    row = fitting.accumulate_gradients(
        reward, plain(reward), PAIRS, 0, configure(world, micro_batch_size=2), DEVICE
    )
    with torch.no_grad():
        chosen = torch.cat([reward.score_ids([pair.chosen]) for pair in PAIRS])
        rejected = torch.cat([reward.score_ids([pair.rejected]) for pair in PAIRS])
    assert row["margin"] == pytest.approx(float((chosen - rejected).mean()), abs=1e-5)
    assert row["score"] == pytest.approx(float(torch.cat([chosen, rejected]).mean()), abs=1e-5)
    assert row["accuracy"] == pytest.approx(float((chosen > rejected).float().mean()))
    # Longest first: rows 2 and 3 (4 rows of 6), then row 1 (2 rows of 4).
    assert (row["tokens"], row["padding"]) == (22, pytest.approx(1 - 22 / 32))


def test_scores_of_many_pairs_stand_in_their_order(world: World) -> None:
    reward = new_model(world)
    config = configure(world, batch_size=2)
    found = fitting.score_pairs(reward, PAIRS, "evaluation", config, DEVICE, silent)
    with torch.no_grad():
        alone = [float(reward.score_ids([pair.chosen])) for pair in PAIRS]
    np.testing.assert_allclose(found.chosen, alone, atol=1e-5)
    np.testing.assert_allclose(found.leads, found.chosen - found.rejected)


def test_a_loss_that_is_no_number_names_the_rows_and_changes_nothing(world: World) -> None:
    reward = new_model(world)
    with torch.no_grad():
        reward.model.model.embed_tokens.weight[11] = float("nan")
    before = reward.model.score.weight.clone()
    with pytest.raises(SalsaError) as caught:
        fitting.accumulate_gradients(reward, plain(reward), PAIRS, 6, configure(world), DEVICE)
    assert "prefs.jsonl: the loss is NaN or infinite at step 7" in str(caught.value)
    assert "(rows 2, 3), and the step was skipped" in str(caught.value)
    with pytest.raises(SalsaError, match=r"at step 1 \(rows 2, 3\), before any weight was changed"):
        fitting.accumulate_gradients(reward, plain(reward), PAIRS, 0, configure(world), DEVICE)
    assert torch.equal(reward.model.score.weight, before)
    with pytest.raises(SalsaError, match="scores of 2 pairs are NaN or infinite"):
        fitting.score_pairs(reward, PAIRS, "evaluation", configure(world), DEVICE, silent)


def test_members_differ_in_seed_and_the_first_has_the_runs_own(world: World) -> None:
    config = configure(world, ensemble=3, seed=5)
    found = fitting.members(config)
    assert [member.number for member in found] == [0, 1, 2]
    assert found[0].seed == 5 and len({member.seed for member in found}) == 3
    assert found == fitting.members(replace(config, seed=5))


def test_checkpoints_are_numbered_in_the_order_in_which_they_are_saved() -> None:
    """Two members of three steps each; writing a member is a checkpoint of its own.

    The files of earlier releases have the same numbers, so their runs resume.
    """
    steps = 3
    saved = [fitting.Progress(0, 1), fitting.Progress(0, 2), fitting.Progress(0, 3)]
    saved += [fitting.Progress(1), fitting.Progress(1, 1), fitting.Progress(1, 3)]
    saved += [fitting.Progress(2)]
    assert [one.checkpoint_number(steps) for one in saved] == [1, 2, 3, 4, 5, 7, 8]
    assert [one.steps_done(steps) for one in saved] == [1, 2, 3, 3, 4, 6, 6]
