"""Advantages without a critic: answers of one prompt are compared with one another.

A batch of B answers consists of groups of K answers of one prompt, one group after another: rows
0 to K - 1 are the first. An answer counts as one action with one return, so all of its tokens have
the same advantage.
"""

import torch
from torch import Tensor

from salsa_cli.maths import kl as divergences

EPSILON = 1e-4
"""Added to the standard deviation in `grpo`, as in TRL: a group of almost equal returns must not
be blown up."""


def answer_returns(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Return of each whole answer, [B]: R = score - beta * sum_t kl_t.

    Args:
        scores: [B] reward of each answer.
        kl: [B, T] per-token KL to the reference (k1: log pi - log ref).
        mask: [B, T] bool.
        kl_coef: beta.

    With k1 the sum is log(pi(y) / ref(y)), so this is the reward of Ahmadian et al., "Back to
    Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs", 2024,
    section 2, where the whole answer is one action. So the penalties of all tokens, also of earlier
    ones, count in the advantage of each token; those of earlier tokens change no expectation.
    """
    return scores - kl_coef * divergences.per_answer(kl, mask)


def rloo(returns: Tensor, size: int) -> Tensor:
    """Return less the mean return of the other answers of its group, [B] (REINFORCE leave-one-out).

    Args:
        returns: [B] with B a multiple of `size`.
        size: K >= 2, answers per group.

    A_i = R_i - 1 / (K - 1) sum_{j != i} R_j
    (Kool et al., "Buy 4 REINFORCE Samples, Get a Baseline for Free!", 2019; Ahmadian et al. 2024).
    The baseline does not depend on answer i, so the policy gradient is unbiased.
    """
    return centred(returns, size) * (size / (size - 1))


def centred(returns: Tensor, size: int) -> Tensor:
    """Return less the mean return of its group, the answer itself included, [B].

    Arguments as for `rloo`.

    A_i = R_i - 1 / K sum_j R_j, which is (K - 1) / K of that of `rloo`: the expected gradient has
    the same direction (Liu et al., "Understanding R1-Zero-Like Training: A Critical Perspective",
    2025: Dr. GRPO). Equal returns give exactly 0.
    """
    groups = returns.view(-1, size)
    # Shifted by a value of the group first: the mean of equal numbers may round, that of zeros
    # does not.
    shifted = groups - groups[:, :1]
    return (shifted - shifted.mean(dim=1, keepdim=True)).view(-1)


def spread(returns: Tensor, size: int) -> Tensor:
    """Standard deviation of each answer's group plus `EPSILON`, [B]: what `grpo` divides by.

    Arguments as for `rloo`. The sample's, divided by K - 1, as in TRL and verl.
    """
    variances = centred(returns, size).view(-1, size).square().sum(dim=1) / (size - 1)
    return variances.sqrt().repeat_interleave(size) + EPSILON


def grpo(returns: Tensor, size: int) -> Tensor:
    """`centred` divided by the `spread` of the group, [B].

    Arguments as for `rloo`.

    A_i = (R_i - mean_j R_j) / (std_j R_j + epsilon)
    (Shao et al., "DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language
    Models", 2024, section 4.1.2: GRPO). The divisor depends on the answers: prompts on which they
    hardly differ weigh more, and the expected gradient is not that of the expected return (Liu et
    al. 2025, section 3.1).
    """
    return centred(returns, size) / spread(returns, size)


def unit(returns: Tensor, size: int, name: str) -> Tensor:
    """The advantage that 1 of return is worth to the answer that earns it, [B].

    Args:
        returns: [B] with B a multiple of `size`.
        size: K >= 2, answers per group.
        name: of the advantage: `rloo`, `group` or `grpo`.

    A divergence that is differentiated in the loss, not rewarded, is multiplied by it, so that the
    gradient of both parts has one scale.
    """
    ones = torch.ones_like(returns)
    if name == "rloo":
        return ones
    own = ones * ((size - 1) / size)
    return own / spread(returns, size) if name == "grpo" else own


def equal_groups(scores: Tensor, size: int) -> int:
    """Number of groups in which all rewards are equal: they say nothing about the reward.

    Args:
        scores: [B] rewards of the answers.
        size: K, answers per group.

    Equal up to rounding: a spread of 1e-6 of the largest reward or less. Scorers give equal answers
    in batches of different widths that much.
    """
    groups = scores.view(-1, size)
    ranges = groups.amax(dim=1) - groups.amin(dim=1)
    return int((ranges <= 1e-6 * groups.abs().amax(dim=1)).sum())
