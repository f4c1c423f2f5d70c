"""Which way of generation a model gets, and when none can be had."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from salsa_cli.errors import SalsaError
from salsa_cli.generation import compiled, loop, paged, plain
from salsa_cli.generation.ways import Generator
from salsa_cli.passes import Module


@dataclass(frozen=True)
class _Way:
    """A way, and which models it can drive."""

    generate: Generator
    suits: Callable[[Module], bool]


_WAYS = {
    "loop": _Way(loop.generate, lambda model: True),
    "compiled": _Way(compiled.generate, compiled.suits),
    "paged": _Way(paged.generate, paged.suits),
}


def check(name: str, device: torch.device) -> None:
    """Refuse a generator that the device cannot run.

    Raises:
        SalsaError: there is no CUDA device for compiled decoding.
    """
    if name == "compiled" and device.type != "cuda":
        raise SalsaError(
            f"--generator compiled needs a CUDA device, and this is {device.type}, where "
            "--generator loop is faster"
        )


def choose(name: str, model: Module) -> Generator:
    """The generator of a name for a model.

    The loop leaves models of a kind that it does not know to transformers' own `generate`.

    Raises:
        SalsaError: it cannot drive the model.
    """
    if name == "loop" and not loop.suits(model):
        return plain.generate
    way = _WAYS[name]
    if not way.suits(model):
        raise SalsaError(
            f"--generator {name} cannot drive a {type(model).__name__}; --generator loop can"
        )
    return way.generate
