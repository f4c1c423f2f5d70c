"""From scores to advantages: what PPO maximises and how it is spread over the tokens.

The real tokens of a row are contiguous (an answer, padded on either side). Masked positions hold 0
in every result, and nothing on them, NaN included, reaches a real token.
"""

import torch
from torch import Tensor

from salsa_cli.maths import masked


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Per-token rewards, [B, T]: the KL penalty on each token, the score once, on the last.

    Args:
        scores: [B] reward of the whole answer.
        kl: [B, T] per-token KL to the reference (k1 in the usual recipe).
        mask: [B, T] bool.
        kl_coef: beta.

    r_t = -beta * kl_t + [t is the last real token] * score
    (Ziegler et al., "Fine-Tuning Language Models from Human Preferences", 2019, eq. 2; the score's
    place as in Stiennon et al., "Learning to summarize from human feedback", 2020).
    A row without a real token has no place for its score, which then appears nowhere.
    """
    penalties = masked.zero_padding(-kl_coef * kl, mask)
    positions = torch.arange(mask.shape[1], device=mask.device)
    is_last = positions == masked.last_index(mask).unsqueeze(1)
    return penalties + torch.where(is_last, scores.unsqueeze(1), 0)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float | Tensor) -> Tensor:
    """Generalised advantage estimates, [B, T].

    Args:
        rewards: [B, T].
        values: [B, T] V_t, the critic's value before token t is chosen.
        mask: [B, T] bool.
        gamma: discount, in [0, 1].
        lam: lambda, in [0, 1], of all answers or of each, [B]: 0 gives delta_t, 1 gives the
            discounted return less V_t.

    delta_t = r_t + gamma * V_{t+1} - V_t
    A_t     = delta_t + gamma * lambda * A_{t+1}
    (Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
    2016, eqs. 11 and 16). The answer ends with its last real token, so V and A after it are 0,
    also when it was cut at the length limit.
    """
    values = masked.zero_padding(values, mask)
    next_value = torch.zeros_like(values[:, 0])
    advantage = torch.zeros_like(next_value)
    backwards = []
    for t in reversed(range(mask.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(mask[:, t], delta + gamma * lam * advantage, 0)
        next_value = values[:, t]
        backwards.append(advantage)
    return torch.stack(backwards[::-1], dim=1)


def length_adaptive_lambda(mask: Tensor, alpha: float, like: Tensor) -> Tensor:
    """Lambda of each answer by its length, [B]: 1 - 1 / (alpha * L), at least 0.

    Args:
        mask: [B, T] bool; L is the number of real tokens.
        alpha: > 0.
        like: has the type of the result.

    The coefficients of GAE, lambda^0 + lambda^1 + ..., sum to about 1 / (1 - lambda) = alpha * L:
    a share of the answer that is the same for all lengths, where a fixed lambda looks a fixed
    number of tokens ahead (Yue et al., "VAPO: Efficient and Reliable Reinforcement Learning for
    Advanced Reasoning Tasks", 2025, section 4.2, with alpha = 0.05).
    """
    lengths = mask.sum(dim=1).to(like).clamp(min=1)
    return (1 - 1 / (alpha * lengths)).clamp(min=0)


def soft_overlong_penalty(lengths: Tensor, limit: int, buffer: int) -> Tensor:
    """Penalty of answers that come near the length limit, [B], from 0 to -1.

    Args:
        lengths: [B] tokens of each answer, at most `limit`.
        limit: longest answer.
        buffer: tokens before it over which the penalty rises, >= 1.

    0 up to limit - buffer, then linear to -1 at the limit
    (Yu et al., "DAPO: An Open-Source LLM Reinforcement Learning System at Scale", 2025, eq. 13,
    whose L_max is `limit` and L_cache is `buffer`).
    """
    return -((lengths - (limit - buffer)) / buffer).clamp(min=0)


def returns(advantages: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Targets of the critic, [B, T]: A_t + V_t on real tokens (the lambda-return), 0 elsewhere.

    Args:
        advantages: [B, T] from `gae`, *not* whitened: whitening would destroy the scale.
        values: [B, T] those given to `gae`.
        mask: [B, T] bool.
    """
    return masked.zero_padding(advantages + values, mask)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Share of the returns' variance that the critic explains, a scalar.

    Args:
        values: [B, T].
        returns: [B, T].
        mask: [B, T] bool.

    1 - Var(returns - values) / Var(returns): 1 for a perfect critic, 0 for a constant one, below 0
    for one worse than a constant. 0 when Var(returns) is 0, an empty mask included.
    """
    total = masked.masked_variance(returns, mask)
    residual = masked.masked_variance(returns - values, mask)
    # The inner `where` keeps 0 / 0 out of the branch that is not taken, hence out of the gradient.
    return torch.where(total > 0, 1 - residual / torch.where(total > 0, total, 1), 0)


def objective(scores: Tensor, kl_sums: Tensor, kl_coef: float) -> Tensor:
    """What RLHF maximises, estimated on a batch, a scalar: mean(score) - beta * mean(KL).

    Args:
        scores: [B] reward of each answer, B >= 1.
        kl_sums: [B] KL of each answer, summed over its tokens (`kl.per_answer`).
        kl_coef: beta.

    Source: Ouyang et al., "Training language models to follow instructions with human feedback",
    2022, eq. 2 without its pretraining term. Equals the mean over answers of summed token rewards.
    """
    return scores.mean() - kl_coef * kl_sums.mean()
