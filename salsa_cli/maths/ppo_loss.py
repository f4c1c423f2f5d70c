"""The clipped losses of PPO, for the policy and for the critic.

Losses are sums over real tokens divided by `tokens`, the number of real tokens of the *whole*
minibatch. The losses and shares of its micro-batches therefore add up to the minibatch's own,
however ragged they are; a micro-batch without a real token adds 0. `tokens` must be at least 1.
Masked positions, NaN included, touch neither the losses nor the gradients.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from salsa_cli.maths import kl, masked


@dataclass(frozen=True)
class PolicyLoss:
    """Scalars. `loss` carries the gradient; the others are detached.

    clipped_share: share of tokens on which clipping is active: its term is the larger one, so that
        the token has no gradient.
    approx_kl: k2 of the new policy from the old, 0.5 * (log pi - log pi_old)^2 per token.
    """

    loss: Tensor
    clipped_share: Tensor
    approx_kl: Tensor


@dataclass(frozen=True)
class ValueLoss:
    """Scalars. `loss` carries the gradient; `clipped_share` is detached, as in PolicyLoss."""

    loss: Tensor
    clipped_share: Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: float,
    tokens: Tensor | float,
    dual_clip: float | None = None,
    clip_high: float | None = None,
) -> PolicyLoss:
    """Clipped surrogate loss of the policy.

    Args:
        logprobs: [B, T] log pi at the sampled tokens, with gradient.
        old_logprobs: [B, T] those of the rollout, without.
        advantages: [B, T], usually whitened.
        mask: [B, T] bool.
        clip: epsilon, > 0.
        tokens: number of real tokens of the whole minibatch.
        dual_clip: c > 1 bounds the loss of a token with A < 0 by -A * c; None sets no bound.
        clip_high: epsilon above 1, > 0; None for `clip`.

    ratio = exp(log pi - log pi_old)
    loss  = sum max(-A * ratio, -A * clamp(ratio, 1 - epsilon, 1 + epsilon)) / tokens
    (Schulman et al., "Proximal Policy Optimization Algorithms", 2017, eq. 7, negated to minimise).
    `clip_high` replaces the second epsilon: an unlikely token may then gain more before it is
    clipped, which keeps the entropy up (clip-higher; Yu et al., "DAPO: An Open-Source LLM
    Reinforcement Learning System at Scale", 2025, eq. 10, with 0.2 and 0.28).
    The max makes it a pessimistic bound: clipping removes only the gain of moving further.
    With A < 0 it is unbounded in the ratio; dual clipping takes the smaller of it and -A * c
    (Ye et al., "Mastering Complex Control in MOBA Games with Deep Reinforcement Learning", 2020,
    eq. 5).
    """
    # Mask before the exponential: masked later, an overflow on padding would still turn the
    # gradient into 0 * inf.
    logprobs = masked.zero_padding(logprobs, mask)
    old_logprobs = masked.zero_padding(old_logprobs, mask)
    advantages = masked.zero_padding(advantages, mask)
    ratio = torch.exp(logprobs - old_logprobs)
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    loss = torch.maximum(unclipped, clipped)
    active = clipped > unclipped
    if dual_clip is not None:
        bound = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
        active = active | (bound < loss)
        loss = torch.minimum(loss, bound)
    return PolicyLoss(
        loss=loss.sum() / tokens,
        clipped_share=active.to(ratio.dtype).sum() / tokens,
        approx_kl=kl.k2(logprobs, old_logprobs).detach().sum() / tokens,
    )


def answer_weights(lengths: Tensor, answers: int, tokens: Tensor | float) -> Tensor:
    """Weight of each answer's tokens that gives all answers the same weight in a loss, [B].

    Args:
        lengths: [B] real tokens of each answer, >= 1.
        answers: number of answers in the whole minibatch.
        tokens: number of real tokens of the whole minibatch.

    tokens / (answers * L_i): a sum of weighted terms / tokens is then the mean over answers of the
    mean over each answer's tokens (Shao et al., "DeepSeekMath", 2024, eq. 3: GRPO). Without weights
    every token weighs the same (Yu et al., "DAPO", 2025, section 3.3). As the clipped loss is
    proportional to the advantage for any factor from 0 up, the weights may multiply advantages.
    """
    return tokens / (answers * lengths)


def divergence_loss(divergence: Tensor, mask: Tensor, tokens: Tensor | float) -> Tensor:
    """A per-token divergence as a term of the loss, a scalar: its sum over real tokens / tokens.

    Args:
        divergence: [B, T] of `kl.weighted_k2` or `kl.weighted_k3`, with gradient.
        mask: [B, T] bool.
        tokens: number of real tokens of the whole minibatch.
    """
    return masked.masked_sum(divergence, mask) / tokens


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    clip: float,
    tokens: Tensor | float,
) -> ValueLoss:
    """Clipped squared error of the critic.

    Args:
        values: [B, T] V, with gradient.
        old_values: [B, T] those of the rollout, without.
        returns: [B, T] targets R.
        mask: [B, T] bool.
        clip: epsilon, > 0, in units of the values; infinity for none.
        tokens: number of real tokens of the whole minibatch.

    V_clipped = clamp(V, V_old - epsilon, V_old + epsilon)
    loss      = sum 0.5 * max((V - R)^2, (V_clipped - R)^2) / tokens
    (OpenAI baselines, ppo2/model.py.) The coefficient of the value loss is the caller's.
    """
    values = masked.zero_padding(values, mask)
    old_values = masked.zero_padding(old_values, mask)
    returns = masked.zero_padding(returns, mask)
    # Clamping V itself, not V - V_old, returns V to the last bit inside the range: rounding then
    # cannot count a token as clipped.
    values_clipped = values.clamp(old_values - clip, old_values + clip)
    unclipped = (values - returns).square()
    clipped = (values_clipped - returns).square()
    return ValueLoss(
        loss=0.5 * torch.maximum(unclipped, clipped).sum() / tokens,
        clipped_share=(clipped > unclipped).to(values.dtype).sum() / tokens,
    )


def ratio_error(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Largest |exp(log pi - log pi_old) - 1| over real tokens, a scalar.

    Args:
        logprobs: [B, T].
        old_logprobs: [B, T].
        mask: [B, T] bool.

    In the first minibatch of the first epoch the ratio is exactly 1: more than rounding here means
    that rollout and training disagree (temperature, dropout, masks, positions). An empty mask
    gives 0.
    """
    difference = masked.zero_padding(logprobs - old_logprobs, mask)
    return torch.expm1(difference).abs().amax()
