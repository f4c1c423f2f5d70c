"""Where and how tensors are computed: accelerate's devices and processes. Never algorithms."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator

from salsa_cli.errors import SalsaError
from salsa_cli.host import available_memory


@dataclass(frozen=True)
class Runtime:
    """The device that this process computes on."""

    accelerator: Accelerator

    @property
    def device(self) -> torch.device:
        """Where models and batches go."""
        device: torch.device = self.accelerator.device
        return device

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Type of weights that are not trained: bfloat16 on a GPU, float32 on a CPU."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def memory(self) -> int:
        """Bytes that the device has left."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0]
        return available_memory()

    @property
    def pass_tokens(self) -> int:
        """Tokens that a forward pass should have at most: enough to keep the device busy."""
        return 16384 if self.device.type == "cuda" else 2048

    def autocast(self) -> torch.autocast:
        """Forward passes in bfloat16 on a GPU; float32 on a CPU."""
        on_gpu = self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=on_gpu)


def start(device: str) -> Runtime:
    """Set up the device that was asked for (`auto`, `cpu` or `cuda`).

    Raises:
        SalsaError: `cuda` was asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise SalsaError("--device cuda: no CUDA device is available here; use --device cpu")
    return Runtime(Accelerator(cpu=device == "cpu"))
