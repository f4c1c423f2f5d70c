"""maths/masked: statistics over real tokens."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from salsa_cli.maths import masked

PROPERTY = settings(deadline=None, max_examples=40)
NAN, INF = float("nan"), float("inf")

values = hnp.arrays(np.float64, (3, 4), elements=st.floats(-100, 100, width=32))
masks = hnp.arrays(np.bool_, (3, 4))

# Real tokens 1, 2, 6: sum 9, mean 3, squared distances 4, 1, 9, variance 14 / 3.
HAND = torch.tensor([[1.0, 2.0, NAN], [6.0, INF, -INF]], dtype=torch.float64)
HAND_MASK = torch.tensor([[True, True, False], [True, False, False]])
EMPTY = torch.zeros(2, 3, dtype=torch.bool)


def real(x: Tensor, mask: Tensor) -> list[float]:
    """The real values, by loops."""
    return [
        float(x[b, t]) for b in range(x.shape[0]) for t in range(x.shape[1]) if bool(mask[b, t])
    ]


def test_zero_padding_by_hand() -> None:
    expected = torch.tensor([[1.0, 2.0, 0.0], [6.0, 0.0, 0.0]], dtype=torch.float64)
    assert torch.equal(masked.zero_padding(HAND, HAND_MASK), expected)


def test_zero_padding_stops_gradients() -> None:
    x = HAND.clone().requires_grad_()
    masked.zero_padding(x * x, HAND_MASK).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    expected = torch.tensor([[2.0, 4.0], [12.0, 0.0]], dtype=torch.float64)
    assert torch.equal(x.grad[:, :2].nan_to_num(0.0), expected)
    y = HAND.clone().requires_grad_()
    masked.zero_padding(y, HAND_MASK).sum().backward()  # type: ignore[no-untyped-call]
    assert y.grad is not None
    assert torch.equal(y.grad, HAND_MASK.double())


def test_sum_mean_variance_by_hand() -> None:
    assert masked.masked_sum(HAND, HAND_MASK) == 9.0
    assert masked.masked_mean(HAND, HAND_MASK) == 3.0
    assert float(masked.masked_variance(HAND, HAND_MASK)) == pytest.approx(14 / 3, rel=1e-15)


def test_whiten_by_hand() -> None:
    # epsilon = 4/3 makes variance + epsilon = 14/3 + 4/3 = 6; values - mean = -2, -1, 3.
    whitened = masked.whiten(HAND, HAND_MASK, epsilon=4 / 3)
    root = 6**0.5
    expected = torch.tensor([[-2 / root, -1 / root, 0], [3 / root, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(whitened, expected, rtol=1e-14, atol=0)


def test_the_default_epsilon_is_1e_8() -> None:
    # Values +-1e-4: mean 0, variance 1e-8, so 1e-4 / sqrt(2e-8) = 1 / sqrt(2).
    x = torch.tensor([[1e-4, -1e-4]], dtype=torch.float64)
    whitened = masked.whiten(x, torch.ones(1, 2, dtype=torch.bool))
    assert whitened.tolist()[0] == pytest.approx([0.5**0.5, -(0.5**0.5)], rel=1e-12)


def test_last_index_by_hand() -> None:
    rows = ["1100", "1111", "0000", "0110", "1001", "1000"]
    mask = torch.tensor([[c == "1" for c in row] for row in rows])
    last = masked.last_index(mask)
    assert last.tolist() == [1, 3, -1, 2, 3, 0]
    assert last.dtype == torch.long


def test_an_empty_mask_gives_zeros() -> None:
    assert masked.masked_sum(HAND, EMPTY) == 0
    assert masked.masked_mean(HAND, EMPTY) == 0
    assert masked.masked_variance(HAND, EMPTY) == 0
    assert torch.equal(masked.whiten(HAND, EMPTY), torch.zeros_like(HAND))


def test_one_real_token_whitens_to_zero() -> None:
    mask = torch.tensor([[False, False, False], [True, False, False]])
    assert torch.equal(masked.whiten(HAND, mask), torch.zeros_like(HAND))


@pytest.mark.parametrize("value", [0.1, -12345.678, 1e-20, 3e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_values_have_no_variance_at_all(value: float, dtype: torch.dtype) -> None:
    # Not nearly none: a mean that is off by rounding would be whitened up to order 1.
    x = torch.full((37, 41), value, dtype=dtype)
    mask = torch.rand(37, 41, generator=torch.Generator().manual_seed(0)) < 0.7
    assert masked.masked_variance(x, mask) == 0
    assert torch.equal(masked.whiten(x, mask), torch.zeros_like(x))


def test_a_real_nan_is_not_hidden() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert masked.masked_mean(HAND, mask).isnan()
    assert masked.whiten(HAND, mask)[mask].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    x = HAND.to(dtype)
    for result in (
        masked.zero_padding(x, HAND_MASK),
        masked.masked_sum(x, HAND_MASK),
        masked.masked_mean(x, HAND_MASK),
        masked.masked_variance(x, HAND_MASK),
        masked.whiten(x, HAND_MASK),
    ):
        assert result.dtype == dtype


def test_agrees_with_loops(ragged_mask: Tensor, draw: Callable[[], Tensor]) -> None:
    x = 3 * draw() + 5
    tokens = real(x, ragged_mask)
    total = 0.0
    for value in tokens:
        total += value
    mean = total / len(tokens)
    squares = 0.0
    for value in tokens:
        squares += (value - mean) ** 2
    variance = squares / len(tokens)
    assert float(masked.masked_sum(x, ragged_mask)) == pytest.approx(total, abs=1e-10)
    assert float(masked.masked_mean(x, ragged_mask)) == pytest.approx(mean, abs=1e-10)
    assert float(masked.masked_variance(x, ragged_mask)) == pytest.approx(variance, abs=1e-10)

    padded, whitened = np.zeros(x.shape), np.zeros(x.shape)
    last = np.full(x.shape[0], -1)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            if bool(ragged_mask[b, t]):
                padded[b, t] = float(x[b, t])
                whitened[b, t] = (float(x[b, t]) - mean) / (variance + 1e-8) ** 0.5
                last[b] = t
    assert np.array_equal(masked.zero_padding(x, ragged_mask).numpy(), padded)
    np.testing.assert_allclose(masked.whiten(x, ragged_mask).numpy(), whitened, rtol=0, atol=1e-10)
    assert masked.last_index(ragged_mask).tolist() == last.tolist()


def test_whiten_differentiates_through_mean_and_variance(
    ragged_mask: Tensor, draw: Callable[[], Tensor]
) -> None:
    x = draw().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda real: masked.whiten(
            torch.zeros_like(x).detach().masked_scatter(ragged_mask, real), ragged_mask
        ),
        x.detach()[ragged_mask].requires_grad_(),
    )


@PROPERTY
@given(x=values, mask=masks, poison=st.sampled_from([NAN, INF, -INF, 1e300]))
def test_padding_cannot_poison(x: np.ndarray, mask: np.ndarray, poison: float) -> None:
    clean, where = torch.from_numpy(x), torch.from_numpy(mask)
    dirty = clean.masked_fill(~where, poison)
    for function in (
        masked.zero_padding,
        masked.masked_sum,
        masked.masked_mean,
        masked.masked_variance,
        masked.whiten,
    ):
        assert torch.equal(function(clean, where), function(dirty, where))


@PROPERTY
@given(x=values, mask=masks)
def test_whitened_values_have_mean_0_and_variance_below_1(x: np.ndarray, mask: np.ndarray) -> None:
    where = torch.from_numpy(mask)
    whitened = masked.whiten(torch.from_numpy(x), where)
    variance = float(masked.masked_variance(torch.from_numpy(x), where))
    assert float(masked.masked_mean(whitened, where)) == pytest.approx(0, abs=1e-9)
    assert float(masked.masked_variance(whitened, where)) == pytest.approx(
        variance / (variance + 1e-8), abs=1e-9
    )


@PROPERTY
@given(x=values, mask=masks, shift=st.floats(-50, 50), scale=st.floats(0.1, 10))
def test_mean_and_variance_under_an_affine_map(
    x: np.ndarray, mask: np.ndarray, shift: float, scale: float
) -> None:
    before, where = torch.from_numpy(x), torch.from_numpy(mask)
    after = scale * before + shift
    count = int(mask.sum())
    mean, variance = masked.masked_mean(before, where), masked.masked_variance(before, where)
    expected = scale * float(mean) + (shift if count else 0)
    assert float(masked.masked_mean(after, where)) == pytest.approx(expected, abs=1e-9)
    assert float(masked.masked_sum(after, where)) == pytest.approx(count * expected, abs=1e-8)
    assert float(masked.masked_variance(after, where)) == pytest.approx(
        scale**2 * float(variance), rel=1e-9, abs=1e-9
    )


@PROPERTY
@given(mask=masks)
def test_last_index_is_real_and_none_follows(mask: np.ndarray) -> None:
    for row, last in zip(mask, masked.last_index(torch.from_numpy(mask)).tolist(), strict=True):
        assert not row[last + 1 :].any()
        assert row[last] if last >= 0 else not row.any()
