"""Log-probabilities of given tokens from hidden states, without the logits of all of them at once.

A vocabulary of V tokens makes V logits a token: for 128 answers of 128 tokens and V = 128k that is
8 GB in float32, and several times that with the gradient. Here the logits exist for a few tokens at
a time, in a buffer of a given size, and are computed once more in the backward pass; one buffer
that holds them all is kept instead.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from salsa_cli.maths.categorical import require_temperature

CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**29}
"""Size of the buffer of logits: what fills the device's caches, or its cores."""


def projected_logprobs(
    hidden: Tensor,
    weight: Tensor,
    tokens: Tensor,
    temperature: float,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    chunk_bytes: int | None = None,
) -> Tensor:
    """Log probability of each given token, [N] in float32 (float64 for float64 hidden states).

    Args:
        hidden: [N, H], with or without gradient.
        weight: [V, H] of the output embedding, with or without gradient.
        tokens: [N] long in [0, V).
        temperature: > 0.
        bias: [V], without gradient where the embedding has none.
        softcap: c in z = c * tanh(z / c), where the model bounds its logits.
        chunk_bytes: size of the buffer of logits; by default what suits the device.

    log softmax(z / temperature) at the tokens, with z = hidden @ weight.T + bias. The product is
    in the type of autocast, or of the hidden states; what follows is in float32, as in
    `categorical.token_logprobs`. The gradient with respect to z / temperature is
    g * (onehot(token) - p) for the incoming gradient g.
    """
    require_temperature(temperature)
    device = hidden.device.type
    size = CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"]) if chunk_bytes is None else chunk_bytes
    rows = max(1, size // (_raised(hidden.dtype).itemsize * len(weight)))
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    found: Tensor = _Projected.apply(hidden, weight, bias, tokens, temperature, softcap, rows, half)  # type: ignore[no-untyped-call]
    return found


class _Projected(torch.autograd.Function):
    """The function above and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        temperature: float,
        softcap: float | None,
        rows: int,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.settings = temperature, softcap, rows, dtype
        found = hidden.new_empty(len(hidden), dtype=_raised(hidden.dtype))
        normaliser = torch.empty_like(found)
        projection = weight.to(dtype)
        ctx.probabilities = None
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _parts(len(hidden), rows):
                logits = _logits(hidden[part].to(dtype), projection, bias, softcap, found.dtype)
                logits.div_(temperature)
                chosen = logits.gather(-1, tokens[part].unsqueeze(-1)).squeeze(-1)
                top = logits.amax(-1, keepdim=True)
                total = logits.sub_(top).exp_().sum(-1)
                normaliser[part] = top.squeeze(-1) + total.log()
                found[part] = chosen - top.squeeze(-1) - total.log()
                if any(ctx.needs_input_grad) and len(hidden) <= rows and softcap is None:
                    ctx.probabilities = logits.div_(total.unsqueeze(-1))
        ctx.save_for_backward(hidden, weight, bias, tokens, normaliser)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, tokens, normaliser = ctx.saved_tensors
        temperature, softcap, rows, dtype = ctx.settings
        (gradient,) = gradients
        wanted = ctx.needs_input_grad
        of_hidden = torch.empty_like(hidden) if wanted[0] else None
        # In bfloat16, a sum over several buffers would lose the small contributions.
        wide = weight.dtype if len(hidden) <= rows else normaliser.dtype
        of_weight = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
        of_bias = torch.zeros_like(bias) if bias is not None and wanted[2] else None
        projection = weight.to(dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for part in _parts(len(hidden), rows):
                states = hidden[part].to(dtype)
                share = gradient[part, None] / temperature
                slope = None
                if ctx.probabilities is not None:
                    logits = ctx.probabilities * -share
                else:
                    logits = _logits(states, projection, bias, softcap, normaliser.dtype)
                    if softcap is not None:
                        slope = 1 - (logits / softcap).square()
                    logits.div_(temperature).sub_(normaliser[part, None]).exp_().mul_(-share)
                logits.scatter_add_(-1, tokens[part, None], share)
                if slope is not None:
                    logits.mul_(slope)
                narrow = logits.to(dtype)
                if of_hidden is not None:
                    of_hidden[part] = narrow @ projection
                if of_weight is not None and of_weight.dtype == dtype:
                    of_weight.addmm_(narrow.t(), states)
                elif of_weight is not None:
                    of_weight += narrow.t() @ states
                if of_bias is not None:
                    of_bias += logits.sum(0)
        if of_weight is not None:
            of_weight = of_weight.to(weight.dtype)
        return of_hidden, of_weight, of_bias, None, None, None, None, None


def _logits(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    softcap: float | None,
    dtype: torch.dtype,
) -> Tensor:
    """A buffer [n, V] of logits, raised to `dtype` before anything is done with them."""
    own = None if bias is None else bias.to(weight.dtype)
    logits = functional.linear(hidden, weight, own).to(dtype)
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def _raised(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype == torch.float64 else torch.float32


def _parts(count: int, rows: int) -> Iterator[slice]:
    for first in range(0, count, rows):
        yield slice(first, first + rows)
