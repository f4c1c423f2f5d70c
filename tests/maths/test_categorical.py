"""maths/categorical: log-probabilities and sampling."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salsa_cli.maths import categorical

PROPERTY = settings(deadline=None, max_examples=40)
INF = float("inf")
BELOW_ONE = math.nextafter(1.0, 0.0)

rows_of_logits = hnp.arrays(
    np.float64, (3, 5), elements=st.one_of(st.floats(-30, 30), st.just(-INF))
).filter(lambda x: bool(np.isfinite(x).any(axis=1).all()))
temperatures = st.floats(0.1, 5)
uniforms = st.one_of(st.floats(0, BELOW_ONE), st.sampled_from([0.0, 5e-324, 0.5, BELOW_ONE]))

# exp(logit / 2) = 1, 2, 5: probabilities 1/8, 2/8, 5/8. At temperature 1 they would be 1, 4, 25.
HAND = torch.tensor([0.0, 2 * math.log(2), 2 * math.log(5)], dtype=torch.float64)


def naive_probabilities(logits: list[float], temperature: float) -> list[float]:
    top = max(logits)
    weights = [math.exp((z - top) / temperature) if z > -INF else 0.0 for z in logits]
    return [weight / math.fsum(weights) for weight in weights]


def test_log_softmax_by_hand() -> None:
    probabilities = categorical.log_softmax(HAND, 2.0).exp()
    assert probabilities.tolist() == pytest.approx([0.125, 0.25, 0.625], rel=1e-14)


def test_token_logprobs_by_hand() -> None:
    logits = HAND.expand(1, 3, 3)
    tokens = torch.tensor([[2, 0, 1]])
    logprobs = categorical.token_logprobs(logits, tokens, 2.0)
    expected = [math.log(5 / 8), math.log(1 / 8), math.log(2 / 8)]
    assert logprobs.tolist()[0] == pytest.approx(expected, rel=1e-14)


def test_sampling_by_hand() -> None:
    # Cumulative 1/8, 3/8, 1 at temperature 2.
    u = torch.tensor([0.0, 0.12, 0.13, 0.37, 0.38, BELOW_ONE], dtype=torch.float64)
    tokens = categorical.sample_by_inverse_cdf(HAND.expand(6, 3), u, 2.0)
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2]
    assert tokens.dtype == torch.long


def test_a_uniform_on_a_boundary_takes_the_next_token() -> None:
    # Probabilities of exactly 1/4: the cumulative sum must *exceed* u, so 1/4 is token 1.
    u = torch.tensor([0.0, 0.25, 0.5, 0.75], dtype=torch.float64)
    tokens = categorical.sample_by_inverse_cdf(torch.zeros(4, 4), u, 1.0)
    assert tokens.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("u", [0.0, 5e-324, 0.3, 0.5, BELOW_ONE])
def test_impossible_tokens_are_never_sampled(u: float) -> None:
    row = torch.tensor([[-INF, -INF, 0.0, -INF, 0.0, -INF]])
    token = categorical.sample_by_inverse_cdf(row, torch.tensor([u], dtype=torch.float64), 1.0)
    assert token.tolist() == [2 if u < 0.5 else 4]


def test_a_cumulative_sum_that_is_not_monotone_is_made_so() -> None:
    # As a parallel sum may be in its last bits: it rises on impossible token 1, falls after 2.
    crooked = torch.tensor([[0.5, 0.6, 1.0, 0.9]], dtype=torch.float64)
    probabilities = torch.tensor([[0.5, 0.0, 0.5, 0.0]], dtype=torch.float64)
    assert categorical._rising(crooked, probabilities).tolist() == [[0.5, 0.5, 1.0, 1.0]]


def test_a_number_at_the_very_end_of_a_block_stays_in_it() -> None:
    """Its sum and its last cumulative sum differ in their last bits; behind it nothing is possible.

    In float64: the sums of float32 numbers are exact.
    """
    rows, size = 64, categorical._BLOCK
    logits = torch.randn(rows, 9 * size + 5, generator=torch.Generator().manual_seed(0)).double()
    blocks = torch.arange(logits.shape[1]) // size
    logits[:, blocks % 2 == 1] = -INF
    probabilities = torch.softmax(logits, -1)
    for block in (0, 2, 4, 6):
        upto = probabilities[:, blocks <= block].sum(-1) / probabilities.sum(-1)
        for ulps in range(-4, 1):
            u = upto + ulps * torch.finfo(torch.float64).eps / 2
            tokens = categorical.sample_by_inverse_cdf(logits, u, 1.0)
            assert (probabilities.gather(1, tokens[:, None]) > 0).all()
            assert ((blocks[tokens] == block) | (tokens == (block + 2) * size)).all()


def test_rows_of_nan_give_some_token() -> None:
    u = torch.tensor([0.0, 0.5], dtype=torch.float64)
    tokens = categorical.sample_by_inverse_cdf(torch.full((2, 3), float("nan")), u, 1.0)
    assert ((tokens >= 0) & (tokens < 3)).all()


def test_the_total_stays_above_the_largest_uniform_over_a_large_vocabulary() -> None:
    logits = torch.randn(4, 50_000, generator=torch.Generator().manual_seed(0))
    logits[:, 49_000:] = -INF
    u = torch.full((4,), BELOW_ONE, dtype=torch.float64)
    assert categorical.sample_by_inverse_cdf(logits, u, 1.0).tolist() == [48_999] * 4


def test_sampling_resolves_what_float32_cannot() -> None:
    # Token 1 has probability exp(-20) = 2.06e-9; in float32 the sum is 1 before it.
    u = torch.tensor([1 - 2.1e-9, 1 - 2e-9], dtype=torch.float64)
    row = torch.tensor([[0.0, -20.0]]).expand(2, 2)
    assert categorical.sample_by_inverse_cdf(row, u, 1.0).tolist() == [0, 1]


def test_sampled_shares_approach_the_probabilities() -> None:
    u = (torch.arange(8000, dtype=torch.float64) + 0.5) / 8000
    tokens = categorical.sample_by_inverse_cdf(HAND.expand(8000, 3), u, 2.0)
    assert torch.bincount(tokens).tolist() == [1000, 2000, 5000]


@pytest.mark.parametrize("temperature", [0.0, -1.0, INF, float("nan")])
def test_bad_temperatures_are_refused(temperature: float) -> None:
    logits, tokens = torch.zeros(1, 1, 3), torch.zeros(1, 1, dtype=torch.long)
    u = torch.zeros(1, dtype=torch.float64)
    with pytest.raises(ValueError, match="temperature must be positive"):
        categorical.log_softmax(logits, temperature)
    with pytest.raises(ValueError, match="temperature must be positive"):
        categorical.token_logprobs(logits, tokens, temperature)
    with pytest.raises(ValueError, match="temperature must be positive"):
        categorical.sample_by_inverse_cdf(logits[0], u, temperature)


@pytest.mark.parametrize(
    ("given_dtype", "result"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_dtypes(given_dtype: torch.dtype, result: torch.dtype) -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).to(given_dtype)
    tokens = torch.tensor([[0, 1, 2], [3, 4, 0]])
    assert categorical.token_logprobs(logits, tokens, 0.7).dtype == result
    # Half precision is raised before the division, so it equals the float32 of the same numbers.
    wide = categorical.token_logprobs(logits.to(result), tokens, 0.7)
    assert torch.equal(categorical.token_logprobs(logits, tokens, 0.7), wide)


def test_impossible_tokens_leave_the_gradients_of_others_finite() -> None:
    logits = torch.tensor([[[0.0, -INF, 0.0, -1000.0]]], requires_grad=True)
    logprobs = categorical.token_logprobs(logits, torch.tensor([[0]]), 1.0)
    assert logprobs.item() == pytest.approx(-math.log(2), rel=1e-6)
    logprobs.sum().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    impossible = categorical.token_logprobs(logits.detach(), torch.tensor([[1]]), 1.0)
    assert impossible.tolist() == [[-INF]]


def test_gradients(generator: torch.Generator) -> None:
    logits = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(4, (2, 3), generator=generator)
    assert torch.autograd.gradcheck(lambda z: categorical.token_logprobs(z, tokens, 0.7), (logits,))


def test_agrees_with_loops(generator: torch.Generator) -> None:
    logits = 3 * torch.randn(4, 6, 11, generator=generator, dtype=torch.float64)
    logits[:, :, 7] = -INF
    tokens = torch.randint(7, (4, 6), generator=generator)
    u = torch.rand(4, 6, generator=generator, dtype=torch.float64)
    for temperature in (0.6, 1.0, 1.7):
        logprobs = categorical.token_logprobs(logits, tokens, temperature)
        for b in range(4):
            sampled = categorical.sample_by_inverse_cdf(logits[b], u[b], temperature)
            for t in range(6):
                p = naive_probabilities(logits[b, t].tolist(), temperature)
                naive_logprob = math.log(p[int(tokens[b, t])])
                assert float(logprobs[b, t]) == pytest.approx(naive_logprob, abs=1e-10)
                cumulative, token = 0.0, -1
                for v in range(11):
                    cumulative += p[v]
                    if cumulative > float(u[b, t]):
                        token = v
                        break
                assert int(sampled[t]) == token


@PROPERTY
@given(x=rows_of_logits, temperature=temperatures, shift=st.floats(-100, 100))
def test_probabilities_sum_to_one_and_ignore_a_shift(
    x: np.ndarray, temperature: float, shift: float
) -> None:
    logits = torch.from_numpy(x)
    logprobs = categorical.log_softmax(logits, temperature)
    assert logprobs.exp().sum(dim=-1).tolist() == pytest.approx([1.0] * 3, abs=1e-12)
    shifted = categorical.log_softmax(logits + shift, temperature)
    torch.testing.assert_close(shifted, logprobs, rtol=1e-9, atol=1e-9)


@PROPERTY
@given(
    x=rows_of_logits,
    u=st.tuples(uniforms, uniforms, uniforms),
    temperature=temperatures,
    order=st.permutations(range(3)),
)
def test_a_row_is_sampled_alone_and_possible(
    x: np.ndarray, u: tuple[float, float, float], temperature: float, order: list[int]
) -> None:
    logits, uniform = torch.from_numpy(x), torch.tensor(u, dtype=torch.float64)
    tokens = categorical.sample_by_inverse_cdf(logits, uniform, temperature)
    assert np.isfinite(x[np.arange(3), tokens.numpy()]).all()
    shuffled = categorical.sample_by_inverse_cdf(logits[order], uniform[order], temperature)
    assert shuffled.tolist() == tokens[order].tolist()
    for b in range(3):
        alone = categorical.sample_by_inverse_cdf(
            logits[b : b + 1], uniform[b : b + 1], temperature
        )
        assert alone.tolist() == [int(tokens[b])]


@PROPERTY
@given(x=rows_of_logits, u=st.tuples(uniforms, uniforms), temperature=temperatures)
def test_a_larger_uniform_never_gives_an_earlier_token(
    x: np.ndarray, u: tuple[float, float], temperature: float
) -> None:
    pair = torch.from_numpy(x[:1]).expand(2, 5)
    uniform = torch.tensor(sorted(u), dtype=torch.float64)
    first, second = categorical.sample_by_inverse_cdf(pair, uniform, temperature).tolist()
    assert first <= second
