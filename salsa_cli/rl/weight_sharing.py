"""Which weights the models of a PPO run share, and which belong to one model.

By the files alone: nothing is loaded. Models on one backbone hold its weights once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from salsa_cli.models import assembly
from salsa_cli.reward_models import rewards
from salsa_cli.rl.references import Reference
from salsa_cli.weights import folders, weight_files

Part = Literal["policy", "critic", "reference", "reward", "watched"]

_NOT_ADAPTED = ("lm_head", "embed", "wte", "wpe", "score")


@dataclass(frozen=True)
class Role:
    """One model of a run.

    Attributes:
        folder: what it is loaded from.
        backbone: the whole model whose frozen weights it computes with, and which it may share;
            None where all its weights are its own.
        own: its own parameters: those of its adapter and head, or all.
        learns: whether its own parameters are trained.
    """

    part: Part
    folder: Path
    backbone: Path | None
    own: int
    learns: bool = False


def assign_roles(
    policy: Path,
    critic: Path | None,
    references: Sequence[Reference],
    trained: Sequence[str],
    watched: Sequence[str],
    *,
    rank: int | None,
    moving: bool,
) -> tuple[Role, ...]:
    """All models of a run.

    Args:
        critic: None where no critic is trained.
        trained: the rewards; `watched` those that are only measured.
        rank: of the adapters that whole models get to learn by.
        moving: whether the references follow the policy.
    """
    found = [_learner("policy", policy, rank)]
    if critic is not None:
        found.append(_learner("critic", critic, rank))
    for reference in references:
        if (len(reference.folders) > 1 and not folders.is_adapter(reference.first)) or moving:
            found.append(Role("reference", reference.first, None, whole(reference.first)))
        else:
            own = sum(_adapter(folder) for folder in reference.folders)
            found.append(Role("reference", reference.first, folders.base(reference.first), own))
    named: tuple[tuple[Part, Sequence[str]], ...] = (("reward", trained), ("watched", watched))
    for part, names in named:
        for folder in (one for name in names for one in rewards.models_of(name)):
            found.append(Role(part, folder, folders.base(folder), _adapter(folder)))
    return tuple(found)


def shared_backbones(roles: Sequence[Role]) -> Mapping[Path, tuple[Role, ...]]:
    """The backbones of models with adapters, resolved, with all models on them: loaded once."""
    found: dict[Path, tuple[Role, ...]] = {}
    for role in roles:
        if role.backbone is not None:
            place = role.backbone.resolve()
            found[place] = (*found.get(place, ()), role)
    return {place: users for place, users in found.items() if any(one.own for one in users)}


def _learner(part: Part, folder: Path, rank: int | None) -> Role:
    if folders.is_adapter(folder):
        own = _adapter(folder)
        if part == "critic" and not assembly.has_score_head(folder):
            own += _head(folders.base(folder))
        return Role(part, folder, folders.base(folder), own, learns=True)
    if rank is None:
        unused = _output_layer(folder) if part == "critic" else 0
        return Role(part, folder, None, whole(folder) - unused, learns=True)
    matrices = [
        spec.shape
        for name, spec in weight_files.open_weight_files(folder).tensors.items()
        if len(spec.shape) == 2 and not any(word in name for word in _NOT_ADAPTED)
    ]
    own = rank * sum(map(sum, matrices)) + (_head(folder) if part == "critic" else 0)
    return Role(part, folder, folder, own, learns=True)


def _head(folder: Path) -> int:
    """Parameters of a score head: one for each channel, of which a norm has one weight, too."""
    tensors = weight_files.open_weight_files(folder).tensors.values()
    return max((spec.shape[0] for spec in tensors if len(spec.shape) == 1), default=0)


def _output_layer(folder: Path) -> int:
    """Parameters of the output layer of a language model, which a critic does not have."""
    tensors = weight_files.open_weight_files(folder).tensors.items()
    return sum(spec.elements for name, spec in tensors if name.startswith("lm_head."))


def stored(folder: Path) -> int:
    """Parameters stored in a folder; for an adapter, without its base."""
    return _adapter(folder) if folders.is_adapter(folder) else whole(folder)


def whole(folder: Path) -> int:
    """Parameters of a model that is not an adapter."""
    return weight_files.open_weight_files(folder).parameters


def in_layers(folder: Path) -> int:
    """Parameters of a model that are in its layers: not embeddings, final norm and output layer."""
    tensors = weight_files.open_weight_files(folder).tensors.items()
    return sum(spec.elements for name, spec in tensors if assembly.LAYER.search(name))


def _adapter(folder: Path) -> int:
    """Parameters of an adapter; 0 for a whole model."""
    if not folders.is_adapter(folder):
        return 0
    return weight_files.open_adapter_weights(folder).parameters
