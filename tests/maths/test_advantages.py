"""maths/advantages: rewards, GAE, returns and the objective."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from salsa_cli.maths import advantages, kl, masked

PROPERTY = settings(deadline=None, max_examples=40)
NAN, INF = float("nan"), float("inf")
WIDTH = 5

matrices = hnp.arrays(np.float64, (3, WIDTH), elements=st.floats(-10, 10))
vectors = hnp.arrays(np.float64, 3, elements=st.floats(-10, 10))
lengths = st.tuples(*[st.integers(0, WIDTH)] * 3)
shares = st.floats(0, 1)


def mask_of(*row_lengths: int, width: int = WIDTH) -> Tensor:
    return torch.arange(width) < torch.tensor(row_lengths).unsqueeze(1)


def float64(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# --- token rewards ---


def test_token_rewards_by_hand() -> None:
    # kl_coef 0.5; the score comes on top of the last real token's own penalty:
    # row 0: -0.5 * 2, -0.5 * -4 + 10; row 1: -0.5 * 1 + 20; row 2 has no place for its 30;
    # row 3: -0.5 * 6, -0.5 * 8, -0.5 * -2 - 40.
    scores = torch.tensor([10.0, 20.0, 30.0, -40.0])
    per_token = torch.tensor([[2.0, -4.0, NAN], [1.0, INF, NAN], [NAN, NAN, NAN], [6.0, 8.0, -2.0]])
    rewards = advantages.token_rewards(scores, per_token, mask_of(2, 1, 0, 3, width=3), 0.5)
    assert rewards.tolist() == [
        [-1.0, 12.0, 0.0],
        [19.5, 0.0, 0.0],
        [0.0, 0.0, 0.0],
        [-3.0, -4.0, -39.0],
    ]


def test_a_row_without_tokens_cannot_poison() -> None:
    scores = torch.tensor([NAN, 1.0])
    rewards = advantages.token_rewards(scores, torch.zeros(2, 3), mask_of(0, 2, width=3), 0.1)
    assert rewards.tolist() == [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def test_token_rewards_agree_with_loops(
    ragged_mask: Tensor, draw: Callable[[], Tensor], generator: torch.Generator
) -> None:
    per_token = draw()
    batch, width = ragged_mask.shape
    scores = torch.randn(batch, generator=generator, dtype=torch.float64)
    expected = np.zeros((batch, width))
    for b in range(batch):
        length = int(ragged_mask[b].sum())
        for t in range(length):
            expected[b, t] = -0.05 * float(per_token[b, t])
        if length:
            expected[b, length - 1] += float(scores[b])
    rewards = advantages.token_rewards(scores, per_token, ragged_mask, 0.05)
    np.testing.assert_allclose(rewards.numpy(), expected, rtol=0, atol=1e-10)


@PROPERTY
@given(scores=vectors, per_token=matrices, rows=lengths, kl_coef=st.floats(0, 2))
def test_rewards_of_an_answer_sum_to_score_less_penalty(
    scores: np.ndarray, per_token: np.ndarray, rows: tuple[int, int, int], kl_coef: float
) -> None:
    mask, values = mask_of(*rows), torch.from_numpy(per_token)
    rewards = advantages.token_rewards(torch.from_numpy(scores), values, mask, kl_coef)
    sums = kl.per_answer(values, mask)
    for b in range(3):
        expected = scores[b] - kl_coef * float(sums[b]) if rows[b] else 0.0
        assert float(rewards[b].sum()) == pytest.approx(expected, abs=1e-9)
    assert not rewards[~mask].any()


# --- GAE ---


def test_gae_by_hand() -> None:
    # gamma 1/2, lambda 1/4, so gamma * lambda = 1/8. Row 0, rewards 1, 2, 3 and values 4, 6, 8:
    #   delta_2 = 3 + 0.5 * 0 - 8 = -5      A_2 = -5
    #   delta_1 = 2 + 0.5 * 8 - 6 =  0      A_1 =  0 - 5 / 8        = -0.625
    #   delta_0 = 1 + 0.5 * 6 - 4 =  0      A_0 =  0 - 0.625 / 8    = -0.078125
    # Row 1, one token: 7 - 2 = 5: neither the value 9 nor the reward after it count.
    rewards = float64([[1.0, 2.0, 3.0], [7.0, 5.0, NAN]])
    values = float64([[4.0, 6.0, 8.0], [2.0, 9.0, INF]])
    estimates = advantages.gae(rewards, values, mask_of(3, 1, width=3), gamma=0.5, lam=0.25)
    assert estimates.tolist() == [[-0.078125, -0.625, -5.0], [5.0, 0.0, 0.0]]


def test_gae_of_an_answer_padded_on_the_left() -> None:
    # The last two tokens of row 0 above; the padding holds values that would leak.
    mask = torch.tensor([[False, True, True]])
    rewards, values = float64([[NAN, 2.0, 3.0]]), float64([[NAN, 6.0, 8.0]])
    assert advantages.gae(rewards, values, mask, 0.5, 0.25).tolist() == [[0.0, -0.625, -5.0]]


def test_gae_agrees_with_the_sum_of_discounted_deltas(
    ragged_mask: Tensor, draw: Callable[[], Tensor]
) -> None:
    # Not the recursion but the sum it stands for: A_t = sum_l (gamma lambda)^l delta_{t+l}.
    gamma, lam = 0.93, 0.81
    rewards, values = draw(), draw()
    batch, width = ragged_mask.shape
    expected = np.zeros((batch, width))
    for b in range(batch):
        length = int(ragged_mask[b].sum())
        for t in range(length):
            for s in range(t, length):
                following = float(values[b, s + 1]) if s + 1 < length else 0.0
                delta = float(rewards[b, s]) + gamma * following - float(values[b, s])
                expected[b, t] += (gamma * lam) ** (s - t) * delta
    estimates = advantages.gae(rewards, values, ragged_mask, gamma, lam)
    np.testing.assert_allclose(estimates.numpy(), expected, rtol=0, atol=1e-10)


@PROPERTY
@given(r=matrices, v=matrices, rows=lengths, gamma=shares)
def test_gae_at_lambda_1_is_the_discounted_return_less_the_value(
    r: np.ndarray, v: np.ndarray, rows: tuple[int, int, int], gamma: float
) -> None:
    estimates = advantages.gae(
        torch.from_numpy(r), torch.from_numpy(v), mask_of(*rows), gamma, 1.0
    ).numpy()
    for b, length in enumerate(rows):
        for t in range(length):
            discounted = sum(gamma ** (s - t) * r[b, s] for s in range(t, length))
            assert estimates[b, t] == pytest.approx(discounted - v[b, t], abs=1e-9)


@PROPERTY
@given(r=matrices, v=matrices, rows=lengths, gamma=shares)
def test_gae_at_lambda_0_is_the_temporal_difference(
    r: np.ndarray, v: np.ndarray, rows: tuple[int, int, int], gamma: float
) -> None:
    estimates = advantages.gae(
        torch.from_numpy(r), torch.from_numpy(v), mask_of(*rows), gamma, 0.0
    ).numpy()
    for b, length in enumerate(rows):
        for t in range(length):
            following = v[b, t + 1] if t + 1 < length else 0.0
            assert estimates[b, t] == pytest.approx(r[b, t] + gamma * following - v[b, t], abs=1e-9)


@PROPERTY
@given(r=matrices, v=matrices, rows=lengths, gamma=shares, lam=shares, scale=st.floats(-3, 3))
def test_gae_is_linear_and_blind_to_padding(
    r: np.ndarray,
    v: np.ndarray,
    rows: tuple[int, int, int],
    gamma: float,
    lam: float,
    scale: float,
) -> None:
    mask, rewards, values = mask_of(*rows), torch.from_numpy(r), torch.from_numpy(v)
    estimates = advantages.gae(rewards, values, mask, gamma, lam)
    scaled = advantages.gae(scale * rewards, scale * values, mask, gamma, lam)
    torch.testing.assert_close(scaled, scale * estimates, rtol=1e-9, atol=1e-9)
    poisoned = advantages.gae(
        rewards.masked_fill(~mask, NAN), values.masked_fill(~mask, INF), mask, gamma, lam
    )
    assert torch.equal(poisoned, estimates)
    assert not estimates[~mask].any()


@PROPERTY
@given(r=matrices, rows=lengths, gamma=shares, lam=shares)
def test_a_perfect_critic_leaves_no_advantage(
    r: np.ndarray, rows: tuple[int, int, int], gamma: float, lam: float
) -> None:
    v = np.zeros_like(r)
    for b, length in enumerate(rows):
        for t in reversed(range(length)):
            v[b, t] = r[b, t] + (gamma * v[b, t + 1] if t + 1 < length else 0.0)
    estimates = advantages.gae(torch.from_numpy(r), torch.from_numpy(v), mask_of(*rows), gamma, lam)
    torch.testing.assert_close(estimates, torch.zeros_like(estimates), rtol=0, atol=1e-9)


# --- returns, explained variance, objective ---


def test_returns_by_hand() -> None:
    estimates, values = float64([[1.0, -2.0, 0.0]]), float64([[10.0, 20.0, NAN]])
    assert advantages.returns(estimates, values, mask_of(2, width=3)).tolist() == [[11.0, 18.0, 0]]


def test_returns_agree_with_loops(ragged_mask: Tensor, draw: Callable[[], Tensor]) -> None:
    # At lambda 1 the return is the discounted sum of the rewards, whatever the critic says.
    rewards, values, gamma = draw(), draw(), 0.9
    estimates = advantages.gae(rewards, values, ragged_mask, gamma, 1.0)
    expected = np.zeros(ragged_mask.shape)
    for b in range(ragged_mask.shape[0]):
        length = int(ragged_mask[b].sum())
        for t in range(length):
            for s in range(t, length):
                expected[b, t] += gamma ** (s - t) * float(rewards[b, s])
    targets = advantages.returns(estimates, values, ragged_mask)
    np.testing.assert_allclose(targets.numpy(), expected, rtol=0, atol=1e-10)


def test_explained_variance_by_hand() -> None:
    # returns 0, 2, 4: variance 8/3. residuals 0 - 1, 2 - 2, 4 - 6 = -1, 0, -2: mean -1, variance
    # 2/3. 1 - (2/3) / (8/3) = 3/4. A constant offset of the critic does not count.
    targets, values = float64([[0.0, 2.0], [4.0, NAN]]), float64([[1.0, 2.0], [6.0, NAN]])
    mask = mask_of(2, 1, width=2)
    explained = advantages.explained_variance(values, targets, mask)
    assert float(explained) == pytest.approx(0.75, rel=1e-14)


def test_explained_variance_of_equal_returns_is_zero() -> None:
    mask = mask_of(3, 2, width=3)
    equal = torch.full((2, 3), 0.1, requires_grad=True)
    values = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    explained = advantages.explained_variance(values, equal, mask)
    assert explained == 0
    explained.backward()  # type: ignore[no-untyped-call]
    assert equal.grad is not None
    assert equal.grad.isfinite().all()
    empty = torch.zeros_like(mask)
    assert advantages.explained_variance(values, values, empty) == 0


def test_explained_variance_agrees_with_loops(
    ragged_mask: Tensor, draw: Callable[[], Tensor]
) -> None:
    values, targets = draw(), draw()

    def variance(x: Tensor) -> float:
        real = [float(x[b, t]) for b, t in ragged_mask.nonzero().tolist()]
        mean = sum(real) / len(real)
        return sum((value - mean) ** 2 for value in real) / len(real)

    expected = 1 - variance(targets - values) / variance(targets)
    explained = advantages.explained_variance(values, targets, ragged_mask)
    assert float(explained) == pytest.approx(expected, abs=1e-10)


@PROPERTY
@given(targets=matrices, rows=lengths, offset=st.floats(-5, 5))
def test_explained_variance_of_perfect_and_constant_critics(
    targets: np.ndarray, rows: tuple[int, int, int], offset: float
) -> None:
    mask, goal = mask_of(*rows), torch.from_numpy(targets)
    spread = float(masked.masked_variance(goal, mask))
    if spread > 1e-3:
        perfect = advantages.explained_variance(goal + offset, goal, mask)
        assert float(perfect) == pytest.approx(1, abs=1e-9)
    constant = advantages.explained_variance(torch.full_like(goal, offset), goal, mask)
    assert float(constant) == pytest.approx(0, abs=1e-9 if spread > 1e-3 else 1)


def test_objective_by_hand() -> None:
    # mean(2, 4) - 0.5 * mean(10, -2) = 3 - 2.
    value = advantages.objective(torch.tensor([2.0, 4.0]), torch.tensor([10.0, -2.0]), 0.5)
    assert value == 1.0


def test_objective_agrees_with_loops(generator: torch.Generator) -> None:
    scores = torch.randn(7, generator=generator, dtype=torch.float64)
    sums = torch.randn(7, generator=generator, dtype=torch.float64)
    expected = 0.0
    for b in range(7):
        expected += (float(scores[b]) - 0.15 * float(sums[b])) / 7
    assert float(advantages.objective(scores, sums, 0.15)) == pytest.approx(expected, abs=1e-10)


@PROPERTY
@given(scores=vectors, per_token=matrices, kl_coef=st.floats(0, 2))
def test_objective_is_the_mean_of_summed_rewards(
    scores: np.ndarray, per_token: np.ndarray, kl_coef: float
) -> None:
    mask, values = mask_of(WIDTH, 1, 3), torch.from_numpy(per_token)
    goal = torch.from_numpy(scores)
    rewards = advantages.token_rewards(goal, values, mask, kl_coef)
    value = advantages.objective(goal, kl.per_answer(values, mask), kl_coef)
    assert float(value) == pytest.approx(float(rewards.sum(dim=1).mean()), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    x, scores, mask = (
        torch.ones(2, 3, dtype=dtype),
        torch.ones(2, dtype=dtype),
        mask_of(1, 3)[:, :3],
    )
    for result in (
        advantages.token_rewards(scores, x, mask, 0.1),
        advantages.gae(x, x, mask, 0.9, 0.9),
        advantages.returns(x, x, mask),
        advantages.explained_variance(x, x, mask),
        advantages.objective(scores, scores, 0.1),
    ):
        assert result.dtype == dtype


# --- lambda by length, and long answers ---


def test_lambda_by_length_by_hand() -> None:
    mask = mask_of(1, 2, 4, 5)
    found = advantages.length_adaptive_lambda(mask, 0.5, like=float64([[0.0]]))
    assert found.tolist() == [0.0, 0.0, 0.5, pytest.approx(0.6)]  # 1 - 1 / (0.5 * 5)
    assert found.dtype == torch.float64


def test_a_lambda_for_each_answer_is_that_of_each_alone() -> None:
    generator = torch.Generator().manual_seed(2)
    rewards, values = torch.randn(2, 3, WIDTH, generator=generator, dtype=torch.float64)
    mask, lams = mask_of(5, 3, 1), [0.9, 0.3, 1.0]
    rewards, values = masked.zero_padding(rewards, mask), masked.zero_padding(values, mask)
    together = advantages.gae(rewards, values, mask, 0.95, torch.tensor(lams).double())
    for row, lam in enumerate(torch.tensor(lams).double().tolist()):
        part = slice(row, row + 1)
        alone = advantages.gae(rewards[part], values[part], mask[part], 0.95, lam)
        torch.testing.assert_close(together[part], alone, rtol=0, atol=1e-14)


def test_the_overlong_penalty_rises_over_the_buffer() -> None:
    """The figures of DAPO: 16,384 tokens are free of it, at 20,480 it is -1."""
    lengths = torch.tensor([1, 16384, 17408, 19456, 20480])
    found = advantages.soft_overlong_penalty(lengths, 20480, 4096)
    assert found.tolist() == [0.0, 0.0, -0.25, -0.75, -1.0]
