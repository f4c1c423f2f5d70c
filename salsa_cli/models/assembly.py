"""Builds models from the parts in their folders: a base, an adapter, a score head.

Several models may share one base (see `backbones`).
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from salsa_cli.errors import SalsaError
from salsa_cli.models import config_overrides, lora
from salsa_cli.models.backbones import Placement
from salsa_cli.models.forward import Module
from salsa_cli.models.scalar_head import with_scalar_head
from salsa_cli.weights import folders, weight_files
from salsa_cli.weights.adapters import Adapter, open_adapter, without_copies

_CPU = torch.device("cpu")

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
"""The number of a layer in the name of a weight."""


def language_model(folder: Path, placement: Placement) -> Module:
    """The causal language model of a folder, frozen; of an adapter, its base with the adapter."""
    model = _base(folder, placement)
    if folders.is_adapter(folder):
        _load_adapter(model, folder)
    return model.requires_grad_(False)


def soup_of_adapters(
    parts: Sequence[Path], mixing: Sequence[float], placement: Placement
) -> Module:
    """The base model of some adapters with their exact weighted sum, frozen."""
    model = _base(parts[0], placement)
    lora.load_sum(model, without_copies([adapter(folder) for folder in parts]), mixing)
    return model.requires_grad_(False)


def classifier(folder: Path, placement: Placement) -> Module:
    """A sequence classifier with its trained head, which may come from an adapter, frozen."""
    base = folders.base(folder)
    put_in = adapter(folder) if folders.is_adapter(folder) else None
    head = None if put_in is None else lora.stored_head(put_in)

    def load_base() -> Module:
        kind = AutoModelForSequenceClassification
        return frozen(load(kind, base, placement.dtype, "a reward model", num_labels=1), _CPU)

    if head is None or has_score_head(base):
        model = placement.source(base, placement.dtype, placement.device, load_base)
    else:
        model = _with_head(_base(folder, placement), base)
    if put_in is not None:
        _load_adapter(model, folder)
    if head is not None:
        _require_finite([("score.weight", head)], folder)
        model.score.weight = torch.nn.Parameter(head.to(placement.device))
    return model.requires_grad_(False)


def untrained_classifier(folder: Path, placement: Placement) -> Module:
    """A sequence classifier on the body of a language model, frozen, its head zero."""
    model = _with_head(language_model(folder, placement), folders.base(folder))
    return model.requires_grad_(False)


def has_score_head(folder: Path) -> bool:
    """Whether the files of a model, or of an adapter or its base, hold a head of one score.

    What `architectures` in config.json says is no sign: trainers write class names of their own.
    """
    if folders.is_adapter(folder):
        return lora.HEAD in adapter(folder).others or has_score_head(folders.base(folder))
    score = weight_files.open_weight_files(folder).tensors.get("score.weight")
    return score is not None and score.shape[0] == 1


def adapter(folder: Path) -> Adapter:
    """An adapter that can be loaded into its base: low-rank updates and at most a score head.

    Raises:
        SalsaError: it is of another kind, or malformed.
    """
    found = open_adapter(folder)
    lora.check_parts(found)
    return found


def _load_adapter(model: Module, folder: Path) -> None:
    """Put the stored adapter of a folder into a model of its base."""
    lora.load(model, adapter(folder))
    added = ((name, one) for name, one in model.named_parameters() if "lora_" in name)
    _require_finite(added, folder)


def load(
    loader: Any,
    folder: Path,
    dtype: torch.dtype | None,
    kind: str,
    fresh: tuple[str, ...] = (),
    **options: Any,
) -> Module:
    """Load a folder with a transformers class; `kind` names it in errors.

    Raises:
        SalsaError: it cannot be loaded, or weights are missing whose names do not start with
            `fresh`.
    """
    try:
        model, info = loader.from_pretrained(
            folder,
            dtype=dtype or "auto",
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except Exception as error:
        reason = first_line(error)
        if "ignore_mismatched_sizes" in reason:  # transformers points to a table in its log
            reason = "the sizes in config.json do not match the weights"
        raise SalsaError(f"{folder} cannot be loaded as {kind}: {reason}") from error
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(fresh or "\0"))
    if missing:
        hint = " (it has no trained score head)" if "score.weight" in missing else ""
        raise SalsaError(
            f"{folder} cannot be used as {kind}: its files are missing {', '.join(missing[:4])}"
            f"{' ...' if len(missing) > 4 else ''}{hint}"
        )
    if beyond := _layers_beyond(model, info["unexpected_keys"]):
        raise SalsaError(
            f"{folder} cannot be used as {kind}: its files contain more layers than config.json "
            f"declares (for example {beyond[0]}), and they would be ignored"
        )
    config_overrides.override(model)
    _require_finite(model.named_parameters(), folder)
    return model


def _layers_beyond(model: Module, unused: Iterable[str]) -> list[str]:
    """Stored weights without a place in a model that belong to layers after its last one."""
    layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if layers is None:
        return []
    numbers = ((name, LAYER.search(name)) for name in unused)
    return sorted(name for name, found in numbers if found and int(found[1]) >= layers)


def _require_finite(weights: Iterable[tuple[str, torch.Tensor]], folder: Path) -> None:
    """Refuse stored weights that are NaN or infinite: no setting of a run can fix them.

    Raises:
        SalsaError: names the first of them and its file.
    """
    for name, weight in weights:
        if not weight.is_floating_point() or bool(torch.stack(weight.aminmax()).isfinite().all()):
            continue
        # A name in memory may differ from the stored one.
        known = {} if folders.is_adapter(folder) else weight_files.open_weight_files(folder).tensors
        stored = known.get(name)
        bad = int((~weight.isfinite()).sum())
        raise SalsaError(
            f"{folder if stored is None else stored.file}: {bad} of {weight.numel()} values of "
            f"{name} are NaN or infinite. Replace the file"
        )


def frozen(model: Module, device: torch.device) -> Module:
    """A model in evaluation mode (no dropout), without gradients, on its device."""
    return model.eval().requires_grad_(False).to(device)


def first_line(error: Exception) -> str:
    """The first line of another library's error."""
    return str(error).strip().split("\n")[0] or type(error).__name__


def _base(folder: Path, placement: Placement) -> Module:
    """The causal language model of a folder; of an adapter, its base without the adapter."""
    base = folders.base(folder)

    def load_base() -> Module:
        return frozen(
            load(AutoModelForCausalLM, base, placement.dtype, "a causal language model"),
            _CPU,
        )

    return placement.source(base, placement.dtype, placement.device, load_base)


def _with_head(model: Module, base: Path) -> Module:
    """The body of a language model with a new score head, without copying its tensors.

    The sequence classifier of transformers where the family has one with such a head, else one of
    our own.
    """
    config = AutoConfig.from_pretrained(base, num_labels=1, trust_remote_code=False)
    try:
        with torch.device("meta"):
            made = AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        return with_scalar_head(model)
    prefix = made.base_model_prefix
    body = getattr(model, prefix, None)
    if type(body) is not type(getattr(made, prefix, None)) or not hasattr(made, "score"):
        return with_scalar_head(model)
    setattr(made, prefix, body)
    made.score = torch.nn.Linear(made.score.in_features, 1, bias=False, device=model.device)
    torch.nn.init.zeros_(made.score.weight)
    return made.eval()
