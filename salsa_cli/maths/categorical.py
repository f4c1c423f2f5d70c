"""The categorical distribution softmax(logits / temperature) over a vocabulary of V tokens.

Rollout, reference and training must divide by the same temperature: the ratio and the KL compare
the distribution that was sampled. Half-precision logits are raised to float32 before anything is
computed; float64 stays float64. Some logits of a row may be -inf (probability 0), not all.
A temperature that is not positive and finite is a ValueError everywhere.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

_BLOCK = 256
"""Tokens whose probabilities are summed together; most vocabularies are a multiple of it."""

_BELOW_ONE = math.nextafter(1.0, 0.0)


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Log probabilities of every token, in the shape of the logits.

    Args:
        logits: [..., V].
        temperature: > 0.

    log p_v = z_v - log sum_w exp(z_w) with z = logits / temperature; -inf where the logit is -inf.
    """
    require_temperature(temperature)
    # Raise first: a quotient rounded to bfloat16 has three significant digits.
    raised = logits if logits.dtype == torch.float64 else logits.float()
    return torch.log_softmax(raised / temperature, dim=-1)


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """Log probability of each given token, [...] in float32 (float64 for float64 logits).

    Args:
        logits: [..., V]; those at a position predict the token there (the caller shifts).
        tokens: [...] long in [0, V), padding included.
        temperature: > 0.

    log softmax(logits / temperature) at the tokens; -inf at a token whose logit is -inf.
    """
    logprobs = log_softmax(logits, temperature)
    return logprobs.gather(dim=-1, index=tokens.unsqueeze(-1)).squeeze(-1)


def sample_by_inverse_cdf(logits: Tensor, uniforms: Tensor, temperature: float) -> Tensor:
    """One token per row by inverse-CDF sampling, [B] long.

    Args:
        logits: [B, V].
        uniforms: [B] float64 in [0, 1), independent and uniform.
        temperature: > 0; greedy decoding is an argmax, not a limit of this function.

    With c_v = p_0 + ... + p_v, the token is the first v for which c_v > u * total (Devroye,
    "Non-Uniform Random Variate Generation", 1986, section III.2). Sums are in float64, first those
    of whole blocks of tokens, then those within the block that the number falls into: one pass over
    the vocabulary where a cumulative sum would take several. A row depends on its own logits and
    uniform only, so an answer does not depend on the batch it is generated in. A token of
    probability 0 is never returned, for any u up to the largest double below 1.
    """
    require_temperature(temperature)
    raised = logits if logits.dtype == torch.float64 else logits.float()
    probabilities = _blocks(torch.softmax(raised / temperature, dim=-1))
    sums = probabilities.sum(dim=-1, dtype=torch.float64)
    upper = _rising(sums.cumsum(dim=-1), sums)
    # The largest uniform times the total rounds to less than the total: some block is found. Only
    # rows of NaN find none.
    bounds = uniforms.unsqueeze(-1) * upper[:, -1:]
    block = torch.searchsorted(upper, bounds, right=True).clamp(max=upper.shape[-1] - 1)
    before = functional.pad(upper, (1, 0)).gather(-1, block)
    rows = torch.arange(len(block), device=block.device)
    inside = probabilities[rows, block.squeeze(-1)].double()
    cumulative = _rising(inside.cumsum(dim=-1), inside)
    # The block's sum and its last cumulative sum may differ in their last bits.
    rest = torch.minimum(bounds - before, cumulative[:, -1:] * _BELOW_ONE)
    found = torch.searchsorted(cumulative, rest, right=True)
    return (block * probabilities.shape[-1] + found).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def _blocks(probabilities: Tensor) -> Tensor:
    """[B, V] as [B, V / n, n], with impossible tokens at the end where V is no multiple of n."""
    size = min(_BLOCK, probabilities.shape[-1])
    missing = -probabilities.shape[-1] % size
    padded = functional.pad(probabilities, (0, missing)) if missing else probabilities
    return padded.view(len(padded), -1, size)


def _rising(cumulative: Tensor, probabilities: Tensor) -> Tensor:
    """Cumulative sums that never fall, and rise on possible tokens only.

    A sum that is computed one by one is so by itself. A parallel one need not be, in its last bits:
    it may rise on a token of probability 0, or end below its maximum.
    """
    return cumulative.masked_fill(probabilities == 0, 0).cummax(dim=-1).values


def require_temperature(temperature: float) -> None:
    """Refuse, by a ValueError, what is not positive and finite."""
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature must be positive and finite, not {temperature}")
