"""Frozen weights that several models of a run share: loaded once, held in memory once.

Policy, reference, critic and reward model of the same base differ only in their adapters. Each is a
separate model with its own modules, so adapters need no switching between passes, but the tensors
of the frozen base are the same objects in all of them.
"""

import copy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from salsa_cli.devices.frozen_layers import Shards, layer_parameters, without_storage
from salsa_cli.devices.sharding import Sharding
from salsa_cli.models.lm_head import Module
from salsa_cli.weights import compatibility, weight_files

BackboneSource = Callable[[Path, torch.dtype | None, torch.device, Callable[[], Module]], Module]
"""Returns the frozen model of a folder on a device; the last argument loads it into CPU memory."""


def unshared(
    folder: Path, dtype: torch.dtype | None, device: torch.device, load: Callable[[], Module]
) -> Module:
    """Load a model that shares no weights."""
    return load().to(device)


@dataclass(frozen=True)
class Placement:
    """How the weights of a model are held.

    Attributes:
        dtype: their type; None keeps the stored one.
        device: where they go.
        source: loads the frozen model, or returns one that shares its weights.
    """

    dtype: torch.dtype | None
    device: torch.device
    source: BackboneSource = unshared


def with_shared_tensors(model: Module) -> Module:
    """A copy of a model with its own modules and the same tensors, which must not be changed."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


class Backbones:
    """The frozen weights that models of a run share.

    `same` maps each folder to share, resolved, to the folder that stands for all equal ones (see
    `representatives`). Models of other folders share nothing. With `sharding`, each process holds a
    part of the layers that are shared; embeddings, norms outside the layers and output layers are
    whole in each.
    """

    def __init__(
        self, same: Mapping[Path, Path] | None = None, sharding: Sharding | None = None
    ) -> None:
        self._same = same or {}
        self._sharding = sharding
        self._held: dict[tuple[Path, torch.dtype | None, torch.device], Module] = {}
        self._shards: dict[int, tuple[int, Shards]] = {}

    def load(
        self,
        folder: Path,
        dtype: torch.dtype | None,
        device: torch.device,
        load: Callable[[], Module],
    ) -> Module:
        """Load a model; weights that are to be shared are kept for later models.

        Every process must call it if weights are sharded.
        """
        place = self._same.get(folder.resolve())
        if place is None:
            return load().to(device)
        key = place, dtype, device
        if key not in self._held:
            self._held[key] = self._kept(load(), device)
        return self._lent(self._held[key], device)

    def borrow(
        self,
        folder: Path,
        dtype: torch.dtype | None,
        device: torch.device,
        load: Callable[[], Module],
    ) -> Module:
        """Load a model that uses shared weights if they are loaded, without keeping its own."""
        place = self._same.get(folder.resolve())
        held = None if place is None else self._held.get((place, dtype, device))
        return load().to(device) if held is None else self._lent(held, device)

    def _kept(self, model: Module, device: torch.device) -> Module:
        """The model that others are copies of; if it is sharded, its layers are empty."""
        names = layer_names(model)
        if self._sharding is None or not layer_parameters(model, names):
            return model.to(device)
        # The layers go to the device one at a time, since the whole model may not fit there.
        for module in _outside(model, names):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                tensor.data = tensor.data.to(device)
        sharded = with_shared_tensors(model)
        without_storage(model, names)
        frozen = self._sharding.frozen
        found = frozen.shard(sharded, names, device, offload=self._sharding.offload)
        self._shards[id(model)] = found
        return model

    def _lent(self, held: Module, device: torch.device) -> Module:
        model = with_shared_tensors(held)
        if id(held) in self._shards:
            assert self._sharding is not None
            number, shards = self._shards[id(held)]
            self._sharding.frozen.lend(
                model, layer_names(model), device, number, shards, offload=self._sharding.offload
            )
        return model

    @property
    def common(self) -> frozenset[int]:
        """The `id` of every shared tensor: no single model may move or change these."""
        return frozenset(
            id(tensor)
            for model in self._held.values()
            for tensor in (*model.parameters(), *model.buffers())
        )


def layer_names(model: Module) -> frozenset[str]:
    """Class names of the layers of a model, as its family declares them."""
    return frozenset(model._no_split_modules or ())


def _outside(model: torch.nn.Module, names: Collection[str]) -> Iterator[torch.nn.Module]:
    """The modules of a model that are not in its layers."""
    if type(model).__name__ not in names:
        yield model
        for child in model.children():
            yield from _outside(child, names)


def representatives(folders: Iterable[Path]) -> Mapping[Path, Path]:
    """Map each folder, resolved, to the first folder that holds the same model.

    Weights are compared by digest, and only read where everything else is equal.
    """
    found: dict[Path, Path] = {}
    for folder in dict.fromkeys(path.resolve() for path in folders):
        firsts = dict.fromkeys(found.values())
        found[folder] = next((one for one in firsts if _are_same(one, folder)), folder)
    return found


def _are_same(first: Path, other: Path) -> bool:
    opened = [weight_files.open_weight_files(folder) for folder in (first, other)]
    if weight_files.differences(opened) or compatibility.compare((first, other)).fatal:
        return False
    ours, theirs = (weight_files.weights_digest(one) for one in opened)
    return ours == theirs
