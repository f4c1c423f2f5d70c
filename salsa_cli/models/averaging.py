"""The weighted average of models in memory, to the same values as `salsa soup` writes."""

from collections.abc import Sequence

import torch

from salsa_cli.maths import averaging

# The name of each type in safetensors, and a view of it that NumPy knows.
_STORAGE = {
    torch.bfloat16: ("BF16", torch.uint16),
    torch.float16: ("F16", torch.float16),
    torch.float32: ("F32", torch.float32),
    torch.float64: ("F64", torch.float64),
}


def can_average(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds weights; integers and flags are the same in all models of a base."""
    return tensor.dtype in _STORAGE


def average(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted average of tensors, computed in float64 and rounded once.

    Args:
        tensors: one per model, of the same shape, on the CPU.
        weights: one per model.

    Returns:
        A tensor of the first one's type and shape.
    """
    first = tensors[0]
    names = [_STORAGE[one.dtype][0] for one in tensors]
    pieces = [one.detach().contiguous().view(_STORAGE[one.dtype][1]).numpy() for one in tensors]
    mean = averaging.average(pieces, names, weights, names[0])
    return torch.from_numpy(mean).view(first.dtype)
