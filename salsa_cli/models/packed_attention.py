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
    require_plain_attention,
    use_attention,
)
from salsa_cli.models.backbones import with_shared_tensors
from salsa_cli.models.lm_head import Module, body
from salsa_cli.models.sequences import Packed, Sequences

NAME = "salsa-packed"
"""Name of this attention in the configuration of a model."""

_PROBE = (40, 3, 17)  # tokens of the rows of a trial; a part of a row is the prompt

_SMALL_WINDOW = 5
"""Tokens of a window in a trial: real windows are longer than any row that is worth a trial."""

_checked: WeakKeyDictionary[Module, str | None] = WeakKeyDictionary()


def can_pack(model: Module) -> bool:
    """Whether a causal model computes the same of packed rows as of padded ones.

    A trial tells, once for every model.
    """
    return _reason(model) is None


def padding_note(model: Module) -> str | None:
    """Why the rows of a model are padded and not packed, in one line; None where they are packed.

    None on a GPU too, where no rows are packed.
    """
    return _reason(model) or None


def _reason(model: Module) -> str | None:
    """Why a model is not packed, None if it is; empty where that goes without saying."""
    if model not in _checked:
        on_cpu = next(model.parameters()).device.type == "cpu"
        _checked[model] = _trial(model) if on_cpu else ""
    return _checked[model]


def copy_trial_result(copy: Module, model: Module) -> None:
    """Use the trial of `model` for a copy of it, whose weights may be sharded later."""
    _checked[copy] = _reason(model)


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


def _trial(model: Module) -> str | None:
    """Why packed rows of a model are not those of each row alone; None if they are.

    Whatever goes wrong with a model means that it is not packed.
    """
    name = type(model).__name__
    try:
        if not _agrees(model):
            return f"{name}: packed rows would change its results, so rows are padded"
        if (narrowed := _with_small_windows(model)) is not None and not _agrees(narrowed):
            return f"{name}: packed rows would lose its attention window, so rows are padded"
    except UnsupportedAttentionError:
        return f"{name}: its attention does not support packed rows, so rows are padded"
    except Exception:  # models of any family run here, and fail in ways of their own
        return f"{name}: it cannot process several rows as one packed sequence, so rows are padded"
    return None


def _with_small_windows(model: Module) -> Module | None:
    """A copy with the same tensors whose windows are shorter than the rows of a trial.

    None if nothing in the model looks like a window of attention.
    """
    if not _windows(model):
        return None
    copied = with_shared_tensors(model)
    for place, name, value in _windows(copied):
        setattr(place, name, min(value, _SMALL_WINDOW))
    return copied


def _windows(model: Module) -> list[tuple[object, str, int]]:
    """What in a model looks like a window of attention: where, its name and its width."""
    places = (model.config.get_text_config(), model.config, *model.modules())
    return [
        (place, name, value)
        for place in places
        for name, value in vars(place).items()
        if _is_window(name) and isinstance(value, int) and value > 1
    ]


def _is_window(name: str) -> bool:
    """Whether an attribute of a model is the width of a window, going by its name."""
    if "layers" in name or "pattern" in name:
        return False
    return "window" in name or "local_attention" in name or "attention_chunk" in name


@torch.no_grad()
def _agrees(model: Module) -> bool:
    """Whether the hidden states of a few rows are those of each row alone."""
    device = next(model.parameters()).device
    config = model.config.get_text_config()
    most = getattr(config, "max_position_embeddings", None) or max(_PROBE)
    widths = [min(width, most) for width in _PROBE]
    lengths = torch.tensor(widths)
    count = min(int(lengths.sum()), config.vocab_size)
    ids = torch.arange(len(widths) * max(widths), device=device).view(len(widths), -1) % count
    rows = Sequences(ids, ids[:, 1:], torch.ones_like(lengths), lengths - 1)
    ours = hidden_states(model, rows.packed())
    alone = [
        body(model)(input_ids=row[None, :n], use_cache=False)
        for row, n in zip(ids, widths, strict=True)
    ]
    theirs = torch.cat([output.last_hidden_state[0] for output in alone])
    rounding = 16 * torch.finfo(theirs.dtype).eps * theirs.abs().max()
    return bool(((ours - theirs).abs() <= rounding + 1e-6).all())
