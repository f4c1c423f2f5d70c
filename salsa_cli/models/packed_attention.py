"""Packed sequences: rows concatenated into one row, so that only attention sees padding.

Linear layers, norms and activations of a transformer treat every token independently, so rows of
any length can be concatenated. Only attention needs to know where a row ends: it pads the rows
again, in blocks of similar length. A model is packed if a trial shows that its rows do not affect
one another; all other models get padded rows.

Only on CPUs: it was not measured on GPUs.
"""

from contextlib import AbstractContextManager
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from salsa_cli.models.attention import (
    UnsupportedAttentionError,
    body,
    require_plain_attention,
    use_attention,
)
from salsa_cli.models.lm_head import Module
from salsa_cli.models.sequences import Packed, Sequences

NAME = "salsa-packed"
"""Name of this attention in the configuration of a model."""

_PROBE = (5, 3, 4)  # tokens of the rows of the trial, of which the first ones are the prompt

_checked: WeakKeyDictionary[Module, bool] = WeakKeyDictionary()


def can_pack(model: Module) -> bool:
    """Whether a causal model computes the same of packed rows as of padded ones.

    A trial tells, once for every model.
    """
    if model not in _checked:
        on_cpu = next(model.parameters()).device.type == "cpu"
        _checked[model] = on_cpu and _agrees(model)
    return _checked[model]


def copy_trial_result(copy: Module, model: Module) -> None:
    """Use the trial of `model` for a copy of it, whose weights may be sharded later."""
    _checked[copy] = can_pack(model)


def hidden_states(model: Module, packed: Packed) -> torch.Tensor:
    """Final hidden states `[N, H]` of packed rows."""
    with attention(model):
        hidden: torch.Tensor = body(model)(
            input_ids=packed.ids.unsqueeze(0),
            position_ids=packed.positions.unsqueeze(0),
            use_cache=False,
            packed=packed,
        ).last_hidden_state
    return hidden[0]


def attention(model: Module) -> AbstractContextManager[None]:
    """Context manager: a model reads packed rows, also in passes that recompute activations."""
    return use_attention(model, NAME)


def _attend(
    module: Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packed: Packed,
    scaling: float | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row: `[1, N, H, D]`; the interface of transformers.

    Args:
        query: `[1, H, N, D]`.
        key: `[1, K, N, D]`, where K divides H.
        value: `[1, K, N, D]`.
    """
    if attention_mask is not None:
        raise UnsupportedAttentionError
    require_plain_attention(more)
    heads, groups = query.shape[1], key.shape[1]
    states = torch.cat([one[0].transpose(0, 1) for one in (query, key, value)], dim=1)
    padded = states.index_select(0, packed.padded)
    blocks = torch.split(padded, [rows * width for rows, width in packed.blocks])
    found = []
    for block, (rows, width) in zip(blocks, packed.blocks, strict=True):
        parts = block.view(rows, width, -1, block.shape[-1]).transpose(1, 2)
        asked, held, valued = torch.split(parts, [heads, groups, groups], dim=1)
        answers = scaled_dot_product_attention(
            asked, held, valued, is_causal=True, scale=scaling, enable_gqa=heads != groups
        )
        found.append(answers.transpose(1, 2).flatten(0, 1))
    return torch.cat(found).index_select(0, packed.real).unsqueeze(0), None


AttentionInterface.register(NAME, _attend)


def stay_uncompiled() -> None:
    """Exclude this attention from compilation: every new padding would recompile it."""
    AttentionInterface.register(NAME, torch.compiler.disable(_attend))  # type: ignore[no-untyped-call]


@torch.no_grad()
def _agrees(model: Module) -> bool:
    """Whether the hidden states of a few rows are those of each row alone."""
    device = next(model.parameters()).device
    lengths = torch.tensor(_PROBE)
    count = min(int(lengths.sum()), model.config.get_text_config().vocab_size)
    ids = torch.arange(len(lengths) * max(_PROBE), device=device).view(len(lengths), -1) % count
    rows = Sequences(ids, ids[:, 1:], torch.ones_like(lengths), lengths - 1)
    try:
        ours = hidden_states(model, rows.packed())
    except (UnsupportedAttentionError, TypeError):
        return False
    alone = [
        body(model)(input_ids=row[None, :n], use_cache=False)
        for row, n in zip(ids, _PROBE, strict=True)
    ]
    theirs = torch.cat([output.last_hidden_state[0] for output in alone])
    rounding = 16 * torch.finfo(theirs.dtype).eps * theirs.abs().max()
    return bool(((ours - theirs).abs() <= rounding + 1e-6).all())
