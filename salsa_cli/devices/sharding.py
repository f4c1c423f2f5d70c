"""Weights, gradients and optimiser moments sharded over the processes, by PyTorch's FSDP2.

The sharded network is a separate copy, used only for training. The plain model generates, scores
and is saved, in any number of forward passes, without collective operations.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from salsa_cli.devices.frozen_layers import FrozenLayers


@dataclass(frozen=True)
class Sharding:
    """How to shard a network.

    Attributes:
        frozen: the layers of frozen models that are sharded, too.
        reshard: free the layers' gathered weights between the forward and the backward pass (as
            ZeRO-3 does), or keep them (ZeRO-2).
        offload: keep the shards of weights and gradients, and with them the moments, in CPU memory;
            layers are brought to the device one at a time, and the optimizer steps on the CPU.
    """

    reshard: bool = True
    offload: bool = False
    frozen: FrozenLayers = field(default_factory=FrozenLayers, compare=False)

    def spread(
        self, network: torch.nn.Module, layers: Collection[str], device: torch.device
    ) -> None:
        """Shard the weights of `network` in place, layer by layer.

        Gradients are summed over the processes.

        Args:
            layers: class names of the modules that are gathered one at a time.
        """
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        modules = [one for one in network.modules() if type(one).__name__ in layers]
        for module in (*modules, network):
            # Weights outside the layers are needed again at the start of the backward pass.
            reshard = self.reshard and module is not network
            sharded = fully_shard(
                module,
                mesh=mesh,
                reshard_after_forward=reshard,
                offload_policy=self._policy(device),
            )
            assert isinstance(sharded, FSDPModule)
            # The loss is already divided by the tokens of the whole batch, so gradients are summed.
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)

    def _policy(self, device: torch.device) -> OffloadPolicy:
        if not self.offload:
            return OffloadPolicy()
        return CPUOffloadPolicy(pin_memory=device.type == "cuda")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor, gathered from its shards; every process must call it."""
    if not isinstance(tensor, DTensor):
        return tensor
    # An offloaded shard is on the CPU, and a GPU's processes communicate on the GPU.
    there = tensor.to(tensor.device_mesh.device_type)
    assert isinstance(there, DTensor)
    full: torch.Tensor = there.full_tensor()
    return full


def gathered(state: Any, *, keep: bool) -> Any:
    """A state with its tensors gathered, on the CPU.

    Every process must call it; those that do not `keep` the tensors get empty ones.
    """
    if isinstance(state, dict):
        return {name: gathered(value, keep=keep) for name, value in state.items()}
    if not isinstance(state, torch.Tensor):
        return state
    found = whole(state)
    return found.detach().cpu() if keep else torch.empty(0)


def spread_like(given: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """This process's shard of `given`, which every process has in full, sharded like `example`.

    Tensors with another number of rows, as an optimiser's count of steps, are not sharded.
    """
    if not isinstance(example, DTensor) or given.shape[:1] != example.shape[:1]:
        return given
    spread = distribute_tensor(given, example.device_mesh, example.placements, src_data_rank=None)
    return spread.to(example.device)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard of a sharded tensor; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def first_index(tensor: torch.Tensor) -> int:
    """Where this process's shard begins in the whole tensor, counted in values."""
    if not isinstance(tensor, DTensor) or not tensor.numel():
        return 0
    rows = -(-tensor.shape[0] // tensor.device_mesh.size())
    first = min(rows * tensor.device_mesh.get_local_rank(), tensor.shape[0])
    return first * (tensor.numel() // tensor.shape[0])


def sharded_like(shard: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """A sharded tensor with this process's `shard`, with as many rows in all as `example` has."""
    if not isinstance(example, DTensor):
        return shard
    shape = torch.Size((example.shape[0], *shard.shape[1:]))
    return DTensor.from_local(
        shard.to(example.device),
        example.device_mesh,
        example.placements,
        run_check=False,
        shape=shape,
        stride=torch.empty(shape, device="meta").stride(),
    )
