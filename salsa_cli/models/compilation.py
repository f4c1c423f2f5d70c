"""torch.compile for the layers of models under training, in their training passes only.

The layers are compiled, not the model: they are one piece of code, so that a deep model takes no
longer than a shallow one, and what comes between them need not be understood by the compiler.
Sizes stay open, since every pass has its own. Generation, whose caches grow token by token, and
trials of a few tokens run as written.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from salsa_cli.errors import SalsaError
from salsa_cli.models import lm_head, packed_attention
from salsa_cli.models.forward import Module

_COMPILERS = ("g++", "clang++")


def check(device: torch.device) -> None:
    """Check that a compiler for the device is available.

    Raises:
        SalsaError: for a CPU there is no compiler of C++.
    """
    if device.type == "cpu" and not any(map(shutil.which, _COMPILERS)):
        raise SalsaError(
            f"--compile needs a C++ compiler on a CPU ({' or '.join(_COMPILERS)}), and none is "
            "installed; install one, or remove --compile"
        )


def prepare(*models: Module) -> None:
    """Mark the repeated layers of models to be compiled on their first call under `at_work`."""
    torch.compiler.set_stance("force_eager")
    packed_attention.stay_uncompiled()
    for model in models:
        # Trials are made now, as written.
        packed_attention.can_pack(model)
        lm_head.find_head(model)
        for layer in _layers(model):
            layer.compile(dynamic=True)


@contextmanager
def at_work() -> Iterator[None]:
    """Run prepared layers compiled within the block.

    Raises:
        SalsaError: they cannot be.
    """
    from torch._dynamo.exc import TorchDynamoException

    with torch.compiler.set_stance("default"):
        try:
            yield
        except TorchDynamoException as error:
            reason = " ".join(str(error).split("\n\n")[0].split())  # the trace comes behind it
            raise SalsaError(
                f"--compile: PyTorch cannot compile this model here ({reason}); remove the option"
            ) from error


def _layers(model: Module) -> Iterator[torch.nn.Module]:
    """The repeated layers of a transformers model."""
    kinds = set(model._no_split_modules or ())
    return (module for module in model.modules() if type(module).__name__ in kinds)
