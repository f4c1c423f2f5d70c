"""What one update learns from its answers: penalties, advantages and optimizer steps.

Only `learn` changes the models; every other stage is a function of the answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.generation.rollouts import Rollout
from salsa_cli.maths import advantages as adv
from salsa_cli.maths import importance, kl, masked, ppo_loss
from salsa_cli.models import learners
from salsa_cli.rl import batching
from salsa_cli.rl.actors import Actors
from salsa_cli.rl.run import Run

ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "k1": kl.k1,
    "k2": kl.k2,
    "k3": kl.k3,
}


@dataclass(frozen=True)
class Targets:
    """The targets of one update.

    Attributes:
        advantages: `[B, R]`, whitened, times the importance weights.
        returns: `[B, R]`, from unwhitened advantages.
        weights: `[B, R]` importance weights, where another program sampled.
    """

    advantages: torch.Tensor
    returns: torch.Tensor
    weights: torch.Tensor | None = None


@dataclass(frozen=True)
class LearningMetrics:
    """Means over the optimizer steps of one update; `ratio_error` is that of the first step."""

    policy_loss: float
    value_loss: float
    clip_share: float
    value_clip_share: float
    approx_kl: float
    ratio_error: float
    policy_grad_norm: float
    critic_grad_norm: float
    learning_rate: float


def compute_penalties(
    logprobs: torch.Tensor,
    ref_logprobs: Sequence[torch.Tensor],
    mask: torch.Tensor,
    config: PPOConfig,
) -> torch.Tensor:
    """Estimates of the penalised divergence `[B, R]`, averaged over all references."""
    logprobs = masked.zero_padding(logprobs, mask)
    estimate = kl.chi2 if config.penalty == "chi2" else ESTIMATORS[config.kl_estimator]
    return torch.stack(
        [estimate(logprobs, masked.zero_padding(ref, mask)) for ref in ref_logprobs]
    ).mean(0)


def compute_advantages(
    rollout: Rollout, penalty: torch.Tensor, coef: float, config: PPOConfig
) -> Targets:
    """Rewards per token, then advantages by GAE: whitened for the policy, unwhitened for returns.

    Where another program sampled, every term of the policy's loss is multiplied by its importance
    weight. The clipped loss is proportional to the advantage for any factor from 0 up, so the
    weights are multiplied into the advantages.

    Args:
        penalty: `[B, R]` from `penalties`.
        coef: its weight.
    """
    if config.kl_in == "loss":
        penalty, coef = torch.zeros_like(penalty), 0.0
    token_rewards = adv.token_rewards(rollout.scores, penalty, rollout.mask, coef)
    if config.whiten_rewards:
        token_rewards = masked.scale(token_rewards, rollout.mask)
    gae = adv.gae(token_rewards, rollout.values, rollout.mask, config.gamma, config.lam)
    returns = adv.returns(gae, rollout.values, rollout.mask)
    advantages = masked.whiten(gae, rollout.mask)
    theirs = rollout.sampled.sampler_logprobs
    if theirs is None:
        return Targets(advantages, returns)
    weights = importance.truncated_weights(rollout.logprobs, theirs, rollout.mask)
    return Targets(advantages * weights, returns, weights)


def learn(
    update: int,
    rollout: Rollout,
    targets: Targets,
    coef: float,
    actors: Actors,
    run: Run,
) -> LearningMetrics:
    """Train policy and critic for several epochs on one rollout.

    In the first updates, `--critic-warmup` lets the critic learn alone.
    """
    config = run.config
    share = learners.warmed_up(update, config.updates, config.warmup, schedule=config.schedule)
    critic_alone = update < config.critic_warmup
    steps = []
    for epoch in range(config.epochs):
        for minibatch in batching.minibatches(update, epoch, config):
            steps.append(_accumulate_gradients(minibatch, rollout, targets, coef, actors, run))
            if critic_alone:
                actors.actor.drop()
            steps[-1]["policy_grad_norm"] = 0.0 if critic_alone else actors.actor.step(share)
            steps[-1]["critic_grad_norm"] = actors.critic.step(share)
    actors.actor.follow()
    actors.critic.follow()
    means = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    # Nothing has moved before the first step, so this is 0 unless something is wrong.
    means["ratio_error"] = steps[0]["ratio_error"]
    rate = 0.0 if critic_alone else share * config.learning_rate
    return LearningMetrics(**means, learning_rate=rate)


def _accumulate_gradients(
    minibatch: torch.Tensor,
    rollout: Rollout,
    targets: Targets,
    coef: float,
    actors: Actors,
    run: Run,
) -> dict[str, float]:
    """Accumulate the gradients of one minibatch, one forward pass of answers at a time.

    Each process computes its part of the minibatch; the figures cover all of it.
    """
    config, runtime = run.config, run.runtime
    tokens = rollout.mask[minibatch].sum()
    value_clip = config.value_clip or float("inf")
    totals: dict[str, torch.Tensor] = {}
    worst = torch.zeros((), device=runtime.device)
    for each in batching.training_passes(minibatch, rollout.sampled, config, runtime):
        rows = each.rows.to(runtime.device)
        mask = rollout.mask[rows] & each.counts
        part = rollout.sampled.sequences.part(each.rows)
        with runtime.autocast():
            logprobs = actors.actor.network(part, config.temperature)
        old = rollout.logprobs[rows]
        policy = ppo_loss.policy_loss(
            logprobs, old, targets.advantages[rows], mask, config.clip, tokens, config.dual_clip
        )
        loss = policy.loss
        if config.kl_in == "loss":
            theirs = [ref[rows] for ref in rollout.ref_logprobs]
            near = compute_penalties(logprobs, theirs, mask, config)
            if targets.weights is not None:
                near = near * targets.weights[rows]
            loss = loss + coef * ppo_loss.divergence_loss(near, mask, tokens)
        # The two share no weight, so their gradients do not mix and need no coefficient; one after
        # the other, so that the activations of one alone are held.
        torch.autograd.backward(loss)
        with runtime.autocast():
            values = actors.critic.network(part)
        value = ppo_loss.value_loss(
            values, rollout.values[rows], targets.returns[rows], mask, value_clip, tokens
        )
        torch.autograd.backward(value.loss)
        figures = {
            "policy_loss": loss.detach(),
            "value_loss": value.loss.detach(),
            "clip_share": policy.clipped_share,
            "value_clip_share": value.clipped_share,
            "approx_kl": policy.approx_kl,
        }
        for name, figure in figures.items():
            totals[name] = totals.get(name, 0) + figure
        worst = torch.maximum(worst, ppo_loss.ratio_error(logprobs.detach(), old, mask))
    found = torch.stack([totals[name].to(worst.dtype) for name in totals])
    summed = dict(zip(totals, runtime.total(found).tolist(), strict=True))
    return {**summed, "ratio_error": runtime.most(float(worst))}
