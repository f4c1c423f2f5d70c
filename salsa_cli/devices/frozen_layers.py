"""Frozen weights sharded over the processes by FSDP2, and gathered one layer at a time.

Gathering a layer is a collective operation, but the processes do not make the same number of
forward passes: answers end at different lengths, and the rows of a batch need not divide. So a
process says which weights it is about to run, and a process that has nothing to run joins in
gathering the layers of the others.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard

Shards = Mapping[str, torch.Tensor]
"""Sharded parameters by their names in a model."""


@dataclass
class FrozenLayers:
    """The sharded layers of a run, one list for each set of weights.

    Attributes:
        passes: forward passes that this process has announced; for tests.
    """

    _gathered: list[list[FSDPModule]] = field(default_factory=list)
    _mesh: DeviceMesh | None = None
    passes: int = 0

    def shard(
        self, model: torch.nn.Module, names: Collection[str], device: torch.device, *, offload: bool
    ) -> tuple[int, Shards]:
        """Shard the layers of a model in place, each moved to the device as it is sharded.

        Every process must call it. The model itself serves to gather layers for other processes,
        and must not be run.

        Args:
            names: class names of the layers.
            offload: keep the shards in CPU memory.

        Returns:
            The number of this set of weights, and its shards.
        """
        inside = layer_parameters(model, names)
        layers = self._fully_shard(model, names, device, offload=offload)
        for layer in layers:
            # Else the first call of `unshard` would have no streams and buffers.
            layer._get_fsdp_state()._lazy_init()
        self._gathered.append(layers)
        return len(self._gathered), {name: model.get_parameter(name).detach() for name in inside}

    def lend(
        self,
        model: torch.nn.Module,
        names: Collection[str],
        device: torch.device,
        number: int,
        shards: Shards,
        *,
        offload: bool,
    ) -> None:
        """Let a model whose layers have no storage (meta tensors) use existing shards, in place.

        Args:
            number: of the set of weights that the shards are of.
        """
        layers = self._fully_shard(model, names, device, offload=offload)
        model.load_state_dict(dict(shards), strict=False, assign=True)

        def announce(module: torch.nn.Module, given: object) -> None:
            self._announce(number)

        # Before the hook of FSDP2, which gathers.
        layers[0].register_forward_pre_hook(announce, prepend=True)  # type: ignore[attr-defined]

    def join(self) -> None:
        """Take part in gathering layers until no process runs a sharded model.

        To be called before every other collective operation, in which the processes meet.
        """
        if self._gathered:
            self._announce(0)

    def _announce(self, number: int) -> None:
        """Say which weights this process needs, 0 for none; returns when it is their turn."""
        self.passes += number > 0
        while (turn := self._agree(number)) != number:
            for layer in self._gathered[turn - 1]:
                layer.unshard()
                layer.reshard()

    def _agree(self, number: int) -> int:
        """The largest number of any process."""
        assert self._mesh is not None
        found = torch.tensor(number, device=self._mesh.device_type)
        distributed.all_reduce(found, distributed.ReduceOp.MAX)
        return int(found)

    def _fully_shard(
        self, model: torch.nn.Module, names: Collection[str], device: torch.device, *, offload: bool
    ) -> list[FSDPModule]:
        if self._mesh is None:
            self._mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        policy = CPUOffloadPolicy(pin_memory=device.type == "cuda") if offload else OffloadPolicy()
        found = []
        for layer in _layers(model, names):
            sharded = fully_shard(
                layer, mesh=self._mesh, reshard_after_forward=True, offload_policy=policy
            )
            assert isinstance(sharded, FSDPModule)
            found.append(sharded)
        return found


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether layers of a model are sharded."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def layer_parameters(model: torch.nn.Module, names: Collection[str]) -> list[str]:
    """Names of the parameters in the layers of a model."""
    inside = {id(one) for layer in _layers(model, names) for one in layer.parameters()}
    return [name for name, one in model.named_parameters() if id(one) in inside]


def without_storage(model: torch.nn.Module, names: Collection[str]) -> None:
    """Replace the parameters in the layers of a model by meta tensors, in place."""
    for layer in _layers(model, names):
        for module in layer.modules():
            for name, one in module._parameters.items():
                if one is not None:
                    empty = torch.empty_like(one, device="meta")
                    module._parameters[name] = torch.nn.Parameter(empty, requires_grad=False)


def _layers(model: torch.nn.Module, names: Collection[str]) -> list[torch.nn.Module]:
    return [module for module in model.modules() if type(module).__name__ in names]
