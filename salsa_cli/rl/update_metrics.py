"""The metrics of one update, from what its stages computed."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.generation.rollouts import Rollout
from salsa_cli.maths import advantages as adv
from salsa_cli.maths import group_advantages, kl, masked, statistics
from salsa_cli.rl import experience
from salsa_cli.rl.experience import AnchorKLs, ScoredBatch
from salsa_cli.rl.learning import LearningMetrics, Targets
from salsa_cli.rl.metrics import UpdateMetrics


def summarize_update(
    update: int,
    kl_coef: float,
    scored: ScoredBatch,
    rollout: Rollout,
    penalty: torch.Tensor,
    targets: Targets,
    anchors: AnchorKLs,
    reference_end: float | None,
    learned: LearningMetrics,
    seconds: Mapping[str, float],
    config: PPOConfig,
) -> UpdateMetrics:
    """The row of metrics.jsonl of one update.

    Args:
        update: updates finished before this one.
        kl_coef: the coefficient in this update.
        scored: rewards of the answers.
        rollout: the answers, before anything was learned from them.
        penalty: `[B, R]` the penalised divergence.
        targets: what the update trained on.
        anchors: KLs to the anchors.
        reference_end: log-probability, under the reference, of an empty answer, if measured.
        learned: means over the optimizer steps.
        seconds: time by stage.
        config: the settings.
    """
    sampled, mask = rollout.sampled, rollout.mask
    penalty_sums = kl.per_answer(penalty, mask)
    mismatch = experience.mismatch(rollout)
    return UpdateMetrics(
        update=update + 1,
        reward=float(scored.trained.mean()),
        reward_std=float(scored.trained.std(unbiased=False)),
        rewards=_by_member(config, scored),
        watched=experience.means(config.watch_reward, scored.watched),
        kl=float(experience.kl_sums(rollout).mean()),
        kl_anchors=anchors.kls,
        reference_end=reference_end,
        penalty=float(penalty_sums.mean()),
        kl_coef=kl_coef,
        objective=float(adv.objective(rollout.scores, penalty_sums, kl_coef)),
        length=float(sampled.lengths.float().mean()),
        finished=float(sampled.finished.float().mean()),
        # Unbiased for the policy's entropy, since the tokens are its own samples (or, of a server,
        # as nearly as `sampler_mismatch` says).
        entropy=float(masked.masked_mean(-rollout.logprobs, mask)),
        length_reward_correlation=statistics.correlation(
            sampled.lengths.cpu().numpy(), scored.trained.numpy()
        ),
        **_critic_fit(rollout, targets),
        **asdict(learned),
        tokens=int(sampled.lengths.sum()),
        **_group_counts(scored, config),
        sampler_mismatch=None if mismatch is None else mismatch.nats,
        sampler_truncated=None if mismatch is None else mismatch.truncated,
        temperature=config.temperature,
        kl_at_temperature_1=anchors.untempered or None,
        time=seconds,
    )


def _critic_fit(rollout: Rollout, targets: Targets) -> dict[str, Any]:
    """How well the critic foretold the returns; None where there is no critic."""
    values, returns, mask = rollout.values, targets.returns, rollout.mask
    if values is None or returns is None:
        return {"explained_variance": None, "mean_return": None}
    return {
        "explained_variance": float(adv.explained_variance(values, returns, mask)),
        "mean_return": float(masked.masked_mean(returns, mask)),
    }


def _group_counts(scored: ScoredBatch, config: PPOConfig) -> dict[str, Any]:
    """Prompts, and how many of them have answers of one reward; empty with a critic."""
    if config.has_critic:
        return {}
    size = config.group_size
    equal = group_advantages.equal_groups(scored.trained, size)
    return {"groups": len(scored.trained) // size, "equal_groups": equal}


def _by_member(config: PPOConfig, scored: ScoredBatch) -> Mapping[str, float]:
    """Mean reward of each member of an ensemble; empty for a single reward."""
    if len(config.reward) == 1:
        return {}
    return experience.means(config.reward, scored.scores.members)
