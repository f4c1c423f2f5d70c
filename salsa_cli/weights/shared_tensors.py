"""Tensors that models store differently though they mean the same: copies, buffers, prefixes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from salsa_cli.weights.layout import TensorSpec
from salsa_cli.weights.weight_files import PIECE, TensorReader, WeightFiles

# Buffers that old versions of transformers stored and newer ones compute: rotary frequencies and
# causal masks.
_COMPUTED = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias)")
# Tensors that models tie to one another, and may store once or several times.
_TIED = re.compile(
    r"(.*\.)?(shared|embed_tokens|wte|word_embeddings|embed_in|embeddings|lm_head|embed_out)\.weight"
    r"|(.*\.)?predictions\.decoder\.(weight|bias)|(.*\.)?predictions\.bias|(.*\.)?lm_head\.(decoder\.)?bias"
)
# What transformers may write before the names of the model inside a model with a head.
_PREFIXES = ("transformer.", "model.", "gpt_neox.", "bert.", "roberta.", "backbone.")

# Beginnings of names in models of text and images: before transformers 4.52, and since.
_LAYOUTS = (
    {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
        "image_newline": "model.image_newline",
    },
    {"model.": "model.language_model.", "visual.": "model.visual."},
)


def common_tensors(
    models: Sequence[WeightFiles],
) -> tuple[tuple[WeightFiles, ...], tuple[str, ...]]:
    """Give all models the tensors and names of the first where they mean the same.

    Names get or lose the prefix of the model inside (GPT-2 is stored with and without
    `transformer.`), or get those of another version of transformers. Tensors that only some models
    store and none needs are dropped: buffers that newer versions compute, and copies of tensors to
    which the other models tie them. Returns the models and notes on what was dropped.

    Raises:
        SalsaError: a file cannot be read.
    """
    models = [models[0], *(_with_names_of(models[0], other) for other in models[1:])]
    notes = []
    spare = set()
    names = dict.fromkeys(name for one in models for name in one.tensors)
    common = [name for name in names if all(name in one.tensors for one in models)]
    for name in names:
        holders = [one for one in models if name in one.tensors]
        if len(holders) == len(models):
            continue
        if _is_computed(holders[0].tensors[name]):
            spare.add(name)
            notes.append(f"{name} is left out: only some of the models store it, and none needs it")
        elif _TIED.fullmatch(name) and (source := _source(name, holders, common)):
            spare.add(name)
            notes.append(
                f"{name} is left out: it equals {source}, to which "
                f"{len(models) - len(holders)} of the models tie it"
            )
    kept = tuple(
        replace(one, tensors={name: s for name, s in one.tensors.items() if name not in spare})
        for one in models
    )
    return kept, tuple(notes)


def _with_names_of(first: WeightFiles, other: WeightFiles) -> WeightFiles:
    """The other model with the prefix that the first has, or without the one that it has not."""
    if first.tensors.keys() == other.tensors.keys():
        return other
    for layout in _LAYOUTS:
        for begins in (layout, {new: old for old, new in layout.items()}):
            names = {name: _with_beginning(name, begins) for name in other.tensors}
            if set(names.values()) == first.tensors.keys():
                return replace(other, tensors=_with_names(other, names))
    for prefix in _PREFIXES:
        for renamed in (_prefixed(first, other, prefix), _stripped(first, other, prefix)):
            if renamed is not None:
                return replace(other, tensors=renamed)
    return other


def _with_beginning(name: str, begins: Mapping[str, str]) -> str:
    old = next((old for old in begins if name.startswith(old)), "")
    return begins[old] + name.removeprefix(old) if old else name


def _prefixed(
    first: WeightFiles, other: WeightFiles, prefix: str
) -> Mapping[str, TensorSpec] | None:
    """The tensors with a prefix, if none has it yet and most are then those of the first."""
    if any(name.startswith(prefix) for name in other.tensors):
        return None
    return _renamed(
        first, other, {n: prefix + n for n in other.tensors if prefix + n in first.tensors}
    )


def _stripped(
    first: WeightFiles, other: WeightFiles, prefix: str
) -> Mapping[str, TensorSpec] | None:
    """The tensors without a prefix, if the first has none and most are then its own."""
    if any(name.startswith(prefix) for name in first.tensors):
        return None
    inside = {n: n.removeprefix(prefix) for n in other.tensors if n.startswith(prefix)}
    return _renamed(first, other, {n: new for n, new in inside.items() if new in first.tensors})


def _renamed(
    first: WeightFiles, other: WeightFiles, names: Mapping[str, str]
) -> Mapping[str, TensorSpec] | None:
    if 2 * len(names) < len(first.tensors):
        return None
    return _with_names(other, names)


def _with_names(weights: WeightFiles, names: Mapping[str, str]) -> Mapping[str, TensorSpec]:
    return {
        names.get(name, name): replace(spec, name=names.get(name, name))
        for name, spec in weights.tensors.items()
    }


def _is_computed(spec: TensorSpec) -> bool:
    """A mask is [1, 1, n, n] or a single number; a bias of that name would be a vector."""
    return _COMPUTED.fullmatch(spec.name) is not None and (
        spec.name.endswith("inv_freq") or len(spec.shape) != 1
    )


def _source(name: str, holders: Sequence[WeightFiles], common: Sequence[str]) -> str | None:
    """The tensor, stored by all models, of which this one is a copy in all that store it."""
    for candidate in common:
        if _TIED.fullmatch(candidate) and all(are_equal(one, name, candidate) for one in holders):
            return candidate
    return None


def are_equal(weights: WeightFiles, name: str, other: str) -> bool:
    """Whether two tensors of a model hold the same bytes."""
    a, b = weights.tensors[name], weights.tensors[other]
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    with TensorReader() as one, TensorReader() as two:
        return all(
            np.array_equal(
                one.read(a, begin, count := min(PIECE, a.elements - begin)),
                two.read(b, begin, count),
            )
            for begin in range(0, a.elements, PIECE)
        )
