"""What the policy is held near: reference models, averages made when they are loaded, anchors."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from salsa_cli.errors import SalsaError, UsageError
from salsa_cli.models import assembly, averaging, loading
from salsa_cli.models.backbones import Placement
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import LanguageModel
from salsa_cli.records import JSON
from salsa_cli.weights import compatibility, folders, weight_files
from salsa_cli.weights.adapters import disagreements

_RECIPE = re.compile(r"\s*soup\((?P<inside>.*)\)\s*", re.DOTALL)
_EXPECTED = "expected soup(A,B,alpha=0.5) or soup(A,B,C,weights=0.5,0.3,0.2)"


@dataclass(frozen=True)
class Recipe:
    """One reference: a model, or the weighted average of several, which sum to 1."""

    name: str
    models: tuple[str, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Reference:
    """A recipe whose models were found."""

    recipe: Recipe
    folders: tuple[Path, ...]

    @property
    def name(self) -> str:
        """As it was named on the command line."""
        return self.recipe.name

    @property
    def first(self) -> Path:
        """The folder whose tokenizer and configuration stand for the reference."""
        return self.folders[0]

    @property
    def ingredients(self) -> tuple[str, ...]:
        """The models that it is the average of; none for a model that is not a soup."""
        if len(self.folders) > 1:
            return self.recipe.models
        return folders.ingredients(self.first)

    def describe(self) -> JSON:
        """The reference for the record, with the digests of its weights."""
        described: list[JSON] = [
            {**folders.describe(folder), "weight": weight}
            for folder, weight in zip(self.folders, self.recipe.weights, strict=True)
        ]
        return folders.describe(self.first) if len(described) == 1 else described


@dataclass(frozen=True)
class Anchors:
    """The models in addition to the references that the policy's KL is measured to, by name.

    `lost` are ingredients that are no longer where a soup's record says.
    """

    known: Mapping[str, Path]
    lost: tuple[str, ...]


def parse(name: str) -> Recipe:
    """Read a model's name, `soup(A,B,alpha=X)` or `soup(A,B,C,weights=X,Y,Z)`.

    Raises:
        UsageError: it begins like a recipe and is none.
    """
    match = _RECIPE.fullmatch(name)
    if match is None:
        if name.startswith("soup(") and not Path(name).exists():
            raise UsageError(f"--ref {name}: missing closing parenthesis; {_EXPECTED}")
        return Recipe(name, (name,), (1.0,))
    parts = [part.strip() for part in match["inside"].split(",")]
    named = next((i for i, part in enumerate(parts) if "=" in part), len(parts))
    ingredients = tuple(parts[:named])
    if len(ingredients) < 2 or not all(ingredients):
        raise UsageError(f"--ref {name}: a soup needs two or more models; {_EXPECTED}")
    return Recipe(name, ingredients, _weights(name, parts[named:], len(ingredients)))


def find(recipe: Recipe) -> Reference:
    """Find the models of a recipe, and refuse, all reasons at once, those that have no average."""
    found = tuple(loading.find(model) for model in recipe.models)
    if len(found) > 1 and (reasons := _differences(found)):
        raise SalsaError(
            f"--ref {recipe.name}: these models cannot be averaged: " + "; ".join(reasons)
        )
    return Reference(recipe, found)


def names(found: Sequence[Reference]) -> list[str]:
    """Names of the references in metrics: `reference` for one, for several those given."""
    return ["reference"] if len(found) == 1 else [one.name for one in found]


def load(reference: Reference, placement: Placement) -> Module:
    """The reference model, frozen.

    An average holds all its ingredients in memory while it is made; its values are those that
    `salsa soup` writes, each the float64 average rounded once to the type of the first model. That
    of adapters is their exact sum, in its low-rank form.
    """
    if len(reference.folders) == 1:
        return loading.load_language_model(reference.first, placement).model
    if folders.is_adapter(reference.first):
        mixing = reference.recipe.weights
        return assembly.soup_of_adapters(reference.folders, mixing, placement)
    cpu = torch.device("cpu")
    parts = [
        loading.load_language_model(folder, Placement(None, cpu)).model
        for folder in reference.folders
    ]
    for tensors in zip(*(part.parameters() for part in parts), strict=True):
        if averaging.can_average(tensors[0]):
            tensors[0].data.copy_(averaging.average(tensors, reference.recipe.weights))
    return parts[0].to(device=placement.device, dtype=placement.dtype)


def anchors(policy: Path, found: Sequence[Reference]) -> Anchors:
    """The start, and every ingredient of a reference."""
    known = {"start": policy}
    lost = []
    for name in dict.fromkeys(name for reference in found for name in reference.ingredients):
        try:
            known[name] = loading.find(name)
        except SalsaError:
            lost.append(name)
    return Anchors(known, tuple(lost))


@torch.no_grad()
def follow(reference: Module, policy: Module, rate: float) -> None:
    """Move a reference towards the policy in place: ref <- (1 - rate) ref + rate * policy.

    With a small rate every update this is the exponential moving average of WARP (Ramé et al.
    2024); with a rate near 1 now and then, the updated reference of TR-DPO (Gorbatovski et al.
    2024).
    """
    for ours, theirs in zip(reference.parameters(), policy.parameters(), strict=True):
        ours.lerp_(theirs.to(ours), rate)


def loaded_in_turn(
    known: Mapping[str, Path], placement: Placement
) -> Iterator[tuple[tuple[str, ...], LanguageModel]]:
    """Every anchor once, with all its names, one at a time so that memory holds only one."""
    for folder in dict.fromkeys(path.resolve() for path in known.values()):
        names = tuple(name for name, path in known.items() if path.resolve() == folder)
        yield names, loading.load_language_model(folder, placement)


def _differences(found: Sequence[Path]) -> list[str]:
    """Why models, or adapters, have no average."""
    adapted = [folder for folder in found if folders.is_adapter(folder)]
    if not adapted:
        opened = [weight_files.open_weight_files(folder) for folder in found]
        return [*compatibility.compare(found).fatal, *weight_files.differences(opened)]
    if len(adapted) < len(found):
        return [f"{adapted[0]} is an adapter, but not all of the models are"]
    tokens = [line for one in found[1:] for line in loading.token_differences(found[0], one)]
    return [*tokens, *disagreements(tuple(map(assembly.adapter, found)))]


def _weights(name: str, options: Sequence[str], count: int) -> tuple[float, ...]:
    if not options:
        return (1.0 / count,) * count
    key, _, first = options[0].partition("=")
    try:
        numbers = tuple(float(number) for number in (first, *options[1:]))
    except ValueError as error:
        raise UsageError(
            f"--ref {name}: {','.join(options)} is not a list of numbers; {_EXPECTED}"
        ) from error
    match key.strip():
        case "alpha" if len(numbers) == 1 and count == 2 and 0 <= numbers[0] <= 1:
            return (1.0 - numbers[0], numbers[0])
        case "weights" if len(numbers) == count and abs(sum(numbers) - 1.0) <= 1e-9:
            return numbers
    raise UsageError(f"--ref {name}: {','.join(options)} does not fit {count} models; {_EXPECTED}")
