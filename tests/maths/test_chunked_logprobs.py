"""maths/projection: the same numbers and gradients as all logits at once, in a buffer's memory."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from salsa_cli.maths import categorical
from salsa_cli.maths.chunked_logprobs import projected_logprobs
from tests.support.allocations import Largest

CHUNKS = [1, 8 * 11 * 3, 10**9]  # bytes: a token at a time, three of eleven logits, all


def inputs(generator: torch.Generator, *, bias: bool = False) -> dict[str, Any]:
    def normal(*shape: int) -> Tensor:
        made = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return made.requires_grad_()

    return {
        "hidden": normal(7, 5),
        "weight": normal(11, 5),
        "bias": normal(11) if bias else None,
        "tokens": torch.randint(11, (7,), generator=generator),
    }


def test_by_hand() -> None:
    # Logits 0, 2 log 2, 2 log 5 at temperature 2: probabilities 1/8, 2/8, 5/8.
    weight = torch.tensor([[0.0], [2 * math.log(2)], [2 * math.log(5)]], dtype=torch.float64)
    hidden = torch.ones(3, 1, dtype=torch.float64)
    found = projected_logprobs(hidden, weight, torch.tensor([2, 0, 1]), 2.0, chunk_bytes=1)
    expected = [math.log(5 / 8), math.log(1 / 8), math.log(2 / 8)]
    assert found.tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("chunk_bytes", CHUNKS)
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_log_softmax_of_the_projection(
    generator: torch.Generator, chunk_bytes: int, softcap: float | None, bias: bool
) -> None:
    given = inputs(generator, bias=bias)
    found = projected_logprobs(**given, temperature=0.7, softcap=softcap, chunk_bytes=chunk_bytes)
    logits = given["hidden"] @ given["weight"].T
    if bias:
        logits = logits + given["bias"]
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    expected = categorical.token_logprobs(logits, given["tokens"], 0.7)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    leaves = [value for value in given.values() if value is not None and value.requires_grad]
    incoming = torch.randn(7, generator=generator, dtype=torch.float64)
    ours = torch.autograd.grad(found, leaves, incoming)
    theirs = torch.autograd.grad(expected, leaves, incoming)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-13)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_gradients(generator: torch.Generator, softcap: float | None) -> None:
    given = inputs(generator, bias=True)

    def logprobs(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return projected_logprobs(
            hidden, weight, given["tokens"], 0.7, bias=bias, softcap=softcap, chunk_bytes=200
        )

    leaves = (given["hidden"], given["weight"], given["bias"])
    assert torch.autograd.gradcheck(logprobs, leaves)


def test_a_frozen_embedding_gets_no_gradient(generator: torch.Generator) -> None:
    given = inputs(generator)
    given["weight"].requires_grad_(False)
    projected_logprobs(**given, temperature=1.0).sum().backward()
    assert given["weight"].grad is None
    assert given["hidden"].grad.abs().sum() > 0


def test_a_tied_embedding_gathers_both_gradients(generator: torch.Generator) -> None:
    """The rows that went in and the columns that came out are one parameter."""
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    ids, tokens = torch.tensor([1, 4, 4]), torch.tensor([4, 2, 1])
    found = projected_logprobs(weight[ids], weight, tokens, 1.3, chunk_bytes=100)
    logits = weight[ids] @ weight.T
    expected = categorical.token_logprobs(logits, tokens, 1.3)
    (ours,) = torch.autograd.grad(found.sum(), weight)
    (theirs,) = torch.autograd.grad(expected.sum(), weight)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


def test_no_tokens_give_no_numbers(generator: torch.Generator) -> None:
    given = inputs(generator)
    given |= {"hidden": given["hidden"][:0], "tokens": given["tokens"][:0]}
    found = projected_logprobs(**given, temperature=1.0)
    assert found.shape == (0,)
    found.sum().backward()
    assert given["weight"].grad.abs().sum() == 0


def test_types_under_autocast_and_without(generator: torch.Generator) -> None:
    """Products in bfloat16, sums of them in float32, gradients in the type of the weights."""
    given = {name: v for name, v in inputs(generator).items() if v is not None}
    single = {
        name: v.detach().float().requires_grad_() if v.is_floating_point() else v
        for name, v in given.items()
    }
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = projected_logprobs(**single, temperature=1.0, chunk_bytes=100)
        logits = torch.nn.functional.linear(single["hidden"], single["weight"])
    assert logits.dtype == torch.bfloat16 and found.dtype == torch.float32
    expected = categorical.token_logprobs(logits, single["tokens"], 1.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    found.sum().backward()
    whole = categorical.token_logprobs(
        given["hidden"] @ given["weight"].T, given["tokens"], 1.0
    ).sum()
    for name, exact in zip(
        ("hidden", "weight"),
        torch.autograd.grad(whole, [given["hidden"], given["weight"]]),
        strict=True,
    ):
        assert single[name].grad.dtype == torch.float32
        # bfloat16 has 8 bits: products of normal numbers are off by about 1 %.
        torch.testing.assert_close(single[name].grad.double(), exact, rtol=0.05, atol=0.05)
    half = projected_logprobs(
        single["hidden"].bfloat16(), single["weight"].bfloat16(), single["tokens"], 1.0
    )
    assert half.dtype == torch.float32


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("inf"), float("nan")])
def test_bad_temperatures_are_refused(generator: torch.Generator, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        projected_logprobs(**inputs(generator), temperature=temperature)


# ------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("tokens", [256, 1024])
def test_no_tensor_grows_with_tokens_times_vocabulary(tokens: int) -> None:
    """A vocabulary of 128k: the largest tensor is the weight or the buffer, forward and back."""
    vocabulary, width, chunk = 128_000, 8, 2**24
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    targets = torch.randint(vocabulary, (tokens,))
    with Largest() as seen:
        projected_logprobs(hidden, weight, targets, 1.0, chunk_bytes=chunk).sum().backward()
    assert seen.elements <= max(vocabulary * width, chunk // 4) < tokens * vocabulary / 6
    with Largest() as control:
        categorical.token_logprobs(hidden[:64] @ weight.T, targets[:64], 1.0)
    assert control.elements == 64 * vocabulary
