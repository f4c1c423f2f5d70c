"""Low-rank adapters (LoRA, Hu et al. 2021) through PEFT: put into a model, trained, merged, stored.

Putting one in replaces the linear layers of a model by such that add a low-rank update; their
weights stay where they are, and as they are. So models may have them in common (see `backbones`).
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salsa_cli.errors import SalsaError, one_line
from salsa_cli.maths import averaging
from salsa_cli.models.forward import Module
from salsa_cli.records import read_json, write_json
from salsa_cli.weights import adapter_sums, adapters, folders, shards
from salsa_cli.weights.adapters import PREFIX, Adapter
from salsa_cli.weights.folders import ADAPTER_CONFIG
from salsa_cli.weights.layout import NewTensor, TensorSpec
from salsa_cli.weights.weight_files import ADAPTERS, TensorReader

ALPHA = 2
"""The update is B A times alpha / rank, with alpha this many times the rank."""

HEAD = f"{PREFIX}score.weight"
"""The score head of a reward model's adapter, which is trained as a whole."""

_NAME = "default"  # PEFT's for the one adapter of a model
_FACTORS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B")


@dataclass(frozen=True)
class Adapters:
    """The low-rank matrices of the linear layers of a model's body."""

    tuner: Any

    def merge(self) -> Module:
        """Add each update to its weight and take the adapters out; returns the plain model."""
        return self.tuner.merge_and_unload()


def check() -> None:
    """Raise `SalsaError` where PEFT is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise SalsaError(
            "LoRA (--lora-rank, adapter folders) needs PEFT, which is not installed; run `pip "
            "install peft`"
        ) from error


def add(model: Module, rank: int, seed: int) -> Adapters:
    """Put adapters into `model`, in place: the output is the same until they are trained.

    They are added to every linear layer. A is drawn from `seed` alone, B is 0. The score head has
    none: it is trained as it is.

    Raises:
        SalsaError: PEFT is not installed.
    """
    settings = {
        "r": rank,
        "lora_alpha": ALPHA * rank,
        "target_modules": "all-linear",
        "exclude_modules": ["score"] if hasattr(model, "score") else None,
    }
    return _put(model, settings, seed)


def check_rank(rank: int, hidden: int) -> None:
    """Refuse a rank that is not low in a model whose states have `hidden` values.

    Raises:
        SalsaError: the two factors would be larger than the matrices they are added to.
    """
    if rank >= hidden:
        raise SalsaError(
            f"--lora-rank {rank} is not low for a model of width {hidden}; expected less, for "
            "example 16, or no --lora-rank to train all weights"
        )


def load(model: Module, adapter: Adapter) -> Adapters:
    """Put a stored adapter into a model of its base, in place. A score head is not its business.

    Raises:
        SalsaError: PEFT is not installed, or the adapter does not fit the model.
    """
    found = _put(model, _exactly(adapter.config, adapter.factors), 0)
    with TensorReader() as reader:
        factors = {
            spec.name: _values(reader.read(spec, 0, spec.elements), spec)
            for pair in adapter.factors.values()
            for spec in (pair.a, pair.b)
        }
    _fill(model, factors, adapter.folder)
    return found


def load_sum(model: Module, parts: Sequence[Adapter], mixing: Sequence[float]) -> Adapters:
    """Put the exact weighted sum of adapters into a model, the values those of `salsa soup`.

    Raises:
        SalsaError: PEFT is not installed, or the adapters do not fit the model.
    """
    total = adapters.add_up(parts, mixing, None)
    filler = adapter_sums.SummedAdapters(tuple(parts), tuple(mixing), total.factors, False)
    taking_part = [one for one, weight in zip(parts, mixing, strict=True) if weight]
    modules = [module for one in taking_part for module in one.factors]
    found = _put(model, _exactly(total.config, modules), 0)
    factors = {
        spec.name: _values(adapter_sums.whole_tensor(filler, spec), spec)
        for spec in total.tensors
        if spec.name in total.factors
    }
    _fill(model, factors, parts[0].folder)
    return found


def stored_head(adapter: Adapter) -> torch.Tensor | None:
    """The score head `[1, d]` in float32 that an adapter brings along, if it does."""
    spec = adapter.others.get(HEAD)
    if spec is None:
        return None
    with TensorReader() as reader:
        return _values(reader.read(spec, 0, spec.elements), spec)


def check_parts(adapter: Adapter) -> None:
    """Refuse an adapter that changes its base, or holds more than updates and a score head.

    Raises:
        SalsaError: it does; says what.
    """
    copies = {name for name in adapter.others if ".base_layer." in name}
    more = sorted(adapter.others.keys() - copies - {HEAD})
    if (bias := adapter.config.get("bias", "none")) != "none":
        more.append(f"biases (bias is {bias!r})")
    if more:
        raise SalsaError(
            f"{adapter.folder} contains more than low-rank updates, {_some(more)}; merge it into "
            "its base with the tool that created it, and pass the merged model"
        )


def has_adapters(model: Module) -> bool:
    """Whether adapters were put into a model."""
    return bool(_adapters(model))


def merged(plain: Module, adapted: Module) -> Module:
    """A model with the adapters of another merged into it, which is of the same base."""
    settings = adapted.peft_config[_NAME].to_dict()
    adapters = _put(plain, settings, 0)
    with torch.no_grad():
        for name, factor in _adapters(plain).items():
            factor.copy_(adapted.get_parameter(name))
    return adapters.merge()


def merged_state(model: Module) -> dict[str, torch.Tensor]:
    """The state of the plain model that a model with adapters stands for; that one stays as it is.

    Each update is added in float32. Of a model without adapters, its own state.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    found = {}
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if any(part in _FACTORS for part in name.split(".")):
                continue
            plain = name.replace(".base_layer.", ".")
            layer = layers.get(plain.removesuffix(".weight"))
            if layer is not None and plain.endswith(".weight"):
                value = value.float() + layer.get_delta_weight(_NAME)
            found[plain] = value
    return found


def save(model: Module, folder: Path, base: str) -> None:
    """Write the adapters of a model, and its score head, as PEFT does.

    `base` is the folder or hub id of the model that they are for.
    """
    scored = hasattr(model, "score")
    settings = copy.copy(model.peft_config[_NAME])
    settings.base_model_name_or_path = base
    settings.task_type = "SEQ_CLS" if scored else "CAUSAL_LM"
    settings.modules_to_save = ["score"] if scored else None
    settings.inference_mode = True
    settings.save_pretrained(folder)
    _write(model, folder)


def save_as(model: Module, folder: Path, like: Path) -> None:
    """Write the adapters of a model that were loaded from the folder `like`, under its settings."""
    _write(model, folder)
    settings = read_json(like / ADAPTER_CONFIG)
    settings |= {"base_model_name_or_path": folders.base_name(like), "inference_mode": True}
    write_json(folder / ADAPTER_CONFIG, settings)


def _write(model: Module, folder: Path) -> None:
    """The factors and the score head in float32, by the names that PEFT gives them."""
    named = {_stored_name(name): value for name, value in _adapters(model).items()}
    if hasattr(model, "score"):
        named[HEAD] = model.score.weight
    rows = {name: value.detach().cpu().float().contiguous() for name, value in named.items()}
    tensors = {
        NewTensor(name, "F32", tuple(value.shape)): value.numpy().reshape(-1).view(np.uint8)
        for name, value in sorted(rows.items())
    }
    shards.write_file(folder / ADAPTERS[0], tensors)


def _put(model: Module, config: Mapping[str, Any], seed: int) -> Adapters:
    check()
    from dataclasses import fields

    from peft import LoraConfig, LoraModel

    known = {field.name for field in fields(LoraConfig)} - {"peft_type", "modules_to_save"}
    settings = {name: value for name, value in config.items() if name in known}
    settings |= {"init_lora_weights": True, "inference_mode": False}
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            tuner = LoraModel(model, {_NAME: LoraConfig(**settings)}, _NAME)
    except ValueError as error:
        line = str(error).strip().partition("\n")[0]
        raise SalsaError(f"an adapter does not fit a {type(model).__name__}: {line}") from error
    model.eval()  # the new layers bring a dropout of their own
    # In the type of the base, which may be bfloat16, most steps of an optimiser would be lost.
    for factor in _adapters(model).values():
        factor.data = factor.data.float()
    return Adapters(tuner)


def _exactly(config: Mapping[str, Any], modules: Iterable[str]) -> dict[str, Any]:
    """A configuration for the modules that a file has factors of, whatever its patterns match."""
    aims = ("exclude_modules", "layers_to_transform", "layers_pattern")
    names = [module.removeprefix(PREFIX) for module in dict.fromkeys(modules)]
    return {**config, **dict.fromkeys(aims), "target_modules": names}


def _fill(model: Module, factors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Copy the stored factors into those of the model.

    Raises:
        SalsaError: the two do not have the same names and shapes.
    """
    held = {_stored_name(name): factor for name, factor in _adapters(model).items()}
    strange = [
        name
        for name in sorted(held.keys() | factors.keys())
        if name not in held or name not in factors or held[name].shape != factors[name].shape
    ]
    if strange:
        raise SalsaError(
            f"{folder} does not fit its base, a {type(model).__name__}: "
            f"{_some(strange)} is missing there or in the adapter, or has another shape"
        )
    with torch.no_grad():
        for name, factor in held.items():
            factor.copy_(factors[name])


def _adapters(model: Module) -> dict[str, torch.nn.Parameter]:
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if any(part in _FACTORS for part in name.split("."))
    }


def _stored_name(name: str) -> str:
    """What a file calls a factor: without the name that PEFT gives the adapter."""
    return PREFIX + name.replace(f".{_NAME}", "")


def _some(names: Sequence[str]) -> str:
    return one_line(", ".join(names[:4])) + (" ..." if len(names) > 4 else "")


def _values(stored: averaging.Array, spec: TensorSpec | NewTensor) -> torch.Tensor:
    """Storage elements as a tensor in float32."""
    wide = averaging.widen(stored, spec.dtype)
    return torch.from_numpy(wide).float().reshape(spec.shape)
