"""maths/importance: weights of answers that another program sampled."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from salsa_cli.maths import importance

NAN, INF = float("nan"), float("inf")


def logs(*ratios: float) -> Tensor:
    return torch.tensor([ratios], dtype=torch.float64).log()


def test_weights_by_hand() -> None:
    # pi_old / mu: 0.3 / 0.2 = 1.5;  0.1 / 0.4 = 0.25;  0.9 / 0.3 = 3, cut to 2;  0.5 / 0.5 = 1.
    ours, theirs = logs(0.3, 0.1, 0.9, 0.5, 1.0), logs(0.2, 0.4, 0.3, 0.5, 1.0)
    mask = torch.tensor([[True, True, True, True, False]])
    found = importance.truncated_weights(ours, theirs, mask)
    assert found.tolist()[0] == pytest.approx([1.5, 0.25, 2.0, 1.0, 0.0], rel=1e-14)
    assert float(found[0, 3]) == 1.0
    wide = importance.truncated_weights(ours, theirs, mask, cap=4.0)
    assert wide.tolist()[0] == pytest.approx([1.5, 0.25, 3.0, 1.0, 0.0], rel=1e-14)


def test_mismatch_by_hand() -> None:
    # |log| of those ratios: log 1.5, log 4, log 3, 0; one of the four is above 2.
    ours, theirs = logs(0.3, 0.1, 0.9, 0.5, 1.0), logs(0.2, 0.4, 0.3, 0.5, 0.1)
    mask = torch.tensor([[True, True, True, True, False]])
    found = importance.mismatch(ours, theirs, mask)
    assert found.nats == pytest.approx((math.log(1.5) + math.log(4) + math.log(3)) / 4, rel=1e-14)
    assert found.truncated == 0.25


def test_weights_agree_with_loops(ragged_mask: Tensor, draw: Callable[[], Tensor]) -> None:
    ours, theirs = draw(), draw()
    found = importance.truncated_weights(ours, theirs, ragged_mask).numpy()
    expected, total, cut = np.zeros(found.shape), 0.0, 0
    for b, t in ragged_mask.nonzero().tolist():
        pi, mu = np.exp(float(ours[b, t])), np.exp(float(theirs[b, t]))
        expected[b, t] = pi / mu if pi / mu < 2 else 2.0
        total += abs(np.log(pi) - np.log(mu))
        cut += pi / mu > 2
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    measured = importance.mismatch(ours, theirs, ragged_mask)
    count = int(ragged_mask.sum())
    assert measured.nats == pytest.approx(total / count, rel=1e-12)
    assert measured.truncated == pytest.approx(cut / count, rel=1e-6)  # a share in float32


def test_weights_make_a_mean_over_the_sampler_one_over_the_policy() -> None:
    """Exactly, over all tokens of a vocabulary, where nothing is cut."""
    pi, mu = torch.tensor([[0.5, 0.3, 0.2]]).double(), torch.tensor([[0.4, 0.4, 0.2]]).double()
    f = torch.tensor([[1.0, -2.0, 7.0]]).double()
    mask = torch.ones(1, 3, dtype=torch.bool)
    weights = importance.truncated_weights(pi.log(), mu.log(), mask)
    assert float((mu * weights * f).sum()) == pytest.approx(float((pi * f).sum()), rel=1e-14)


@pytest.mark.parametrize("poison", [NAN, INF, -INF, 1e300])
def test_padding_reaches_nothing(poison: float) -> None:
    mask = torch.tensor([[True, False], [False, False]])
    ours = torch.full((2, 2), poison, dtype=torch.float64)
    ours[0, 0] = 0.25
    theirs = torch.where(mask, ours, -ours)
    assert importance.truncated_weights(ours, theirs, mask).tolist() == [[1, 0], [0, 0]]
    assert importance.mismatch(ours, theirs, mask) == importance.Mismatch(0.0, 0.0)


def test_no_gradient_and_no_overflow() -> None:
    ours = torch.zeros(1, 2, requires_grad=True)
    theirs = torch.tensor([[-9999.0, 9999.0]])
    found = importance.truncated_weights(ours, theirs, torch.ones(1, 2, dtype=torch.bool))
    assert found.tolist() == [[2.0, 0.0]]
    assert not found.requires_grad
