"""The row of an update from what its stages computed, worked by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.generation.rollouts import Rollout, Sampled
from salsa_cli.models.tokenization import Tokens
from salsa_cli.reward_models.rewards import Scores
from salsa_cli.rl.experience import AnchorKLs, ScoredBatch
from salsa_cli.rl.learning import LearningMetrics, Targets
from salsa_cli.rl.metrics import UpdateMetrics
from salsa_cli.rl.update_metrics import summarize_update

MASK = torch.tensor([[True, True, True], [True, False, False]])
LEARNED = LearningMetrics(0.1, 0.2, 0.0, 0.5, 0.01, 0.0, 1.5, 2.5, 1e-5)
ANCHORS = AnchorKLs({"start": 3.0}, {})


def measured(
    rewards: tuple[str, ...] = ("one",), sampler: torch.Tensor | None = None
) -> UpdateMetrics:
    given: dict[str, Any] = {"ref": ("r",), "reward": rewards, "prompts": "p", "output": Path("o")}
    config = PPOConfig(**given, watch_reward=("seen",))
    prompts = Tokens(torch.ones(2, 1, dtype=torch.long), torch.ones(2, 1, dtype=torch.bool))
    answers = Tokens(torch.ones(2, 3, dtype=torch.long), MASK)
    sampled = Sampled(prompts, answers, torch.tensor([True, False]), sampler)
    rollout = Rollout(
        sampled,
        torch.tensor([[-1.0, -2.0, -3.0], [-0.5, 9.0, 9.0]]),
        (torch.tensor([[-2.0, -2.0, -1.0], [-1.5, 9.0, 9.0]]),),
        torch.tensor([[0.0, 1.0, 2.0], [1.0, 9.0, 9.0]]),
        torch.tensor([4.0, 2.0]),
    )
    scored = ScoredBatch(
        torch.tensor([4.0, 2.0]),
        Scores(torch.tensor([4.0, 2.0]), torch.tensor([[4.0, 2.0], [0.0, 2.0]])[: len(rewards)]),
        torch.tensor([[1.0, 5.0]]),
    )
    returns = torch.tensor([[1.0, 1.0, 3.0], [3.0, 0.0, 0.0]])
    return summarize_update(
        4,
        0.5,
        scored,
        rollout,
        torch.tensor([[0.25, 0.5, 0.25], [2.0, 9.0, 9.0]]) * MASK,
        Targets(torch.zeros(2, 3), returns, torch.tensor(1.0)),
        ANCHORS,
        -7.0,
        LEARNED,
        {"rollout": 1.0},
        config,
    )


def test_every_figure_by_hand() -> None:
    row = measured()
    assert row.update == 5  # the first update is 1, and four are finished
    assert (row.reward, row.reward_std) == (3.0, 1.0)
    assert (row.kl, row.penalty, row.kl_coef) == (0.0, 1.5, 0.5)  # k1: -1 and 1; sums 1 and 2
    assert row.objective == 3.0 - 0.5 * 1.5
    assert (row.length, row.finished, row.tokens) == (2.0, 0.5, 4)
    assert row.entropy == pytest.approx((1 + 2 + 3 + 0.5) / 4)
    assert row.length_reward_correlation == pytest.approx(1.0)  # 3 tokens for 4, 1 token for 2
    assert row.mean_return == 2.0
    # Returns 1, 1, 3, 3 have variance 1; they miss the values 0, 1, 2, 1 by 1, 0, 1, 2, whose
    # variance is 1/2.
    assert row.explained_variance == pytest.approx(0.5)
    assert (row.kl_anchors, row.reference_end) == ({"start": 3.0}, -7.0)
    assert (row.policy_loss, row.critic_grad_norm, row.learning_rate) == (0.1, 2.5, 1e-5)
    assert row.watched == {"seen": 3.0} and row.time == {"rollout": 1.0}


def test_members_of_an_ensemble_are_named_and_a_single_reward_is_not() -> None:
    assert measured().rewards == {}
    assert measured(("one", "two")).rewards == {"one": 3.0, "two": 1.0}


def test_a_sampler_is_measured_where_there_is_one() -> None:
    assert measured().sampler_mismatch is None
    theirs = torch.tensor([[-1.1, -2.1, -3.1], [-0.6, 0.0, 0.0]])
    row = measured(sampler=theirs)
    assert row.sampler_mismatch == pytest.approx(0.1, abs=1e-6)
    assert row.sampler_truncated == 0.0
