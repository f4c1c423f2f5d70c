"""Sizes, data types and lengths of a model, read from its config.json."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from salsa_cli.errors import SalsaError
from salsa_cli.models import assembly
from salsa_cli.records import read_json
from salsa_cli.weights import folders, weight_files

_POSITION_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?|positions_embed)\.")
"""Names of the weights of learned positions."""

_COMPUTED_TABLES = ("gptj", "codegen")
"""Models that compute a table of positions when they are built, and store none."""


_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
"""Data types by their names in safetensors files."""


@dataclass(frozen=True)
class Shape:
    """The widths of a transformer, in values per token.

    Attributes:
        hidden: the residual stream.
        heads, keys: all queries, and all keys (or values).
        inner: the hidden layer of the feed-forward block.
    """

    layers: int
    hidden: int
    heads: int
    keys: int
    inner: int
    vocabulary: int


def context_length(folder: Path) -> int | None:
    """The most tokens that a model can read; None where its configuration does not say."""
    limit = getattr(text_config(folder), "max_position_embeddings", None)
    return int(limit) if limit else None


def other_kind(folder: Path) -> str | None:
    """What a model is that is no causal language model, by its config.json; None for one."""
    settings = read_json(folder / "config.json")
    named = settings.get("architectures")
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if isinstance(named, list) and named:
        kind = str(named[0])
        is_causal = kind in known.values() or kind.endswith(("ForCausalLM", "LMHeadModel"))
    else:
        kind = str(settings.get("model_type"))
        is_causal = kind in known
    return None if is_causal or "auto_map" in settings else kind


def position_limit(folder: Path) -> int | None:
    """The most tokens that a model can read at all; None where positions have no table.

    A learned table, or a precomputed one, has a last row: reading on is an error. Rotary positions
    go on beyond the length of their training.
    """
    names = weight_files.open_weight_files(folders.base(folder)).tensors
    kind = getattr(text_config(folder), "model_type", "")
    if any(_POSITION_TABLE.search(name) for name in names) or kind in _COMPUTED_TABLES:
        return context_length(folder)
    return None


@dataclass(frozen=True)
class RotarySwitch:
    """A length beyond which rotary frequencies are others, for a batch as a whole.

    Transformers chooses them by the longest row of a batch (`dynamic_rope_update`), so that what a
    model computes of one row depends on the other rows of its batch.

    Attributes:
        kind: `rope_type`: "longrope" has frequencies for batches up to `length` tokens and for
            longer ones; those of "dynamic" change with every token beyond `length`.
        length: in tokens.
    """

    kind: str
    length: int

    def separates(self, shortest: int, longest: int) -> bool:
        """Whether rows of these lengths, and between them, are read with several frequencies."""
        return longest > self.length and (shortest <= self.length or self.kind == "dynamic")


def rotary_switches(folder: Path) -> tuple[RotarySwitch, ...]:
    """The lengths at which the rotary frequencies of a model change; of most there is none.

    Layers of several types may have rotary parameters of their own.
    """
    config = text_config(folder)
    given = getattr(config, "rope_parameters", None) or {}
    nested = [one for one in given.values() if isinstance(one, dict) and "rope_type" in one]
    context: Any = getattr(config, "max_position_embeddings", None)
    found = []
    for one in nested or [given]:
        if one.get("rope_type") == "longrope":
            length = one.get("original_max_position_embeddings") or context
            found.append(RotarySwitch("longrope", int(length)))
        elif one.get("rope_type") == "dynamic":  # of which transformers takes no other length
            found.append(RotarySwitch("dynamic", int(context)))
    return tuple(dict.fromkeys(found))


def vocabulary_size(folder: Path) -> int:
    """The number of logits of a model, from its configuration."""
    return int(text_config(folder).vocab_size)


def stored_dtype(folder: Path) -> torch.dtype:
    """The data type that most of a model's weights are stored in, from the headers of its files.

    That of its configuration where most are no floating-point numbers (quantised weights). What
    the configuration says is not always true of the files: trainers write one and not the other.
    """
    elements: Counter[str] = Counter()
    for spec in weight_files.open_weight_files(folders.base(folder)).tensors.values():
        elements[spec.dtype] += spec.elements
    most = elements.most_common(1)[0][0] if elements else ""
    return _FLOATS.get(most) or _declared_dtype(folder)


def dtype_note(folder: Path) -> str | None:
    """What to say where configuration and files disagree on the data type of the weights."""
    declared, stored = _declared_dtype(folder), stored_dtype(folder)
    if declared == stored or getattr(text_config(folder), "dtype", None) is None:
        return None
    names = [str(dtype).removeprefix("torch.") for dtype in (declared, stored)]
    return (
        f"{folder}: config.json declares {names[0]}, but the weights are {names[1]}; the result is "
        f"written as {names[1]}"
    )


def _declared_dtype(folder: Path) -> torch.dtype:
    dtype = getattr(text_config(folder), "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def shape(folder: Path) -> Shape:
    """Depth and widths of a model, from its configuration.

    Raises:
        SalsaError: it has no attention heads, or layers of several widths.
    """
    config = text_config(folder)
    try:
        hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
        head = int(getattr(config, "head_dim", None) or hidden // heads)
        return Shape(
            layers=int(config.num_hidden_layers),
            hidden=hidden,
            heads=heads * head,
            keys=int(getattr(config, "num_key_value_heads", None) or heads) * head,
            inner=int(getattr(config, "intermediate_size", None) or 4 * hidden),
            vocabulary=int(config.vocab_size),
        )
    except Exception as error:  # transformers has an error class of its own for per-layer widths
        raise SalsaError(
            f"{folder}: a {config.model_type} model has no attention heads, or layers of several "
            f"widths ({assembly.first_line(error)})"
        ) from error


def text_config(folder: Path) -> Any:
    try:
        config = AutoConfig.from_pretrained(folders.base(folder), trust_remote_code=False)
        return config.get_text_config()
    except Exception as error:
        raise SalsaError(
            f"{folder}: config.json cannot be used ({assembly.first_line(error)})"
        ) from error
