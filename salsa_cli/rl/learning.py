"""What one update learns from its answers: penalties, advantages and optimizer steps.

Only `learn` changes the models; every other stage is a function of the answers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from salsa_cli.config.ppo import PPOConfig
from salsa_cli.errors import SalsaError
from salsa_cli.generation.rollouts import Rollout
from salsa_cli.maths import advantages as adv
from salsa_cli.maths import group_advantages as groups
from salsa_cli.maths import importance, kl, masked, ppo_loss
from salsa_cli.models import learners
from salsa_cli.models.sequences import Sequences
from salsa_cli.rl import batching
from salsa_cli.rl.actors import Actors
from salsa_cli.rl.run import Run
from salsa_cli.runs.events import Working

LOSS_ESTIMATORS: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "k2": kl.weighted_k2,
    "k3": kl.weighted_k3,
}
"""What `--kl-in loss` differentiates, by the name of the estimator."""

GROUP_ADVANTAGES: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "rloo": groups.rloo,
    "group": groups.centred,
    "grpo": groups.grpo,
}
"""How `--advantage` compares the returns of a prompt's answers, by its name."""

RATIO_STOP = 0.05
"""Largest |ratio - 1| in an update's first minibatch. Rounding makes 1e-6 to 1e-4 of it; dropout at
the usual rate of 0.1 made 0.11 to 0.6."""


@dataclass(frozen=True)
class Targets:
    """Targets of the policy and the critic in one update.

    Attributes:
        advantages: `[B, R]`, whitened if they are those of GAE, times the importance weights.
        returns: `[B, R]`, from unwhitened advantages; None without a critic.
        unit: the advantage that a reward of 1 is worth, a scalar or, by answer, `[B, 1]`: whitening
            divides rewards by their spread, and a penalty in the loss must be divided by the same
            number.
        weights: `[B, R]` importance weights, where another program sampled.
    """

    advantages: torch.Tensor
    returns: torch.Tensor | None
    unit: torch.Tensor
    weights: torch.Tensor | None = None


@dataclass(frozen=True)
class LearningMetrics:
    """Means over the optimizer steps of one update; `ratio_error` is that of the first step.

    The figures of the critic are None where there is none.
    """

    policy_loss: float
    value_loss: float | None
    clip_share: float
    value_clip_share: float | None
    approx_kl: float
    ratio_error: float
    policy_grad_norm: float
    critic_grad_norm: float | None
    learning_rate: float


OF_THE_CRITIC = ("value_loss", "value_clip_share", "critic_grad_norm")
"""Figures that are None without a critic."""


def compute_penalties(
    logprobs: torch.Tensor,
    ref_logprobs: Sequence[torch.Tensor],
    mask: torch.Tensor,
    config: PPOConfig,
) -> torch.Tensor:
    """Estimates of the penalised divergence `[B, R]`: the mean over all references."""
    estimate = kl.chi2 if config.penalty == "chi2" else kl.k1
    return _mean_over_references(estimate, logprobs, ref_logprobs, mask)


def compute_advantages(
    rollout: Rollout, penalty: torch.Tensor, coef: float, config: PPOConfig
) -> Targets:
    """What the policy and the critic are trained towards, by `--advantage`.

    The gradient of a divergence has two parts for each token: what the token itself adds, and what
    the tokens after it add. The rewards account for both; `_own_part` corrects the former.

    Where another program sampled, every term of the policy's loss is multiplied by its importance
    weight. The clipped loss is proportional to the advantage for any factor from 0 up, so the
    weights are multiplied into the advantages.

    Args:
        penalty: `[B, R]` from `compute_penalties`.
        coef: its weight, in units of the reward.
    """
    find = _critic_targets if config.has_critic else _group_targets
    targets = find(rollout, penalty, coef, config)
    theirs = rollout.sampled.sampler_logprobs
    if theirs is None:
        return targets
    weights = importance.truncated_weights(rollout.logprobs, theirs, rollout.mask)
    return replace(targets, advantages=targets.advantages * weights, weights=weights)


def _critic_targets(
    rollout: Rollout, penalty: torch.Tensor, coef: float, config: PPOConfig
) -> Targets:
    """Rewards per token, then advantages by GAE: whitened for the policy, unwhitened for returns.

    Arguments as for `compute_advantages`. Policy and critic may have a lambda each (decoupled GAE;
    Yuan et al., "What's Behind PPO's Collapse in Long-CoT? Value Optimization Holds the Secret",
    2025: VC-PPO, section 4.2).
    """
    mask, values = rollout.mask, rollout.values
    assert values is not None
    token_rewards = adv.token_rewards(rollout.scores, penalty, mask, coef)
    unit = torch.ones((), dtype=token_rewards.dtype, device=token_rewards.device)
    if config.whiten_rewards:
        unit = 1 / masked.deviation(token_rewards, mask)
        token_rewards = masked.scale(token_rewards, mask)
    lam = _lambda(mask, values, config)
    gae = adv.gae(token_rewards, values, mask, config.gamma, lam)
    returns = adv.returns(gae, values, mask)
    if config.critic_lambda is not None:
        theirs = adv.gae(token_rewards, values, mask, config.gamma, config.critic_lambda)
        returns = adv.returns(theirs, values, mask)
    own = _own_part(rollout, penalty, config)
    if own is not None:
        gae = gae - coef * unit * own
    return Targets(masked.whiten(gae, mask), returns, unit / masked.deviation(gae, mask))


def _lambda(mask: torch.Tensor, values: torch.Tensor, config: PPOConfig) -> float | torch.Tensor:
    """Lambda of the policy's advantages: one for all answers, or `[B]` by their lengths."""
    if config.adaptive_lambda is None:
        return config.lam
    return adv.length_adaptive_lambda(mask, config.adaptive_lambda, like=values)


def _group_targets(
    rollout: Rollout, penalty: torch.Tensor, coef: float, config: PPOConfig
) -> Targets:
    """The return of each answer compared with those of its prompt's other answers.

    Arguments as for `compute_advantages`. The penalty belongs to the return of the whole answer;
    with `--kl-in loss`, which differentiates a token's own KL, `_own_part` takes that out again.
    Nothing is whitened: over a batch, that would undo what distinguishes the ways to compare.
    """
    mask, size = rollout.mask, config.group_size
    returns = groups.answer_returns(rollout.scores, penalty, mask, coef)
    advantages = GROUP_ADVANTAGES[config.advantage](returns, size).unsqueeze(1)
    unit = groups.unit(returns, size, config.advantage).unsqueeze(1)
    own = _own_part(rollout, penalty, config)
    if own is not None:
        advantages = advantages - coef * unit * own
    return Targets(masked.zero_padding(advantages.expand(mask.shape), mask), None, unit)


def _own_part(rollout: Rollout, penalty: torch.Tensor, config: PPOConfig) -> torch.Tensor | None:
    """What each token's own penalty lacks `[B, R]` for the gradient; None where it lacks nothing.

    k1 in the reward is complete: the gradient of log pi has the expectation 0. In the loss, a
    token's own KL is differentiated there, and must not count twice.
    """
    if config.kl_in == "loss":
        return -masked.zero_padding(penalty, rollout.mask)
    if config.penalty == "chi2":
        return _mean_over_references(
            kl.chi2_slope, rollout.logprobs, rollout.ref_logprobs, rollout.mask
        )
    return None


def _mean_over_references(
    estimate: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    logprobs: torch.Tensor,
    ref_logprobs: Sequence[torch.Tensor],
    mask: torch.Tensor,
) -> torch.Tensor:
    logprobs = masked.zero_padding(logprobs, mask)
    return torch.stack(
        [estimate(logprobs, masked.zero_padding(ref, mask)) for ref in ref_logprobs]
    ).mean(0)


def loss_penalties(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    ref_logprobs: Sequence[torch.Tensor],
    mask: torch.Tensor,
    config: PPOConfig,
) -> torch.Tensor:
    """The KL of each token with gradient `[B, R]`, for `--kl-in loss`; the mean over references."""
    old = masked.zero_padding(old_logprobs, mask)
    estimate = LOSS_ESTIMATORS[config.kl_estimator]
    return _mean_over_references(
        lambda ours, ref: estimate(ours, old, ref), logprobs, ref_logprobs, mask
    )


def learn(
    update: int,
    rollout: Rollout,
    targets: Targets,
    coef: float,
    actors: Actors,
    run: Run,
) -> LearningMetrics:
    """Train policy and critic for several epochs on one rollout.

    In the first updates, `--critic-warmup` lets the critic learn alone. Policy and critic share no
    trained weight, so each minibatch makes all passes of the policy and its step before those of
    the critic: the gradients and activations of one model are held at a time.
    """
    config = run.config
    share = learners.warmed_up(update, config.updates, config.warmup, schedule=config.schedule)
    critic_alone = update < config.critic_warmup
    steps: list[dict[str, float]] = []
    total = config.epochs * config.minibatches
    for epoch in range(config.epochs):
        for minibatch in batching.minibatches(update, epoch, config):
            given = minibatch, rollout, targets
            run.report(Working("minibatch", len(steps) + 1, total))
            policy = _accumulate_policy_gradients(*given, coef, actors, run)
            if not steps and has_exact_ratio(config, run.runtime.device):
                check_first_ratio(policy["ratio_error"])
            if critic_alone:
                actors.actor.drop()
            policy["policy_grad_norm"] = 0.0 if critic_alone else actors.actor.step(share)
            if actors.critic is not None:
                policy |= _accumulate_critic_gradients(*given, actors, run)
                policy["critic_grad_norm"] = actors.critic.step(share)
            steps.append(policy)
    actors.actor.follow()
    if actors.critic is not None:
        actors.critic.follow()
    means = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0]}
    # Nothing has moved before the first step, so this is 0 unless something is wrong.
    means["ratio_error"] = steps[0]["ratio_error"]
    means["learning_rate"] = 0.0 if critic_alone else share * config.learning_rate
    missing: dict[str, Any] = dict.fromkeys(OF_THE_CRITIC)
    return LearningMetrics(**(missing | means))


def has_exact_ratio(config: PPOConfig, device: torch.device) -> bool:
    """Whether the first ratio is 1 up to the rounding of float32.

    It is on a CPU, where equal passes give equal results; there, in float32, generation differs
    from a pass by 1e-5 at most.
    """
    return device.type == "cpu" and not (config.reuse_logprobs and config.weights == "bfloat16")


def check_first_ratio(ratio_error: float) -> None:
    """Refuse to learn if the policy's log-probabilities changed before any weight did.

    Args:
        ratio_error: largest |ratio - 1| in the first minibatch of an update.

    Raises:
        SalsaError: it is above `RATIO_STOP`.
    """
    if not ratio_error <= RATIO_STOP:
        raise SalsaError(
            "the probabilities of the sampled tokens differ by a factor of up to "
            f"{1 + ratio_error:.3g} between rollout and training, before any weight was changed; "
            f"expected at most {1 + RATIO_STOP:g}, so the update was not made. The architecture "
            "behaves differently in training (dropout, routing noise): try without "
            "--gradient-checkpointing and --compile"
        )


@dataclass(frozen=True)
class _Part:
    """One forward and backward pass of this process.

    Attributes:
        rows: `[n]` indices into the batch, on the device.
        mask: `[n, R]`, the real tokens that count.
        sequences: the prompts and answers of the rows.
    """

    rows: torch.Tensor
    mask: torch.Tensor
    sequences: Sequences


def _accumulate_policy_gradients(
    minibatch: torch.Tensor,
    rollout: Rollout,
    targets: Targets,
    coef: float,
    actors: Actors,
    run: Run,
) -> dict[str, float]:
    """Accumulate the policy's gradients of one minibatch, one pass of answers at a time.

    Each process computes its part of the minibatch; the figures cover all of it.
    """
    config, runtime = run.config, run.runtime
    tokens = rollout.mask[minibatch].sum()
    figures: list[Mapping[str, torch.Tensor]] = []
    worst = torch.zeros((), device=runtime.device)
    for part in _parts(minibatch, rollout, run):
        rows, mask = part.rows, part.mask
        with runtime.autocast():
            logprobs = actors.actor.network(part.sequences, config.temperature)
        old, advantages = rollout.logprobs[rows], targets.advantages[rows]
        unit = targets.unit.expand(len(rollout.mask), 1)[rows]
        if config.loss_level == "answer":
            lengths = rollout.mask[rows].sum(dim=1, keepdim=True).to(advantages)
            weights = ppo_loss.answer_weights(lengths, len(minibatch), tokens)
            advantages, unit = weights * advantages, weights * unit
        policy = ppo_loss.policy_loss(
            logprobs,
            old,
            advantages,
            mask,
            config.clip,
            tokens,
            config.dual_clip,
            config.clip_high,
        )
        loss = policy.loss
        if config.kl_in == "loss":
            theirs = [ref[rows] for ref in rollout.ref_logprobs]
            near = unit * loss_penalties(logprobs, old, theirs, mask, config)
            if targets.weights is not None:
                near = near * targets.weights[rows]
            loss = loss + coef * ppo_loss.divergence_loss(near, mask, tokens)
        torch.autograd.backward(loss)
        figures.append(
            {
                "policy_loss": loss.detach(),
                "clip_share": policy.clipped_share,
                "approx_kl": policy.approx_kl,
            }
        )
        worst = torch.maximum(worst, ppo_loss.ratio_error(logprobs.detach(), old, mask))
    return {**_summed(figures, run), "ratio_error": runtime.most(float(worst))}


def _accumulate_critic_gradients(
    minibatch: torch.Tensor, rollout: Rollout, targets: Targets, actors: Actors, run: Run
) -> dict[str, float]:
    """Accumulate the critic's gradients of one minibatch, one pass of answers at a time.

    Each process computes its part of the minibatch; the figures cover all of it.
    """
    critic, old_values, returns = actors.critic, rollout.values, targets.returns
    assert critic is not None and old_values is not None and returns is not None
    tokens = rollout.mask[minibatch].sum()
    value_clip = run.config.value_clip or float("inf")
    figures: list[Mapping[str, torch.Tensor]] = []
    for part in _parts(minibatch, rollout, run):
        rows = part.rows
        with run.runtime.autocast():
            values = critic.network(part.sequences)
        value = ppo_loss.value_loss(
            values, old_values[rows], returns[rows], part.mask, value_clip, tokens
        )
        torch.autograd.backward(value.loss)
        figures.append({"value_loss": value.loss.detach(), "value_clip_share": value.clipped_share})
    return _summed(figures, run)


def _parts(minibatch: torch.Tensor, rollout: Rollout, run: Run) -> Iterator[_Part]:
    """The passes of this process over a minibatch; see `batching.TrainingPass`."""
    for each in batching.training_passes(minibatch, rollout.sampled, run.config, run.runtime):
        rows = each.rows.to(run.runtime.device)
        mask = rollout.mask[rows] & each.counts
        yield _Part(rows, mask, rollout.sampled.sequences.part(each.rows))


def _summed(figures: Sequence[Mapping[str, torch.Tensor]], run: Run) -> dict[str, float]:
    """Sums of each figure over the passes of all processes; every process must call it."""
    totals = {name: torch.stack([one[name] for one in figures]).sum(0) for name in figures[0]}
    kind = next(iter(totals.values())).dtype
    found = run.runtime.total(torch.stack([total.to(kind) for total in totals.values()]))
    return dict(zip(totals, found.tolist(), strict=True))
