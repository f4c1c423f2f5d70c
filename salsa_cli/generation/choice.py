"""Which generator a model gets, and why one is refused."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from salsa_cli.errors import SalsaError
from salsa_cli.generation import graphs, loop, plain
from salsa_cli.generation.ways import Generator
from salsa_cli.models.forward import Module


@dataclass(frozen=True)
class _Way:
    """A way, and which models it can drive."""

    generate: Generator
    suits: Callable[[Module], bool]


_WAYS = {
    "loop": _Way(loop.generate, loop.suits),
    "graphs": _Way(graphs.generate, graphs.suits),
}


def check(name: str, device: torch.device) -> None:
    """Refuse a generator that the device cannot run.

    Raises:
        SalsaError: there is no CUDA device for graphs.
    """
    if name == "graphs" and device.type != "cuda":
        raise SalsaError(
            f"--generator graphs needs a CUDA device, and this is {device.type}, where "
            "--generator loop is faster"
        )


def choose(name: str, model: Module) -> Generator:
    """The generator of a name for a model, which lies on its device.

    `auto` is the fastest of ours that can drive the model, or transformers' own `generate`.

    Raises:
        SalsaError: the one that was asked for cannot drive the model.
    """
    if name == "auto":
        on_cuda = next(model.parameters()).device.type == "cuda"
        if on_cuda and graphs.suits(model):
            return graphs.generate
        return loop.generate if loop.suits(model) else plain.generate
    way = _WAYS[name]
    if not way.suits(model):
        raise SalsaError(
            f"--generator {name} cannot drive a {type(model).__name__}; --generator auto can"
        )
    return way.generate
