"""Importance weights: answers drawn by one program, learnt from by another.

An inference server computes the same policy with other kernels, and in another type. Its
log-probabilities mu differ from the trainer's pi_old in every token a little, and PPO's ratio to
pi_old does not know of it. The weights here correct for the difference.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from salsa_cli.maths import masked

CAP = 2.0
"""C of `truncated_weights`, the usual one."""


@dataclass(frozen=True)
class Mismatch:
    """How far apart sampler and trainer are, over the real tokens of a batch.

    Attributes:
        nats: mean of |log pi_old - log mu|, nats per token.
        truncated: share of tokens whose weight the cap cuts, 0 to 1.
    """

    nats: float
    truncated: float


def truncated_weights(
    logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float = CAP
) -> Tensor:
    """Weight of each token, [B, T], without gradient; 0 on masked positions.

    Args:
        logprobs: [B, T] log pi_old, the trainer's, at the sampled tokens.
        sampler_logprobs: [B, T] log mu, those of the program that sampled them.
        mask: [B, T] bool.
        cap: C > 0.

    w = min(pi_old / mu, C)
    (truncated importance sampling: Ionides, "Truncated Importance Sampling", 2008; by token for
    sampler and trainer of one policy: Yao et al., "Your Efficient RL Framework Secretly Brings You
    Off-Policy RL Training", 2025.) Untruncated, the mean over mu of w f is that of f over pi_old;
    the cap bounds the variance, for a bias where mu had too little faith. Where the two agree all
    weights are exactly 1.
    """
    # Masked before the exponential, so that padding cannot overflow. What overflows is cut.
    difference = masked.zero_padding((logprobs - sampler_logprobs).detach(), mask)
    return masked.zero_padding(difference.exp().clamp(max=cap), mask)


def mismatch(
    logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float = CAP
) -> Mismatch:
    """The mismatch of a batch; arguments as for `truncated_weights`. An empty mask gives zeros."""
    difference = masked.zero_padding((logprobs - sampler_logprobs).detach(), mask)
    cut = (difference.exp() > cap).to(torch.float32)
    return Mismatch(
        float(masked.masked_mean(difference.abs(), mask)), float(masked.masked_mean(cut, mask))
    )
