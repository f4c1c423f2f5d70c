"""Settings of a model that differ in memory from those in its config.json, and return on saving.

Dropout is off in every model. Evaluation mode is not enough for that: layers that compute their
activations again are in training mode, and some read a rate of the configuration there at call time
(Falcon, OPT). So the rates themselves become 0. Trainers also leave settings in config.json that
ask for more than a model's outputs, which costs memory or fails.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from salsa_cli.models.forward import Module
from salsa_cli.records import read_json, write_text
from salsa_cli.weights import folders

# Router logits are for the loss of a mixture of experts, and fail on rows that are padded.
_OUTPUTS = {
    "output_router_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
}


def override(model: Module) -> None:
    """Set every dropout rate of a model to 0, and let its passes return their outputs alone."""
    for config in _configs(model.config):
        for name in _rates(config):
            # Of the same type: MPT's configuration refuses a float for a rate that it has as 0.
            setattr(config, name, type(getattr(config, name))(0))
        for name, value in _OUTPUTS.items():
            if getattr(config, name, value) != value:
                setattr(config, name, value)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in _rates(module):
            setattr(module, name, 0.0)


def restore(folder: Path, like: Path) -> None:
    """Give the config.json of a saved model the overridden settings of the one it was loaded from.

    Args:
        folder: of the saved model.
        like: of the model, or of an adapter to it, that was loaded.
    """
    path = folder / "config.json"
    saved = read_json(path)
    restored = _restored(saved, read_json(folders.base(like) / "config.json"))
    if restored != saved:
        write_text(path, json.dumps(restored, indent=2, sort_keys=True) + "\n")


def _restored(saved: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """`saved`, with the overridden settings as in `source`: absent where they are absent there."""
    kept = {name: value for name, value in saved.items() if not _is_overridden(name, value)}
    kept |= {name: value for name, value in source.items() if _is_overridden(name, value)}
    for name, value in kept.items():
        other = source.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            kept[name] = _restored(value, other)
    return kept


def _is_overridden(name: str, value: object) -> bool:
    return name in _OUTPUTS or _is_rate(name, value)


def _configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A configuration and all those in it (`text_config` and its like)."""
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _configs(value)


def _rates(holder: object) -> list[str]:
    """Attributes of a configuration or a layer that hold a dropout or layer-drop probability."""
    return [name for name, value in vars(holder).items() if _is_rate(name, value)]


def _is_rate(name: str, value: object) -> bool:
    return "drop" in name and isinstance(value, int | float) and not isinstance(value, bool)
