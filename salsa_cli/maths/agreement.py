"""Inter-rater agreement: raw, Cohen's kappa, Krippendorff's alpha."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def raw_agreement(tables: ArrayLike) -> Array:
    """Share of items on which two judges agree, [...].

    Args:
        tables: [..., k, k]; tables[i, j] counts the items that one calls i and the other j.

    NaN for an empty table.
    """
    t = np.asarray(tables, np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.trace(t, axis1=-2, axis2=-1) / t.sum(axis=(-2, -1)))


def cohen_kappa(tables: ArrayLike) -> Array:
    """(agreement - chance) / (1 - chance) of two judges, [...].

    Args:
        tables: [..., k, k]; tables[i, j] counts the items that one calls i and the other j.

    Chance is sum_i p_i q_i, with p and q the label frequencies of each judge (Cohen, "A Coefficient
    of Agreement for Nominal Scales", 1960). NaN where chance is 1: both judges use a single label.
    """
    t = np.asarray(tables, np.float64)
    n = t.sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = (t.sum(axis=-1) * t.sum(axis=-2)).sum(axis=-1) / n**2
        kappa = (raw_agreement(t) - chance) / (1 - chance)
    return np.asarray(np.where(chance < 1, kappa, np.nan))


def coincidences(codes: ArrayLike, values: int) -> Array:
    """Coincidence matrices of items, [n, values, values].

    Args:
        codes: [n, judges], integers below `values`; negative where a rating is missing.
        values: number of distinct labels.

    Each ordered pair of ratings of an item counts 1 / (ratings of the item - 1); an item with
    fewer than two ratings counts nothing. Matrices of several items can be summed.
    """
    given = np.asarray(codes, np.int64)
    seen = (given[:, :, None] == np.arange(values)).astype(np.float64)
    per_value = seen.sum(axis=1)
    answers = per_value.sum(axis=1)
    pairs = per_value[:, :, None] * per_value[:, None, :]
    diagonal = np.arange(values)
    pairs[:, diagonal, diagonal] -= per_value
    return np.asarray(
        pairs / np.maximum(answers - 1, 1)[:, None, None] * (answers > 1)[:, None, None]
    )


def krippendorff_alpha(matrices: ArrayLike, distances: ArrayLike) -> Array:
    """1 - observed / expected disagreement of any number of judges, [...].

    Args:
        matrices: [..., k, k], sums of `coincidences`.
        distances: [k, k], squared distance between answers: 1 off the diagonal for names,
            (x - y)^2 for numbers.

    Krippendorff, "Content Analysis", chapter 12; ratings may be missing.
    NaN where all answers are the same, or where no item has two.
    """
    o, delta = np.asarray(matrices, np.float64), np.asarray(distances, np.float64)
    per_value = o.sum(axis=-1)
    n = per_value.sum(axis=-1)
    observed = (o * delta).sum(axis=(-2, -1))
    expected = (per_value[..., :, None] * per_value[..., None, :] * delta).sum(axis=(-2, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        alpha = 1 - (n - 1) * observed / expected
    return np.asarray(np.where(expected > 0, alpha, np.nan))
