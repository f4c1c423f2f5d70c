"""LoRA adapters: reading them, and the exact weighted sum of several as one adapter.

A module's update is s B A, with A [r, in], B [out, r] and s = lora_alpha / r (Hu et al. 2021), or
lora_alpha / sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023). The weighted sum of updates has
the same form, and its rank is the sum of the ranks: the A stacked, the scaled B concatenated,

    sum_i w_i s_i B_i A_i = [w_1 s_1 B_1, w_2 s_2 B_2, ...] [A_1; A_2; ...].

Averaging the A and the B separately is not the same: it adds cross terms B_i A_j.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard

from salsa_cli.errors import SalsaError, during, one_line
from salsa_cli.maths.averaging import FLOATS
from salsa_cli.records import JSON, read_json
from salsa_cli.weights.folders import ADAPTER_CONFIG
from salsa_cli.weights.layout import NewTensor, TensorSpec
from salsa_cli.weights.weight_files import WeightFiles, differences, open_adapter_weights

PREFIX = "base_model.model."
_FACTOR = re.compile(
    r"(?P<module>.+)\.(?P<kind>lora_(embedding_)?)(?P<side>[AB])(\.(?!weight$|bias$)[\w.-]+?)?(?P<end>\.weight)?"
)
_LORA = re.compile(r"\.lora_\w+(\.[\w.-]+)?$")
# What the state of a module in memory has and a file saved by peft has not.
_LIVE = re.compile(r"\.modules_to_save\.\w+(?=\.)")
_ORIGINAL = ".original_module."

_COPY = ".base_layer."

# Variants of LoRA whose update is not s B A of a single weight matrix.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "lora_bias",
    "target_parameters",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "arrow_config",
)
# Initialisations that change the base model as well.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_MUST_AGREE = ("task_type", "bias", "fan_in_fan_out")

Side = Literal["A", "B"]


@dataclass(frozen=True)
class Factors:
    """The two factors of a module's update [out, in], and the scale of their product.

    The weight of a `transposed` module is [in, out]: embeddings, and GPT-2's Conv1D.
    """

    a: TensorSpec
    b: TensorSpec
    scale: float
    transposed: bool

    @property
    def rank(self) -> int:
        """Rows of A, columns of B."""
        return self.a.shape[0]

    def fit(self, shape: tuple[int, ...]) -> bool:
        """Whether a weight of this shape can take the update."""
        rows, columns = self.b.shape[0], math.prod(self.a.shape[1:])
        if self.transposed:
            return shape == (columns, rows)
        return shape[:1] == (rows,) and math.prod(shape[1:]) == columns


@dataclass(frozen=True)
class Adapter:
    """One adapter: factors by module name, and tensors stored in full (`others`)."""

    folder: Path
    config: Mapping[str, Any]
    weights: WeightFiles
    factors: Mapping[str, Factors]
    others: Mapping[str, TensorSpec]


@dataclass(frozen=True)
class FactorSum:
    """One factor of a module's summed update: the adapters' tensors and their multipliers.

    `parts` are in the order of the adapters.
    """

    side: Side
    parts: tuple[tuple[TensorSpec, float], ...]


@dataclass(frozen=True)
class AdapterSum:
    """The weighted sum of adapters as one adapter.

    `factors` says for each low-rank tensor what it is made of; all other tensors are averages.
    """

    config: Mapping[str, JSON]
    tensors: tuple[NewTensor, ...]
    factors: Mapping[str, FactorSum] = field(repr=False)


def open_adapter(folder: Path) -> Adapter:
    """Read an adapter's configuration and headers.

    Raises:
        SalsaError: it is no LoRA adapter, of a kind that is more than updates s B A, or its files
            contradict one another; all reasons at once.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    if reasons := list(_refusals(config)):
        listed = "\n".join(f"  - {reason}" for reason in reasons)
        raise SalsaError(
            f"{folder}: this adapter is not supported; merge it into its base with the tool that "
            f"created it, and pass the merged model:\n{listed}"
        )
    weights = open_adapter_weights(folder)
    sides: dict[str, dict[str, TensorSpec]] = {}
    others: dict[str, TensorSpec] = {}
    for name, spec in weights.tensors.items():
        if match := _FACTOR.fullmatch(name):
            module, side = match["module"], match["side"]
            if side in sides.setdefault(module, {}):
                raise SalsaError(
                    f"{folder}: {one_line(module)} has several factors lora_{side}; expected the "
                    "weights of one adapter"
                )
            plain = f"{module}.{match['kind']}{side}{match['end'] or ''}"
            sides[module][side] = replace(spec, name=plain)
        elif _LORA.search(name):
            raise SalsaError(
                f"{folder}: {one_line(name)} belongs to a LoRA variant with more than the factors "
                "A and B (DoRA, biases); merge the adapter into its base with the tool that "
                "created it, and pass the merged model"
            )
        elif _ORIGINAL not in name:
            plain = _LIVE.sub("", name)
            others[plain] = replace(spec, name=plain)
    factors = {
        module: _factors(folder, module, pair, config) for module, pair in sorted(sides.items())
    }
    if not factors:
        raise SalsaError(
            f"{folder}: no LoRA factors found in its weights; expected tensor names like lora_A"
        )
    return Adapter(folder, config, weights, factors, others)


def without_copies(adapters: Sequence[Adapter]) -> tuple[Adapter, ...]:
    """Drop copies of base weights that only some of the adapters store.

    peft saves an embedding layer along with its adapter.
    """
    spare = {
        name
        for one in adapters
        for name in one.others
        if _COPY in name and not all(name in other.others for other in adapters)
    }
    return tuple(
        replace(one, others={name: s for name, s in one.others.items() if name not in spare})
        for one in adapters
    )


def base_names(adapters: Iterable[Adapter]) -> tuple[str | None, ...]:
    """The bases that the adapters name, each once and in one spelling; None for none."""
    return tuple(dict.fromkeys(_base(one)[0] for one in adapters))


def disagreements(adapters: Sequence[Adapter], base_is_told: bool = False) -> tuple[str, ...]:
    """Why adapters cannot be summed, one line each: other bases, shapes or full tensors.

    `base_is_told` if the user says which base all of them are for.
    """
    first = adapters[0]
    found = [
        f"{ADAPTER_CONFIG} {key}: {first.config.get(key)!r} in {first.folder}, "
        f"{other.config.get(key)!r} in {other.folder}"
        for other in adapters[1:]
        for key in _MUST_AGREE
        if _setting(first, key) != _setting(other, key)
        and not (key == "task_type" and None in (_setting(first, key), _setting(other, key)))
    ]
    if not base_is_told:
        found += [
            f"{ADAPTER_CONFIG} base_model_name_or_path: {_shown(first)} in {first.folder}, "
            f"{_shown(other)} in {other.folder} (if both name the same base, give it: --base BASE, "
            "or --merge-into BASE)"
            for other in adapters[1:]
            if _base(first) != _base(other)
        ]
    for module in _modules(adapters):
        shapes = {_shape(one.factors[module]) for one in adapters if module in one.factors}
        if len(shapes) > 1:
            listed = " and ".join(str(list(shape)) for shape in sorted(shapes))
            found.append(f"{module}: updates of shape {listed}")
    wholes = [WeightFiles(one.folder, one.others, {}, one.weights.files) for one in adapters]
    return (*found, *differences(wholes))


def add_up(adapters: Sequence[Adapter], mixing: Sequence[float], dtype: str | None) -> AdapterSum:
    """The sum of the adapters' updates, times `mixing`, as one adapter.

    The scales go into B, so that the scale of the sum is 1 (lora_alpha = r). Adapters of weight 0
    are left out. `dtype` applies to all tensors; by default each keeps the dtype it has in the
    first adapter that has it.
    """
    tensors: list[NewTensor] = []
    factors: dict[str, FactorSum] = {}
    ranks: dict[str, int] = {}
    taking_part = [(one, weight) for one, weight in zip(adapters, mixing, strict=True) if weight]
    for module in _modules([one for one, _ in taking_part]):
        parts = [
            (one.factors[module], weight) for one, weight in taking_part if module in one.factors
        ]
        ranks[module] = rank = sum(part.rank for part, _ in parts)
        first = parts[0][0]
        sums = {
            first.a: FactorSum("A", tuple((part.a, 1.0) for part, _ in parts)),
            first.b: FactorSum("B", tuple((part.b, weight * part.scale) for part, weight in parts)),
        }
        for spec, total in sums.items():
            shape = (rank, *spec.shape[1:])
            if total.side == "B":
                shape = (spec.shape[0], rank, *spec.shape[2:])
            tensors.append(NewTensor(spec.name, _dtype(spec, dtype), shape))
            factors[spec.name] = total
    tensors += [
        NewTensor(spec.name, _dtype(spec, dtype), spec.shape)
        for spec in adapters[0].others.values()
    ]
    return AdapterSum(_sum_config(taking_part[0][0], ranks, adapters), tuple(tensors), factors)


def module_of(tensor: str, factors: Iterable[str]) -> str | None:
    """The adapter's module for the tensor `tensor` of a base model; None if there is none.

    Some base models are stored without the first part of the name (`transformer.`, `model.`).
    """
    module = PREFIX + tensor.removesuffix(".weight")
    known = set(factors)
    if module in known:
        return module
    ending = "." + tensor.removesuffix(".weight")
    candidates = [
        name for name in known if name.endswith(ending) and name.count(".") == module.count(".") + 1
    ]
    return candidates[0] if len(candidates) == 1 else None


def base_name(tensor: str) -> str:
    """The base model's name of a tensor that an adapter stores in full."""
    return tensor.removeprefix(PREFIX).replace(_COPY, ".")


def _refusals(config: Mapping[str, Any]) -> Iterable[str]:
    if config.get("peft_type") != "LORA":
        yield f"peft_type is {config.get('peft_type')!r}; expected 'LORA'"
    for key in _UNSUPPORTED:
        if config.get(key):
            yield f"{key} is {one_line(repr(config[key]))}"
    begun = str(config.get("init_lora_weights"))
    if begun.lower().startswith(_CHANGES_BASE):
        yield f"init_lora_weights is {begun!r}, which changes the base model too"


def _factors(
    folder: Path, module: str, pair: Mapping[str, TensorSpec], config: Mapping[str, Any]
) -> Factors:
    if pair.keys() != {"A", "B"}:
        raise SalsaError(f"{folder}: {one_line(module)} has one LoRA factor; expected both")
    a, b = pair["A"], pair["B"]
    name = module.removeprefix(PREFIX)
    with during(str(folder)):
        rank = _by_pattern(config.get("rank_pattern"), name, config.get("r"))
        alpha = _by_pattern(config.get("alpha_pattern"), name, config.get("lora_alpha"))
    columns = math.prod(b.shape[1:])
    if min(len(a.shape), len(b.shape)) < 2 or a.shape[0] != columns or b.shape[1] != columns:
        raise SalsaError(
            f"{folder}: {one_line(module)} has factors of shape {list(a.shape)} and "
            f"{list(b.shape)}; expected [r, in] and [out, r]"
        )
    if not isinstance(rank, int) or not _is_finite(alpha) or rank != columns:
        raise SalsaError(
            f"{folder}: {one_line(module)} has rank {columns}, but {ADAPTER_CONFIG} says "
            f"r = {one_line(repr(rank))}, lora_alpha = {one_line(repr(alpha))} for it"
        )
    if {a.dtype, b.dtype} - FLOATS:
        raise SalsaError(f"{folder}: {one_line(module)} is of type {a.dtype}; expected floats")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    transposed = bool(config.get("fan_in_fan_out")) or "lora_embedding_" in a.name
    return Factors(a, b, scale, transposed)


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _setting(adapter: Adapter, key: str) -> object:
    """A setting, an absent one as peft reads it."""
    return adapter.config.get(key) or {"bias": "none", "fan_in_fan_out": False}.get(key)


def _base(adapter: Adapter) -> tuple[str | None, str]:
    """Name and revision of the base; a local folder by where it is."""
    name = adapter.config.get("base_model_name_or_path") or None
    revision = adapter.config.get("revision") or "main"
    if not isinstance(name, str):
        return None, str(revision)
    places = (Path(name), adapter.folder.parent / name, adapter.folder / name)
    local = next((place for place in places if place.is_dir()), None)
    return (name.rstrip("/") if local is None else str(local.resolve())), str(revision)


def _shown(adapter: Adapter) -> str:
    name, revision = _base(adapter)
    return repr(name) if revision == "main" else f"{name!r} (revision {revision})"


def _by_pattern(patterns: object, name: str, default: object) -> object:
    """peft's rule: the value of the first pattern that matches the end of the module's name."""
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", name)
        except re.error as error:
            raise SalsaError(
                f"{ADAPTER_CONFIG} contains the pattern {one_line(repr(pattern))}, which is not a "
                f"valid regular expression: {error}; correct it in rank_pattern or alpha_pattern"
            ) from error
        if found:
            return value
    return default


def _modules(adapters: Iterable[Adapter]) -> list[str]:
    return list(dict.fromkeys(module for one in adapters for module in one.factors))


def _shape(factors: Factors) -> tuple[int, ...]:
    return (factors.b.shape[0], *factors.a.shape[1:])


def _dtype(spec: TensorSpec, dtype: str | None) -> str:
    return dtype if dtype is not None and spec.dtype in FLOATS else spec.dtype


def _sum_config(
    first: Adapter, ranks: Mapping[str, int], adapters: Sequence[Adapter]
) -> dict[str, JSON]:
    """The first adapter's configuration with the ranks and the modules of the sum."""
    common = Counter(ranks.values()).most_common(1)[0][0]
    apart: dict[str, JSON] = {
        re.escape(module.removeprefix(PREFIX)): rank
        for module, rank in ranks.items()
        if rank != common
    }
    config = dict(first.config) | {
        "task_type": next(
            (kind for one in adapters if (kind := one.config.get("task_type"))), None
        ),
        "r": common,
        "lora_alpha": common,
        "rank_pattern": apart,
        "alpha_pattern": dict(apart),
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    targets = ("target_modules", "layers_to_transform", "layers_pattern", "exclude_modules")
    same = all(
        _targets(one.config, targets) == _targets(first.config, targets)
        and one.factors.keys() == first.factors.keys()
        for one in adapters
    )
    if not same:
        config |= dict.fromkeys(targets[1:])
        config["target_modules"] = [module.removeprefix(PREFIX) for module in ranks]
    return config


def _targets(config: Mapping[str, Any], keys: Iterable[str]) -> list[object]:
    found = [config.get(key) for key in keys]
    return [sorted(one) if isinstance(one, list) else one for one in found]
