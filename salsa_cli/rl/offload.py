"""Models offloaded to CPU memory while the device does not need them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from salsa_cli.errors import UsageError
from salsa_cli.models.forward import Module


class Parked:
    """A model that is in CPU memory, and on the device only within a block.

    What rests is not written back: on the device, the weights must not change. A model whose
    weights are changed in the CPU's memory brings them as they are then.
    """

    def __init__(self, model: Module, device: torch.device) -> None:
        self._tensors = [*model.parameters(), *model.buffers()]
        self._home = [_resting(tensor.detach(), device) for tensor in self._tensors]
        self._device = device
        self._leave()

    @contextmanager
    def present(self) -> Iterator[None]:
        """Move the model to the device for the block."""
        for tensor, home in zip(self._tensors, self._home, strict=True):
            tensor.data = brought(home, self._device)
        try:
            yield
        finally:
            self._leave()

    def _leave(self) -> None:
        for tensor, home in zip(self._tensors, self._home, strict=True):
            tensor.data = home


def check(names: tuple[str, ...], device: torch.device) -> None:
    """Refuse to offload on a device that shares its memory with the CPU.

    Raises:
        UsageError: the device is the CPU itself.
    """
    if names and device.type == "cpu":
        raise UsageError(
            f"--offload {','.join(names)} has no effect on a CPU, where the models are in CPU "
            "memory anyway. Remove it, or use a GPU (--device cuda)"
        )


def brought(home: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A copy on the device; from pinned memory it is asynchronous."""
    return home.to(device, non_blocking=True)


def _resting(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor in CPU memory, pinned where that speeds up copies to the device."""
    resting = tensor.cpu()
    return resting.pin_memory() if device.type == "cuda" else resting
