"""Which generator a model gets, and why one is refused."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from salsa_cli.errors import SalsaError
from salsa_cli.generation import cuda_graphs, loop, transformers_generate
from salsa_cli.generation.generator import Generator
from salsa_cli.models.forward import Module


@dataclass(frozen=True)
class _Choice:
    """A generator, and which models it can drive."""

    generate: Generator
    suits: Callable[[Module], bool]


_CHOICES = {
    "loop": _Choice(loop.generate, loop.suits),
    "graphs": _Choice(cuda_graphs.generate, cuda_graphs.suits),
}


def check_generator(name: str, device: torch.device) -> None:
    """Refuse a generator that the device cannot run.

    Raises:
        SalsaError: there is no CUDA device for graphs.
    """
    if name == "graphs" and device.type != "cuda":
        raise SalsaError(
            f"--generator graphs needs a CUDA device, and this is {device.type}; use --generator "
            "loop"
        )


def select_generator(name: str, model: Module) -> Generator:
    """The generator called `name`, for a model that is on its device already.

    `auto` takes the fastest of our own that can drive the model, else transformers' `generate`.

    Raises:
        SalsaError: the one that was asked for cannot drive the model.
    """
    if name == "auto":
        on_cuda = next(model.parameters()).device.type == "cuda"
        if on_cuda and cuda_graphs.suits(model):
            return cuda_graphs.generate
        return loop.generate if loop.suits(model) else transformers_generate.generate
    choice = _CHOICES[name]
    if not choice.suits(model):
        raise SalsaError(
            f"--generator {name} does not support a {type(model).__name__}; use --generator auto"
        )
    return choice.generate
