"""Statistics over the real tokens of a padded batch.

A mask is a bool tensor [B, T] with B, T >= 1, True on real tokens. Whatever stands on the other
positions, NaN and infinity included, reaches neither the result nor its gradient: positions are
selected, never multiplied by zero (0 * NaN is NaN). NaN on a *real* token does reach the result.
"""

import torch
from torch import Tensor


def zero_padding(x: Tensor, mask: Tensor) -> Tensor:
    """Return x [B, T] with 0 on masked positions; the gradient there is 0 as well."""
    return x.masked_fill(~mask, 0)


def masked_sum(x: Tensor, mask: Tensor) -> Tensor:
    """Sum of x over real tokens, a scalar.

    Args:
        x: [B, T].
        mask: [B, T] bool.

    An empty mask gives 0.
    """
    return zero_padding(x, mask).sum()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x over real tokens, a scalar: every token weighs the same, whatever its row.

    Args:
        x: [B, T].
        mask: [B, T] bool.

    An empty mask gives 0, never NaN.
    """
    return masked_sum(x, mask) / mask.sum().clamp(min=1)


def masked_variance(x: Tensor, mask: Tensor) -> Tensor:
    """Variance of x over the n real tokens, a scalar: sum (x - mean)^2 / n.

    Args:
        x: [B, T].
        mask: [B, T] bool.

    The population variance (division by n, not n - 1). Exactly 0 where all real values are equal;
    an empty mask gives 0.
    """
    return masked_mean(_centred(x, mask).square(), mask)


def whiten(x: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Whitened x, [B, T]: (x - mean) / sqrt(variance + epsilon) over real tokens, 0 elsewhere.

    Args:
        x: [B, T].
        mask: [B, T] bool.
        epsilon: added to the variance.

    The mean is removed, not added back. One real token, or equal values, give exactly 0 everywhere.
    """
    return _centred(x, mask) / deviation(x, mask, epsilon)


def deviation(x: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """sqrt(variance + epsilon) over real tokens, a scalar: what `whiten` divides by.

    Args:
        x: [B, T].
        mask: [B, T] bool.
        epsilon: added to the variance.
    """
    return torch.sqrt(masked_variance(x, mask) + epsilon)


def scale(x: Tensor, mask: Tensor, epsilon: float = 1e-8) -> Tensor:
    """x at a standard deviation of 1 around its own mean, [B, T]; 0 on masked positions.

    Args:
        x: [B, T].
        mask: [B, T] bool.
        epsilon: added to the variance.

    (x - mean) / sqrt(variance + epsilon) + mean over real tokens: the whitening of rewards, which
    keeps their mean (Ziegler et al. 2019, lm-human-preferences, `whiten(shift_mean=False)`).
    """
    return whiten(x, mask, epsilon) + zero_padding(masked_mean(x, mask).expand_as(x), mask)


def last_index(mask: Tensor) -> Tensor:
    """Index of the last real token of each row, [B] long.

    Args:
        mask: [B, T] bool; the real tokens need not be contiguous.

    A row without a real token gives -1: compare with positions, do not index with it.
    """
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, -1).amax(dim=1)


def _centred(x: Tensor, mask: Tensor) -> Tensor:
    """x - mean on real tokens, 0 elsewhere, [B, T]."""
    # Shift by a value of the data first. The rounding of a mean is relative to its size: without
    # the shift, equal values of 1e4 in float32 differ from their "mean" by 1e-3, which whitening
    # would blow up to order 1. The shift cancels in x - mean, so it needs no gradient.
    shift = x.detach().masked_fill(~mask, -torch.inf).amax()
    shifted = zero_padding(x - shift, mask)
    return zero_padding(shifted - masked_mean(shifted, mask), mask)
