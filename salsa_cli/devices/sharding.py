"""Weights, gradients and moments spread over the processes: PyTorch's FSDP2.

A sharded network is a copy of its own, which alone is trained: the plain model beside it generates,
scores and is saved, in any number of forward passes, without waiting for another process.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


@dataclass(frozen=True)
class Sharding:
    """How to spread a network.

    Attributes:
        reshard: give the layers' whole weights away between the forward and the backward pass
            (as ZeRO-3 does), or keep them (ZeRO-2).
    """

    reshard: bool = True

    def spread(
        self, network: torch.nn.Module, layers: Collection[str], device: torch.device
    ) -> None:
        """Spread the weights of `network` in place, those of each layer together.

        Gradients become their sums over the processes.

        Args:
            layers: class names of the modules that are gathered one at a time.
        """
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        modules = [one for one in network.modules() if type(one).__name__ in layers]
        for module in (*modules, network):
            # What is not in a layer is needed again as soon as the backward pass begins.
            reshard = self.reshard and module is not network
            sharded = fully_shard(module, mesh=mesh, reshard_after_forward=reshard)
            assert isinstance(sharded, FSDPModule)
            # A loss is divided by the tokens of the whole batch: its gradients add up.
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor put together from its parts; every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(state: Any, *, keep: bool) -> Any:
    """A state with its tensors whole, on the CPU.

    Every process must call it; those that do not `keep` the tensors get empty ones.
    """
    if isinstance(state, dict):
        return {name: gathered(value, keep=keep) for name, value in state.items()}
    if not isinstance(state, torch.Tensor):
        return state
    found = whole(state)
    return found.detach().cpu() if keep else torch.empty(0)


def spread_like(given: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """This process's share of `given`, which every process holds, as `example` is spread."""
    if not isinstance(example, DTensor) or given.shape != example.shape:
        return given
    return distribute_tensor(
        given.to(example.device), example.device_mesh, example.placements, src_data_rank=None
    )
