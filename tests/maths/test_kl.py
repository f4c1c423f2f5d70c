"""maths/kl: the estimators and the exact divergence."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from salsa_cli.maths import categorical, kl

PROPERTY = settings(deadline=None, max_examples=40)
NAN, INF = float("nan"), float("inf")

logprobs_arrays = hnp.arrays(np.float64, (2, 3), elements=st.floats(-20, 0))
logits_arrays = hnp.arrays(np.float64, (2, 3, 4), elements=st.floats(-20, 20))

# pi = 1/2, 1/8 and ref = 1/4, 1/2 at the sampled tokens: pi / ref = 2, 1/4.
LOGPROBS = torch.tensor([[0.5, 0.125]], dtype=torch.float64).log()
REF_LOGPROBS = torch.tensor([[0.25, 0.5]], dtype=torch.float64).log()
LOG2 = math.log(2)


def test_k1_by_hand() -> None:
    # log 2 and log 1/4 = -2 log 2.
    expected = [LOG2, -2 * LOG2]
    assert kl.k1(LOGPROBS, REF_LOGPROBS).tolist()[0] == pytest.approx(expected, rel=1e-14)


def test_k2_by_hand() -> None:
    # (log 2)^2 / 2 and (2 log 2)^2 / 2.
    expected = [LOG2**2 / 2, 2 * LOG2**2]
    assert kl.k2(LOGPROBS, REF_LOGPROBS).tolist()[0] == pytest.approx(expected, rel=1e-14)


def test_k3_by_hand() -> None:
    # ref / pi - 1 + log(pi / ref): 1/2 - 1 + log 2 and 4 - 1 - 2 log 2.
    expected = [LOG2 - 0.5, 3 - 2 * LOG2]
    assert kl.k3(LOGPROBS, REF_LOGPROBS).tolist()[0] == pytest.approx(expected, rel=1e-14)


def test_k3_keeps_its_digits_near_zero() -> None:
    # k1 = 1e-4: k3 = 5e-9 - 1.7e-13, which float32 loses in exp(-k1) - 1.
    k3 = kl.k3(torch.tensor([1e-4]), torch.tensor([0.0]))
    assert k3.item() == pytest.approx(5e-9, rel=1e-2)


def test_per_answer_by_hand() -> None:
    values = torch.tensor([[1.0, -3.0, NAN], [4.0, INF, NAN], [NAN, NAN, NAN]])
    mask = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])
    assert kl.per_answer(values, mask).tolist() == [-2.0, 4.0, 0.0]


def test_chi2_and_its_slope_by_hand() -> None:
    ratios = torch.tensor([[3.0, 0.5, math.exp(6.0)]], dtype=torch.float64)
    zeros = torch.zeros(1, 3, dtype=torch.float64)
    limit = math.exp(3.0)
    assert kl.chi2(ratios.log(), zeros).tolist()[0] == pytest.approx([2.0, -0.5, limit - 1])
    assert kl.chi2_slope(ratios.log(), zeros).tolist()[0] == pytest.approx([3.0, 0.5, 0.0])


def test_weighted_estimators_by_hand() -> None:
    # pi = 0.4, pi_old = 0.2, ref = 0.1: ratio 2, k1 = log 4.
    logprob = torch.tensor([[0.4]], dtype=torch.float64).log().requires_grad_()
    old, ref = (torch.tensor([[p]], dtype=torch.float64).log() for p in (0.2, 0.1))
    k1 = math.log(4)
    for estimate, value, slope in (
        (kl.weighted_k2, k1**2, 2 * k1),
        (kl.weighted_k3, 2 * (0.25 - 1 + k1), 2 * (0.25 - 1 + k1) + 2 * (1 - 0.25)),
    ):
        found = estimate(logprob, old, ref)
        assert found.item() == pytest.approx(value, rel=1e-14)
        (gradient,) = torch.autograd.grad(found.sum(), logprob)
        assert gradient.item() == pytest.approx(slope, rel=1e-14)


def test_exact_by_hand() -> None:
    # Temperature 2 makes pi = 3/4, 1/4 of exp(logit / 2) = 3, 1, and ref = 1/2, 1/2:
    # 3/4 log(3/2) + 1/4 log(1/2). The other direction would be 1/2 log(2/3) + 1/2 log 2.
    logits = torch.tensor([[[2 * math.log(3), 0.0]]], dtype=torch.float64)
    exact = kl.exact(logits, torch.zeros(1, 1, 2, dtype=torch.float64), 2.0)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert exact.tolist() == [[pytest.approx(expected, rel=1e-14)]]


def test_exact_where_a_token_is_impossible() -> None:
    everything, first_only = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.0, -INF]]])
    assert kl.exact(first_only, everything, 1.0).item() == pytest.approx(LOG2)
    assert kl.exact(first_only, first_only, 1.0).item() == 0
    assert kl.exact(everything, first_only, 1.0).item() == INF
    underflowing = torch.tensor([[[0.0, -200.0]]])
    assert kl.exact(underflowing, first_only, 1.0).item() == 0

    logits = first_only.clone().requires_grad_()
    kl.exact(logits, first_only, 1.0).sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_exact_refuses_temperature_zero() -> None:
    with pytest.raises(ValueError, match="temperature"):
        kl.exact(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    a, b = LOGPROBS.to(dtype), REF_LOGPROBS.to(dtype)
    for estimator in (kl.k1, kl.k2, kl.k3):
        assert estimator(a, b).dtype == dtype
    assert kl.per_answer(a, torch.ones(1, 2, dtype=torch.bool)).dtype == dtype
    assert kl.exact(a.unsqueeze(1), b.unsqueeze(1), 1.0).dtype == dtype


def test_agrees_with_loops(
    generator: torch.Generator, ragged_mask: Tensor, draw: Callable[[], Tensor]
) -> None:
    logprobs, ref_logprobs = draw(), draw()
    batch, width = ragged_mask.shape
    k1, k2, k3 = (f(logprobs, ref_logprobs) for f in (kl.k1, kl.k2, kl.k3))
    sums = kl.per_answer(k3, ragged_mask)
    logits = torch.randn(batch, width, 5, generator=generator, dtype=torch.float64)
    ref_logits = torch.randn(batch, width, 5, generator=generator, dtype=torch.float64)
    exact = kl.exact(logits, ref_logits, 0.7)
    for b in range(batch):
        total = 0.0
        for t in range(width):
            if bool(ragged_mask[b, t]):
                difference = float(logprobs[b, t]) - float(ref_logprobs[b, t])
                assert float(k1[b, t]) == pytest.approx(difference, abs=1e-10)
                assert float(k2[b, t]) == pytest.approx(difference**2 / 2, abs=1e-10)
                naive = math.exp(-difference) - 1 + difference
                assert float(k3[b, t]) == pytest.approx(naive, abs=1e-10)
                total += naive
            p = [math.exp(z / 0.7) for z in logits[b, t].tolist()]
            q = [math.exp(z / 0.7) for z in ref_logits[b, t].tolist()]
            divergence = 0.0
            for v in range(5):
                divergence += p[v] / sum(p) * math.log(p[v] / sum(p) * sum(q) / q[v])
            assert float(exact[b, t]) == pytest.approx(divergence, abs=1e-10)
        assert float(sums[b]) == pytest.approx(total, abs=1e-10)


def test_k1_and_k3_are_unbiased(generator: torch.Generator) -> None:
    # The expectation over pi is a sum over the vocabulary: no sampling error.
    logits = torch.randn(1, 1, 6, generator=generator, dtype=torch.float64)
    ref_logits = torch.randn(1, 1, 6, generator=generator, dtype=torch.float64)
    logprobs = categorical.log_softmax(logits, 1.3)
    ref_logprobs = categorical.log_softmax(ref_logits, 1.3)
    exact = kl.exact(logits, ref_logits, 1.3)
    for estimator in (kl.k1, kl.k3):
        mean = (logprobs.exp() * estimator(logprobs, ref_logprobs)).sum(dim=-1)
        torch.testing.assert_close(mean, exact, rtol=0, atol=1e-12)


def test_exact_gradient(generator: torch.Generator) -> None:
    logits = torch.randn(2, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    ref_logits = torch.randn(2, 2, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: kl.exact(a, b, 0.7), (logits, ref_logits))


@PROPERTY
@given(a=logprobs_arrays, b=logprobs_arrays)
def test_signs_and_symmetries(a: np.ndarray, b: np.ndarray) -> None:
    pi, ref = torch.from_numpy(a), torch.from_numpy(b)
    assert torch.equal(kl.k1(pi, ref), -kl.k1(ref, pi))
    assert torch.equal(kl.k2(pi, ref), kl.k2(ref, pi))
    assert (kl.k2(pi, ref) >= 0).all()
    assert (kl.k3(pi, ref) >= -1e-12).all()
    assert not kl.k3(pi, pi).any()


@PROPERTY
@given(a=logits_arrays, b=logits_arrays, temperature=st.floats(0.2, 5))
def test_exact_is_nonnegative_and_zero_at_itself(
    a: np.ndarray, b: np.ndarray, temperature: float
) -> None:
    logits, ref_logits = torch.from_numpy(a), torch.from_numpy(b)
    assert (kl.exact(logits, ref_logits, temperature) >= -1e-12).all()
    assert not kl.exact(logits, logits, temperature).any()


@PROPERTY
@given(a=logprobs_arrays, mask=hnp.arrays(np.bool_, (2, 3)))
def test_sums_ignore_padding(a: np.ndarray, mask: np.ndarray) -> None:
    values, where = torch.from_numpy(a), torch.from_numpy(mask)
    dirty = values.masked_fill(~where, NAN)
    assert torch.equal(kl.per_answer(values, where), kl.per_answer(dirty, where))
