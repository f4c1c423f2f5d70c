"""maths/ppo_loss: the clipped losses."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from salsa_cli.maths import ppo_loss

PROPERTY = settings(deadline=None, max_examples=40)
NAN, INF = float("nan"), float("inf")
WIDTH = 4

matrices = hnp.arrays(np.float64, (3, WIDTH), elements=st.floats(-3, 3))
lengths = st.tuples(*[st.integers(0, WIDTH)] * 3)


def mask_of(*row_lengths: int, width: int = WIDTH) -> Tensor:
    return torch.arange(width) < torch.tensor(row_lengths).unsqueeze(1)


def logs(*ratios: float) -> Tensor:
    return torch.tensor([ratios], dtype=torch.float64).log()


def float64(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


# --- policy ---


def test_the_upper_clip_range_is_its_own() -> None:
    # clip 0.25 below and 0.5 above; A = 2 at ratios 1.4, 1.6, 0.5 and A = -4 at 1.6, 0.5:
    #   -2.8, -2 * 1.5, -1; 6.4, 4 * 0.75
    ratios, gains = logs(1.4, 1.6, 0.5, 1.6, 0.5), float64(2, 2, 2, -4, -4)
    mask = torch.ones(1, 5, dtype=torch.bool)
    old = torch.zeros_like(ratios)
    found = ppo_loss.policy_loss(ratios, old, gains, mask, 0.25, 5, clip_high=0.5)
    assert float(found.loss) == pytest.approx((-2.8 - 3 - 1 + 6.4 + 3) / 5)
    assert float(found.clipped_share) == pytest.approx(2 / 5)


def test_answers_weigh_the_same_by_their_weights() -> None:
    """Answers of 1 and 4 tokens in this part of a minibatch of 3 answers and 12 tokens."""
    lengths = torch.tensor([1.0, 4.0], dtype=torch.float64)
    weights = ppo_loss.answer_weights(lengths, 3, 12)
    assert weights.tolist() == [4.0, 1.0]
    losses = [[3.0], [1.0, 2.0, 3.0, 6.0]]
    total = sum(w * sum(row) for w, row in zip(weights.tolist(), losses, strict=True)) / 12
    assert total == pytest.approx((3.0 + 3.0) / 3)


def test_policy_loss_by_hand() -> None:
    # clip 0.25, so ratios are clamped to [0.75, 1.25]; the old probabilities are all 1/2.
    #   A =  2, ratio 1.5 : max(-3,    -2 * 1.25 = -2.5) = -2.5   clipped: no gain beyond 1.25
    #   A =  2, ratio 0.5 : max(-1,    -2 * 0.75 = -1.5) = -1     not clipped: may come back
    #   A = -4, ratio 1.5 : max( 6,     4 * 1.25 =  5  ) =  6     not clipped
    #   A = -4, ratio 0.5 : max( 2,     4 * 0.75 =  3  ) =  3     clipped
    #   A =  8, ratio 1   : max(-8,    -8)               = -8     not clipped
    # Sum -2.5; over 10 tokens (5 of them in other micro-batches) -0.25; clipped 2 / 10.
    half = math.log(0.5)
    logprobs = logs(1.5, 0.5, 1.5, 0.5, 1.0, 7.0) + half
    logprobs[0, 5] = NAN
    old = torch.full((1, 6), half, dtype=torch.float64)
    advantages = float64(2, 2, -4, -4, 8, INF)
    result = ppo_loss.policy_loss(logprobs, old, advantages, mask_of(5, width=6), 0.25, 10)
    assert float(result.loss) == pytest.approx(-0.25, rel=1e-14)
    assert float(result.clipped_share) == pytest.approx(0.2, rel=1e-14)
    # 0.5 * (2 (log 1.5)^2 + 2 (log 0.5)^2) / 10.
    expected = (math.log(1.5) ** 2 + math.log(0.5) ** 2) / 10
    assert float(result.approx_kl) == pytest.approx(expected, rel=1e-14)


def test_policy_gradient_by_hand() -> None:
    # d loss / d log pi = -A * ratio / tokens where not clipped, else 0; the numbers of above.
    logprobs = logs(1.5, 0.5, 1.5, 0.5, 1.0).requires_grad_()
    advantages = float64(2, 2, -4, -4, 8)
    mask = mask_of(5, width=5)
    loss = ppo_loss.policy_loss(logprobs, torch.zeros(1, 5), advantages, mask, 0.25, 10).loss
    loss.backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist()[0] == pytest.approx([0, -0.1, 0.6, 0, -0.8], abs=1e-14)


def test_the_policy_gradient_at_ratio_1_is_minus_the_advantage() -> None:
    logprobs = logs(0.3, 0.2).requires_grad_()
    advantages = float64(2, -6)
    mask = mask_of(2, width=2)
    result = ppo_loss.policy_loss(logprobs, logprobs.detach(), advantages, mask, 0.2, 2)
    result.loss.backward()  # type: ignore[no-untyped-call]
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-1.0, 3.0]]
    assert result.clipped_share == 0
    assert result.approx_kl == 0


def test_only_the_losses_carry_gradients() -> None:
    x = torch.zeros(1, 2, requires_grad=True)
    zeros, mask = torch.zeros(1, 2), mask_of(2, width=2)
    policy = ppo_loss.policy_loss(x, zeros, zeros, mask, 0.2, 2)
    value = ppo_loss.value_loss(x, zeros, zeros, mask, 0.2, 2)
    assert policy.loss.requires_grad
    assert value.loss.requires_grad
    assert not policy.clipped_share.requires_grad
    assert not policy.approx_kl.requires_grad
    assert not value.clipped_share.requires_grad


@pytest.mark.parametrize("poison", [NAN, INF, -INF, 1e300])
def test_padding_reaches_neither_losses_nor_gradients(poison: float) -> None:
    mask = mask_of(2, 0, width=3)
    new = torch.tensor([[0.1, -0.2, poison], [poison] * 3], dtype=torch.float64)
    for dirty in (0.0, poison):
        x = new.masked_fill(~mask, dirty).requires_grad_()
        other = torch.full((2, 3), 0.05, dtype=torch.float64).masked_fill(~mask, -dirty)
        policy = ppo_loss.policy_loss(x, other, other, mask, 0.2, 2)
        value = ppo_loss.value_loss(x, other, other, mask, 0.2, 2)
        (policy.loss + value.loss).backward()  # type: ignore[no-untyped-call]
        assert policy.loss.isfinite()
        assert policy.approx_kl.isfinite()
        assert value.loss.isfinite()
        assert x.grad is not None
        assert x.grad[mask].all()
        assert not x.grad[~mask].any()


def test_policy_loss_agrees_with_loops(ragged_mask: Tensor, draw: Callable[[], Tensor]) -> None:
    clip, tokens = 0.2, 100.0
    logprobs, old, advantages = 0.3 * draw(), 0.3 * draw(), draw()
    loss = clipped = divergence = 0.0
    for b, t in ragged_mask.nonzero().tolist():
        a = float(advantages[b, t])
        ratio = math.exp(float(logprobs[b, t]) - float(old[b, t]))
        near = min(max(ratio, 1 - clip), 1 + clip)
        # The paper's form: a minimum, to be maximised.
        loss -= min(a * ratio, a * near) / tokens
        clipped += ((a > 0 and ratio > 1 + clip) or (a < 0 and ratio < 1 - clip)) / tokens
        divergence += 0.5 * math.log(ratio) ** 2 / tokens
    result = ppo_loss.policy_loss(logprobs, old, advantages, ragged_mask, clip, tokens)
    assert float(result.loss) == pytest.approx(loss, abs=1e-10)
    assert float(result.clipped_share) == pytest.approx(clipped, abs=1e-10)
    assert float(result.approx_kl) == pytest.approx(divergence, abs=1e-10)


def test_policy_gradcheck(ragged_mask: Tensor, draw: Callable[[], Tensor]) -> None:
    # Old log probabilities 0 and these ratios stay 0.1 away from the kinks at 0.8 and 1.2.
    ratios = torch.tensor([0.5, 0.7, 0.9, 1.1, 1.3, 2.0], dtype=torch.float64)
    count = int(ragged_mask.sum())
    logprobs = ratios.repeat(count)[:count].log().requires_grad_()
    advantages = draw()
    zeros = torch.zeros_like(advantages)

    def loss(real: Tensor) -> Tensor:
        full = zeros.masked_scatter(ragged_mask, real)
        return ppo_loss.policy_loss(full, zeros, advantages, ragged_mask, 0.2, count).loss

    assert torch.autograd.gradcheck(loss, (logprobs,))


# --- value ---


def test_value_loss_by_hand() -> None:
    # clip 1, old value 10, so V is clamped to [9, 11].
    #   V = 13, R = 20: max(49, (11 - 20)^2 = 81) = 81    clipped
    #   V = 13, R =  9: max(16, (11 -  9)^2 =  4) = 16    not clipped
    #   V =  6, R =  4: max( 4, ( 9 -  4)^2 = 25) = 25    clipped
    #   V = 10.5, R = 12.5: max(4, 4)             =  4    not clipped
    # 0.5 * 126 / 7 tokens = 9; clipped 2 / 7.
    values, old = float64(13, 13, 6, 10.5, NAN), float64(10, 10, 10, 10, INF)
    targets = float64(20, 9, 4, 12.5, NAN)
    result = ppo_loss.value_loss(values, old, targets, mask_of(4, width=5), 1.0, 7)
    assert float(result.loss) == 9.0
    assert float(result.clipped_share) == pytest.approx(2 / 7, rel=1e-15)


def test_value_gradient_by_hand() -> None:
    # (V - R) / tokens where not clipped, else 0; the numbers of above.
    values = float64(13, 13, 6, 10.5).requires_grad_()
    targets = float64(20, 9, 4, 12.5)
    mask = mask_of(4)
    old = torch.full((1, 4), 10.0, dtype=torch.float64)
    ppo_loss.value_loss(values, old, targets, mask, 1.0, 4).loss.backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, 1.0, 0.0, -0.5]]


def test_rounding_does_not_count_as_clipping() -> None:
    # V_old + (V - V_old) differs from V in the last bit for some of these; V is within the range.
    generator = torch.Generator().manual_seed(0)
    old, targets = torch.randn(2, 50, 100, generator=generator)
    values = old + 0.1 * torch.rand(50, 100, generator=generator)
    mask = torch.ones(50, 100, dtype=torch.bool)
    assert ppo_loss.value_loss(values, old, targets, mask, 0.2, 5000).clipped_share == 0


def test_value_loss_agrees_with_loops(ragged_mask: Tensor, draw: Callable[[], Tensor]) -> None:
    clip, tokens = 0.5, torch.tensor(37)
    values, old, targets = draw(), draw(), draw()
    loss = clipped = 0.0
    for b, t in ragged_mask.nonzero().tolist():
        v, v_old, r = float(values[b, t]), float(old[b, t]), float(targets[b, t])
        near = v_old + min(max(v - v_old, -clip), clip)
        loss += 0.5 * max((v - r) ** 2, (near - r) ** 2) / 37
        clipped += (abs(v - v_old) > clip and abs(near - r) > abs(v - r)) / 37
    result = ppo_loss.value_loss(values, old, targets, ragged_mask, clip, tokens)
    assert float(result.loss) == pytest.approx(loss, abs=1e-10)
    assert float(result.clipped_share) == pytest.approx(clipped, abs=1e-10)


def test_value_gradcheck(ragged_mask: Tensor, draw: Callable[[], Tensor]) -> None:
    # Old values 0 and clip 0.2. Targets beyond +-2 keep the two errors from being equal.
    distances = torch.tensor([-0.5, -0.3, -0.1, 0.1, 0.3, 0.5], dtype=torch.float64)
    count = int(ragged_mask.sum())
    values = distances.repeat(count)[:count].requires_grad_()
    targets = draw()
    targets = targets + 2 * targets.sign()
    zeros = torch.zeros_like(targets)

    def loss(real: Tensor) -> Tensor:
        full = zeros.masked_scatter(ragged_mask, real)
        return ppo_loss.value_loss(full, zeros, targets, ragged_mask, 0.2, count).loss

    assert torch.autograd.gradcheck(loss, (values,))


# --- both ---


@PROPERTY
@given(x=matrices, old=matrices, a=matrices, rows=lengths, clip=st.floats(0.05, 0.9))
def test_micro_batches_add_up_and_clipping_is_pessimistic(
    x: np.ndarray, old: np.ndarray, a: np.ndarray, rows: tuple[int, int, int], clip: float
) -> None:
    mask = mask_of(*rows)
    tokens = mask.sum().clamp(min=1)
    new, before, third = torch.from_numpy(x), torch.from_numpy(old), torch.from_numpy(a)
    whole = ppo_loss.policy_loss(new, before, third, mask, clip, tokens)
    critic = ppo_loss.value_loss(new, before, third, mask, clip, tokens)
    policy_parts = [
        ppo_loss.policy_loss(
            new[b : b + 1], before[b : b + 1], third[b : b + 1], mask[b : b + 1], clip, tokens
        )
        for b in range(3)
    ]
    value_parts = [
        ppo_loss.value_loss(
            new[b : b + 1], before[b : b + 1], third[b : b + 1], mask[b : b + 1], clip, tokens
        )
        for b in range(3)
    ]
    for total, parts in [
        (whole.loss, [part.loss for part in policy_parts]),
        (whole.clipped_share, [part.clipped_share for part in policy_parts]),
        (whole.approx_kl, [part.approx_kl for part in policy_parts]),
        (critic.loss, [part.loss for part in value_parts]),
        (critic.clipped_share, [part.clipped_share for part in value_parts]),
    ]:
        assert float(sum(parts)) == pytest.approx(float(total), rel=1e-9, abs=1e-9)
    unclipped = ppo_loss.policy_loss(new, before, third, mask, 1e9, tokens)
    assert float(whole.loss) >= float(unclipped.loss) - 1e-9
    free = ppo_loss.value_loss(new, before, third, mask, 1e9, tokens)
    assert float(critic.loss) >= float(free.loss) - 1e-9
    assert unclipped.clipped_share == 0
    assert free.clipped_share == 0
    assert 0 <= float(whole.clipped_share) <= 1
    assert 0 <= float(critic.clipped_share) <= 1


@PROPERTY
@given(x=matrices, a=matrices, rows=lengths)
def test_at_the_old_policy_the_loss_is_minus_the_mean_advantage(
    x: np.ndarray, a: np.ndarray, rows: tuple[int, int, int]
) -> None:
    mask, new, third = mask_of(*rows), torch.from_numpy(x), torch.from_numpy(a)
    tokens = max(1, sum(rows))
    result = ppo_loss.policy_loss(new, new, third, mask, 0.2, tokens)
    assert float(result.loss) == pytest.approx(-float(third[mask].sum()) / tokens, abs=1e-9)
    assert result.clipped_share == 0
    assert result.approx_kl == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tokens", [3, 3.0, torch.tensor(3)])
def test_dtypes_are_kept(dtype: torch.dtype, tokens: Tensor | float) -> None:
    x, mask = torch.ones(2, 3, dtype=dtype), mask_of(1, 2, width=3)
    policy = ppo_loss.policy_loss(x, x, x, mask, 0.2, tokens)
    value = ppo_loss.value_loss(x, x, x, mask, 0.2, tokens)
    assert {policy.loss.dtype, policy.clipped_share.dtype, policy.approx_kl.dtype} == {dtype}
    assert {value.loss.dtype, value.clipped_share.dtype} == {dtype}
    assert ppo_loss.ratio_error(x, x, mask).dtype == dtype


# --- ratio error ---


def test_ratio_error_by_hand() -> None:
    # Ratios 1.25, 0.5, 1: errors 0.25, 0.5, 0; the padding's would be the largest.
    logprobs = logs(1.25, 0.5, 1.0, 8.0)
    old = torch.zeros(1, 4, dtype=torch.float64)
    assert float(ppo_loss.ratio_error(logprobs, old, mask_of(3))) == pytest.approx(0.5)
    logprobs[0, 3] = NAN
    assert float(ppo_loss.ratio_error(logprobs, old, mask_of(3))) == pytest.approx(0.5)
    # Above 1 counts as below: ratio 3 against 0.5.
    assert float(ppo_loss.ratio_error(logs(3, 0.5), old[:, :2], mask_of(2, width=2))) == (
        pytest.approx(2.0)
    )


def test_ratio_error_without_tokens_is_zero_and_a_real_nan_shows() -> None:
    x = torch.full((2, 3), NAN)
    assert ppo_loss.ratio_error(x, x, mask_of(0, 0, width=3)) == 0
    assert ppo_loss.ratio_error(x, x, mask_of(1, 0, width=3)).isnan()


def test_ratio_error_agrees_with_loops(ragged_mask: Tensor, draw: Callable[[], Tensor]) -> None:
    logprobs, old = draw(), draw()
    largest = 0.0
    for b, t in ragged_mask.nonzero().tolist():
        largest = max(largest, abs(math.exp(float(logprobs[b, t]) - float(old[b, t])) - 1))
    error = ppo_loss.ratio_error(logprobs, old, ragged_mask)
    assert float(error) == pytest.approx(largest, abs=1e-10)


@PROPERTY
@given(x=matrices, old=matrices, rows=lengths)
def test_ratio_error_is_zero_only_without_a_difference(
    x: np.ndarray, old: np.ndarray, rows: tuple[int, int, int]
) -> None:
    mask, new, before = mask_of(*rows), torch.from_numpy(x), torch.from_numpy(old)
    assert ppo_loss.ratio_error(new, new, mask) == 0
    error = ppo_loss.ratio_error(new, before, mask)
    assert bool(error > 0) == bool((new != before)[mask].any())
