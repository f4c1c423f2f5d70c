"""Frozen weights that several models of a run share: loaded once, held in memory once.

Policy, reference, critic and reward model of the same base differ only in their adapters. Each is a
separate model with its own modules, so adapters need no switching between passes, but the tensors
of the frozen base are the same objects in all of them.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from salsa_cli.models.lm_head import Module
from salsa_cli.weights import compatibility, weight_files

BackboneSource = Callable[[Path, torch.dtype | None, torch.device, Callable[[], Module]], Module]
"""Returns the frozen model of a folder; the last argument loads it from disk."""


def unshared(
    folder: Path, dtype: torch.dtype | None, device: torch.device, load: Callable[[], Module]
) -> Module:
    """Load a model that shares no weights."""
    return load()


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
    `representatives`). Models of other folders share nothing.
    """

    def __init__(self, same: Mapping[Path, Path] | None = None) -> None:
        self._same = same or {}
        self._held: dict[tuple[Path, torch.dtype | None, torch.device], Module] = {}

    def load(
        self,
        folder: Path,
        dtype: torch.dtype | None,
        device: torch.device,
        load: Callable[[], Module],
    ) -> Module:
        """Load a model; weights that are to be shared are kept for later models."""
        place = self._same.get(folder.resolve())
        if place is None:
            return load()
        key = place, dtype, device
        if key not in self._held:
            self._held[key] = load()
        return with_shared_tensors(self._held[key])

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
        return load() if held is None else with_shared_tensors(held)

    @property
    def common(self) -> frozenset[int]:
        """The `id` of every shared tensor: no single model may move or change these."""
        return frozenset(
            id(tensor)
            for model in self._held.values()
            for tensor in (*model.parameters(), *model.buffers())
        )


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
