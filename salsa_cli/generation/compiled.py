"""Generation with a compiled decode step on a cache of fixed size, for CUDA.

One graph serves every token, so that the GPU does not wait for Python. Rows that ended stay in the
batch, as the graph's shapes are fixed; the prompts are padded to a multiple of BLOCK, so that few
batches need a graph of their own.

Not run on a GPU yet: tested on a CPU, where it is slower than the loop.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence

import torch

from salsa_cli.generation import caches, loop
from salsa_cli.generation.caches import FixedCache
from salsa_cli.generation.ways import draw
from salsa_cli.models import LanguageModel
from salsa_cli.passes import Module
from salsa_cli.tokens import Tokens, pad_left, position_ids

BLOCK = 64
"""Tokens that the width of the prompts is a multiple of."""


def suits(model: Module) -> bool:
    """Whether a model's decode step can be compiled as one graph."""
    return loop.suits(model) and bool(getattr(model, "_can_compile_fullgraph", False))


def generate(
    policy: LanguageModel,
    prompts: Sequence[Sequence[int]],
    uniforms: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Answers to prompts; see `ways.Generator`."""
    device, (count, length) = uniforms.device, uniforms.shape
    tokens = _padded(prompts, policy.pad_id).to(device)
    lengths = tokens.mask.sum(-1, keepdim=True)
    width = tokens.ids.shape[1]
    mask = torch.cat([tokens.mask, tokens.mask.new_ones(count, length)], dim=-1).long()
    cache = FixedCache(config=policy.model.config, max_cache_len=width + length)
    step = _compiled(policy.model)
    told = _told(policy.model, cache)
    ends = torch.tensor(policy.eos_ids, device=device)
    answers = torch.full((count, length), policy.pad_id, device=device)
    going = torch.ones(count, dtype=torch.bool, device=device)
    # The prompts are read as they come: another shape than the tokens', and only once.
    read = torch.arange(width, device=device)
    positions = position_ids(tokens.mask)
    logits = _logits(policy.model, tokens.ids, mask[:, :width], positions, told(read))
    for place in range(length):
        drawn = draw(logits, uniforms[:, place], temperature)
        answers[:, place] = drawn
        going &= ~torch.isin(drawn, ends)
        looks = (place + 1) % loop.CHECK_EVERY == 0
        if place + 1 == length or (looks and not bool(going.any())):
            break
        column = read[-1:] + place + 1
        logits = _logits(step, drawn.unsqueeze(-1), mask, lengths + place, told(column))
    return answers[:, : place + 1]


def _compiled(model: Module) -> Callable[..., object]:
    """The model's forward pass as a graph; the same one for the whole run."""
    compiled: Callable[..., object] = model.get_compiled_call(None)
    return compiled


def _told(model: Module, cache: FixedCache) -> Callable[[torch.Tensor], Mapping[str, object]]:
    """How a model is told the cache, and the columns of it that tokens go to.

    The first releases of Transformers 5 would count the keys that are not zero, and those of
    padding may be zero; later ones count by themselves, and have no such argument.
    """
    handed = caches.handed(model, cache)
    if "cache_position" in inspect.signature(model.forward).parameters:
        return lambda columns: {**handed, "cache_position": columns}
    return lambda columns: handed


def _padded(prompts: Sequence[Sequence[int]], pad: int) -> Tokens:
    """Prompts left-padded to a multiple of BLOCK."""
    tokens = pad_left(prompts, pad)
    more = (-tokens.ids.shape[1] % BLOCK, 0)
    return Tokens(
        torch.nn.functional.pad(tokens.ids, more, value=pad),
        torch.nn.functional.pad(tokens.mask, more, value=False),
    )


def _logits(
    forward: Callable[..., object],
    ids: torch.Tensor,
    mask: torch.Tensor,
    positions: torch.Tensor,
    more: Mapping[str, object],
) -> torch.Tensor:
    """Logits `[B, V]` of the last position."""
    output: Module = forward(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
        **more,
    )
    # A copy: the next replay of the graph writes over its output.
    logits: torch.Tensor = output.logits[:, -1].clone()
    return logits
