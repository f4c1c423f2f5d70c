"""KL(pi || ref), exactly and by three estimators on tokens sampled from the policy pi.

Source: J. Schulman, "Approximating KL divergence", 2020 (http://joschu.net/blog/kl-approx.html).
There the samples come from q and the ratio is r = p / q; here q = pi, p = ref, so log r = -k1.
log pi and log ref are taken at the same tokens and the same temperature.
"""

import torch
from torch import Tensor

from salsa_cli.maths import categorical, masked


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k1 = log pi - log ref, elementwise [B, T]: unbiased, of either sign, the one in the reward.

    Args:
        logprobs: [B, T] log pi at the sampled tokens.
        ref_logprobs: [B, T] log ref at the same tokens.
    """
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k2 = k1^2 / 2, elementwise [B, T]: never negative, a biased estimate of low variance.

    Args:
        logprobs: [B, T] log pi at the sampled tokens.
        ref_logprobs: [B, T] log ref at the same tokens.
    """
    return 0.5 * k1(logprobs, ref_logprobs).square()


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k3 = exp(-k1) - 1 + k1, elementwise [B, T]: unbiased and not negative (up to rounding).

    Args:
        logprobs: [B, T] log pi at the sampled tokens.
        ref_logprobs: [B, T] log ref at the same tokens.

    Infinite where exp(-k1) overflows (k1 < -88 in float32).
    """
    difference = k1(logprobs, ref_logprobs)
    # expm1, because near 0 exp(-k1) - 1 keeps none of the digits that k1 does not cancel.
    return torch.expm1(-difference) + difference


LOG_RATIO_LIMIT = 3.0
"""Largest log(pi / ref) of a token that `chi2` distinguishes: larger ones count as this.

Without a limit a single token decides an update: at a log-ratio of 6 and a coefficient of 0.05 it
cut the spread of all other whitened advantages to 0.385. (Laidlaw et al. clip the log-ratio at 10.)
"""


def chi2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """min(pi / ref, C) - 1, elementwise [B, T], with C = exp(LOG_RATIO_LIMIT): of either sign.

    Args:
        logprobs: [B, T] log pi at the sampled tokens.
        ref_logprobs: [B, T] log ref at the same tokens.

    Unbiased for the clipped chi-squared divergence of each next token,
    chi2(pi || ref) = sum_v pi_v min(pi_v / ref_v, C) - 1
    (Laidlaw et al., "Correlated Proxies: A New Definition and Improved Mitigation for Reward
    Hacking", 2024, regularise by the chi-squared divergence of whole answers, whose ratios overflow
    for long ones; the sum over tokens and the limit are our choice).
    """
    return torch.expm1(k1(logprobs, ref_logprobs).clamp(max=LOG_RATIO_LIMIT))


def chi2_slope(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Derivative of `chi2` by log pi, elementwise [B, T]: pi / ref below the limit, else 0.

    The divergence depends on the policy twice: by the tokens that it samples and by the ratio. A
    reward accounts for the first alone; added to the penalty of the token itself, this accounts for
    the second: of sum_v pi_v^2 / ref_v the gradient is 2 E[(pi / ref) grad log pi].
    """
    difference = k1(logprobs, ref_logprobs)
    inside = difference < LOG_RATIO_LIMIT
    return torch.where(inside, difference.clamp(max=LOG_RATIO_LIMIT).exp(), 0)


def weighted_k2(logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k2 for the loss, [B, T], with the gradient of KL(pi || ref) over each next token.

    Args:
        logprobs: [B, T] log pi, with gradient.
        old_logprobs: [B, T] those of the policy that sampled, without.
        ref_logprobs: [B, T] log ref.

    The gradient (pi / pi_old) k1 grad log pi has the expectation sum_v grad pi_v k1_v, which is the
    KL's, at every optimiser step: the ratio, itself without gradient, corrects for the
    tokens being those of the old policy.
    """
    ratio = torch.exp(logprobs - old_logprobs).detach()
    return ratio * k2(logprobs, ref_logprobs)


def weighted_k3(logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """k3 for the loss, [B, T], with value and gradient of KL(pi || ref) over each next token.

    Arguments as for `weighted_k2`.

    (pi / pi_old) k3, with the gradient of both factors: its expectation over pi_old is that of k3
    over pi, so both are the KL's (DeepSeek-AI, "DeepSeek-V3.2", 2025, section 3.1). Without the
    ratio the gradient is that of the forward KL(ref || pi).
    """
    return torch.exp(logprobs - old_logprobs) * k3(logprobs, ref_logprobs)


def adaptive_coefficient(
    coef: float, observed: float, target: float, answers: int, horizon: int
) -> float:
    """The KL coefficient after a batch: larger where the KL exceeded its target.

    Args:
        coef: beta so far, > 0.
        observed: mean KL of the batch's answers.
        target: what it should be, > 0.
        answers: number of answers in the batch.
        horizon: number of answers over which the correction acts; several times `answers`.

    beta * (1 + clip(observed / target - 1, -0.2, 0.2) * answers / horizon)
    (Ziegler et al. 2019, section 2.2). Positive for answers < 5 * horizon.
    """
    error = min(max(observed / target - 1, -0.2), 0.2)
    return coef * (1 + error * answers / horizon)


def per_answer(kl: Tensor, mask: Tensor) -> Tensor:
    """Sum of a per-token KL over the real tokens of each answer, [B].

    Args:
        kl: [B, T], of any estimator.
        mask: [B, T] bool.

    By the chain rule the sum of k1 estimates the KL of whole answers. A row without a real token
    gives 0.
    """
    return masked.zero_padding(kl, mask).sum(dim=1)


def exact(logits: Tensor, ref_logits: Tensor, temperature: float) -> Tensor:
    """KL over the whole vocabulary at each position, [B, T]: sum_v pi_v (log pi_v - log ref_v).

    Args:
        logits: [B, T, V] of the policy.
        ref_logits: [B, T, V] of the reference.
        temperature: > 0, divides both; ValueError otherwise.

    A token with pi_v = 0 adds nothing, in value and gradient; one with ref_v = 0 < pi_v makes the
    KL infinite.
    """
    logprobs = categorical.log_softmax(logits, temperature)
    ref_logprobs = categorical.log_softmax(ref_logits, temperature)
    probabilities = logprobs.exp()
    difference = k1(logprobs, ref_logprobs).masked_fill(probabilities == 0, 0)
    return (probabilities * difference).sum(dim=-1)
