"""Distances of the weights of two models by group of layers, streamed from their files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from salsa_cli.evaluation.probe_result import LayerGroup, StoredDistance
from salsa_cli.maths.averaging import FLOATS, widen
from salsa_cli.weights.layout import TensorSpec
from salsa_cli.weights.weight_files import PIECE, TensorReader, WeightFiles

_LAYER = re.compile(r"\.(\d+)\.")
_KINDS = (
    ("norms", re.compile(r"norm|(^|\.)ln_|layernorm", re.I)),
    ("attention", re.compile(r"attn|attention|mixer|mamba|[qkv]_proj|query_key_value", re.I)),
    ("MLP", re.compile(r"mlp|feed_forward|ffn|expert|fc\d|dense", re.I)),
)
_EMBEDDING = re.compile(r"embed|wte|wpe", re.I)
_PARTS = ("first", "middle", "last")
_MOST_UNITS = 1 << 16


@dataclass
class _Sums:
    """Sums over the elements of a group, in float64."""

    parameters: int = 0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    dd: float = 0.0
    changes: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])


def distances(
    a: WeightFiles, b: WeightFiles, base: WeightFiles | None
) -> tuple[tuple[LayerGroup, ...], StoredDistance]:
    """Cosines and relative distances by group, with all weights as the last group.

    The models have the same tensors. Memory is that of a few pieces.
    """
    layers = 1 + max((layer for name in a.tensors if (layer := _layer(name)) >= 0), default=0)
    sums: dict[str, _Sums] = {}
    units = np.zeros(_MOST_UNITS + 1, np.int64)
    with TensorReader() as one, TensorReader() as two, TensorReader() as three:
        for name, spec in a.tensors.items():
            if spec.dtype not in FLOATS or b.tensors[name].dtype not in FLOATS:
                continue
            group = sums.setdefault(group_of(name, layers), _Sums())
            origin = None if base is None else base.tensors.get(name)
            for begin in range(0, spec.elements, PIECE):
                count = min(PIECE, spec.elements - begin)
                ours = one.read(spec, begin, count)
                theirs = two.read(b.tensors[name], begin, count)
                _count_units(units, spec, b.tensors[name], ours, theirs)
                x, y = widen(ours, spec.dtype), widen(theirs, b.tensors[name].dtype)
                _add(group, x, y)
                if origin is not None and origin.shape == spec.shape:
                    z = widen(three.read(origin, begin, count), origin.dtype)
                    _add_changes(group, x - z, y - z)
    ordered = sorted(sums.items(), key=lambda item: _order(item[0]))
    everything = _total([group for _, group in ordered])
    found = [_group(name, group, base is not None) for name, group in ordered]
    dtypes = {spec.dtype for one in (a, b) for spec in one.tensors.values() if spec.elements > 1}
    dtype = next(iter(dtypes)) if len(dtypes) == 1 else "mixed"
    return (*found, _group("all", everything, base is not None)), _stored(dtype, units)


def group_of(name: str, layers: int) -> str:
    """The group of a tensor: embeddings, head, norms, or a kind of layer by third of the depth.

    Of one or two `layers` each is a part.
    """
    layer = _layer(name)
    kind = next((kind for kind, pattern in _KINDS if pattern.search(name)), "other")
    if kind == "norms":
        return kind
    if layer < 0:
        if re.search(r"lm_head|embed_out|score", name):
            return "head"
        return "embeddings" if _EMBEDDING.search(name) else kind
    if layers < len(_PARTS):
        return f"{kind}, layer {layer}"
    return f"{kind}, {_PARTS[3 * layer // layers]} third"


def _layer(name: str) -> int:
    match = _LAYER.search(name)
    return int(match[1]) if match else -1


def _order(name: str) -> tuple[int, str, int]:
    kind, _, part = name.partition(", ")
    rank = ["embeddings", "attention", "MLP", "other", "norms", "head"]
    words = (*_PARTS, "layer 0", "layer 1")
    place = next((place for place, word in enumerate(words) if part.startswith(word)), 0)
    return rank.index(kind) if kind in rank else len(rank), kind, place


def _add(group: _Sums, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> None:
    group.parameters += x.size
    group.aa += float(x @ x)
    group.bb += float(y @ y)
    group.ab += float(x @ y)
    difference = y - x
    group.dd += float(difference @ difference)


def _add_changes(group: _Sums, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> None:
    for place, (u, v) in enumerate(((x, x), (y, y), (x, y))):
        group.changes[place] += float(u @ v)


def _total(groups: Sequence[_Sums]) -> _Sums:
    found = _Sums()
    for one in groups:
        found.parameters += one.parameters
        found.aa, found.bb = found.aa + one.aa, found.bb + one.bb
        found.ab, found.dd = found.ab + one.ab, found.dd + one.dd
        found.changes = [x + y for x, y in zip(found.changes, one.changes, strict=True)]
    return found


def _group(name: str, sums: _Sums, has_base: bool) -> LayerGroup:
    ours, theirs, both = sums.changes
    return LayerGroup(
        name,
        sums.parameters,
        _cosine(sums.ab, sums.aa, sums.bb),
        (sums.dd / sums.aa) ** 0.5 if sums.aa else 0.0,
        _cosine(both, ours, theirs) if has_base else None,
    )


def _cosine(product: float, first: float, second: float) -> float:
    return product / (first * second) ** 0.5 if first and second else 0.0


def _count_units(
    units: npt.NDArray[np.int64], spec: TensorSpec, other: TensorSpec, a: Any, b: Any
) -> None:
    """Count how many stored numbers each pair is apart; only 16-bit types have few in between."""
    if spec.dtype != other.dtype or spec.dtype not in ("BF16", "F16"):
        return
    apart = np.abs(_places(a) - _places(b))
    units += np.bincount(np.minimum(apart, _MOST_UNITS), minlength=units.size)


def _places(bits: Any) -> npt.NDArray[np.int64]:
    """The places of 16-bit floats in the order of all of them; both zeros are at 0."""
    words = bits.view(np.uint16).astype(np.int64)
    magnitude = words & 0x7FFF
    found: npt.NDArray[np.int64] = np.where(words & 0x8000, -magnitude, magnitude)
    return found


def _stored(dtype: str, units: npt.NDArray[np.int64]) -> StoredDistance:
    total = int(units.sum())
    if not total:
        return StoredDistance(dtype, 0.0, 0.0, 0.0)
    apart = units.copy()
    apart[0] = 0
    half = apart.sum() / 2
    median = int(np.searchsorted(np.cumsum(apart), half)) if half else 0
    return StoredDistance(dtype, int(units[0]) / total, int(units[1]) / total, float(median))
