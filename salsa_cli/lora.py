"""Low-rank adapters (LoRA, Hu et al. 2021) through PEFT: put in, trained, merged."""

from dataclasses import dataclass
from typing import Any

import torch

from salsa_cli.errors import SalsaError
from salsa_cli.passes import Module

ALPHA = 2
"""The update is B A times alpha / rank, with alpha this many times the rank."""


@dataclass(frozen=True)
class Adapters:
    """The low-rank matrices beside every linear layer of a model's body."""

    tuner: Any

    def merge(self) -> Module:
        """Add each update to its weight and take the adapters out; returns the plain model."""
        return self.tuner.merge_and_unload()


def add(model: Module, rank: int, seed: int) -> Adapters:
    """Put adapters into `model`, in place: the output is the same until they are trained.

    A is drawn from `seed` alone, B is 0. The score head has none: it is trained as it is.

    Raises:
        SalsaError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise SalsaError(
            "--lora-rank needs PEFT, which is not installed; pip install 'salsa-cli[lora]'"
        ) from error
    settings = LoraConfig(
        r=rank, lora_alpha=ALPHA * rank, target_modules="all-linear", exclude_modules=["score"]
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tuner = LoraModel(model, {"default": settings}, "default")
    return Adapters(tuner)
