"""Sources of reward: reward models and Python functions, as one thing that scores answers."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, Self, TextIO

import torch

from salsa_cli import data
from salsa_cli.data import Prompt
from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError
from salsa_cli.maths import ensembles, statistics
from salsa_cli.models import backbones, loading
from salsa_cli.models.backbones import BackboneSource
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import RewardModel
from salsa_cli.models.tokens import Answer
from salsa_cli.weights import folders


class Scorer(Protocol):
    """Scores `[B]` in float32 on the CPU; higher is better."""

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor: ...


@dataclass(frozen=True)
class FunctionScorer:
    """A Python function `f(prompts, answers) -> scores` over lists of equal length."""

    name: str
    function: Callable[[list[Any], list[str]], Sequence[float]]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        """Call the function and check what it returns."""
        texts = [answer.text for answer in answers]
        try:
            with _stdout_left_alone():
                values = [
                    float(v) for v in self.function([data.prompt_json(p) for p in prompts], texts)
                ]
        except Exception as error:
            raise SalsaError(f"{self.name} failed: {type(error).__name__}: {error}") from error
        if len(values) != len(texts):
            raise SalsaError(f"{self.name} gave {len(values)} scores for {len(texts)} answers")
        if any(value != value or abs(value) == float("inf") for value in values):
            raise SalsaError(f"{self.name} gave a score that is no finite number: {values}")
        return torch.tensor(values, dtype=torch.float32)


@dataclass(frozen=True)
class RewardScale:
    """Mean and standard deviation of raw scores; what is subtracted and divided by."""

    mean: float
    std: float

    @classmethod
    def of(cls, scores: torch.Tensor) -> Self:
        """That of scores [N]; equal scores keep their size."""
        mean, std = statistics.mean_and_std(scores.double().numpy())
        return cls(mean, std or 1.0)


def stored_scale(folder: Path) -> RewardScale | None:
    """The scale that a reward model's folder holds; its scores are taken by it."""
    found = folders.reward_scale(folder)
    return RewardScale(float(found["mean"]), float(found["std"])) if found else None


def unscaled(names: Sequence[str]) -> list[Path]:
    """The models among some rewards that hold no scale, so that their scores are taken raw."""
    return [one for name in names for one in models_of(name) if stored_scale(one) is None]


@dataclass(frozen=True)
class Scores:
    """Rewards of answers: `total` `[B]`, and its members `[N, B]`, scaled, in their order."""

    total: torch.Tensor
    members: torch.Tensor


@dataclass(frozen=True)
class Ensemble:
    """One or several rewards and the rule that makes one of them."""

    members: tuple[Scorer, ...]
    combine: Callable[[torch.Tensor], torch.Tensor]
    scales: tuple[RewardScale, ...] = ()

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Scores:
        """Score answers by every member, scaled where there are scales, and by the rule."""
        raw = self.raw(prompts, answers)
        if self.scales:
            means = torch.tensor([scale.mean for scale in self.scales])
            deviations = torch.tensor([scale.std for scale in self.scales])
            raw = (raw - means[:, None]) / deviations[:, None]
        return Scores(self.combine(raw), raw)

    def raw(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        """Scores `[N, B]` of the members as they give them."""
        return torch.stack([member.score(prompts, answers) for member in self.members])


@dataclass(frozen=True)
class Divided:
    """A reward that scores each answer by itself: every process scores its part."""

    scorer: Scorer
    runtime: Runtime

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        """Score the part of this process, and put the parts together."""
        rows = self.runtime.part(torch.arange(len(answers)))
        mine = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
        scores = self.scorer.score(prompts[mine], answers[mine]) if len(rows) else torch.empty(0)
        return self.runtime.whole(scores, rows, len(answers))


@dataclass(frozen=True)
class Central:
    """A reward that may depend on the batch, its order or the calls before: one process scores."""

    scorer: Scorer
    runtime: Runtime

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        """Score all answers in the main process, and tell the others."""
        return self.runtime.from_main(lambda: self.scorer.score(prompts, answers))


def combination(rule: str, weight: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function `[N, B] -> [B]` of `mean`, `min` or `uncertainty`."""
    if rule == "uncertainty":
        return partial(ensembles.uncertainty_weighted, weight=weight)
    return {"mean": ensembles.mean, "min": ensembles.least}[rule]


@dataclass(frozen=True)
class MeanScorer:
    """The mean of several reward models' normalised scores: an ensemble's folder as one reward."""

    members: tuple[Scorer, ...]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        """Score by every member, and average."""
        return torch.stack([one.score(prompts, answers) for one in self.members]).mean(0)


def is_function(name: str) -> bool:
    """Whether a reward is named as a function (`module:function`, `file.py:function`)."""
    return ":" in name and not Path(name).exists()


def resolve(name: str) -> str:
    """Check that a reward exists before anything is loaded, fetching it from the hub if needed."""
    if is_function(name):
        _function(name)
        return name
    if folders.members(Path(name)):
        return name
    return str(loading.find(name))


def models_of(name: str) -> tuple[Path, ...]:
    """The models behind a reward: one, the members of an ensemble, or none for a function."""
    if is_function(name):
        return ()
    return folders.members(Path(name)) or (Path(name),)


def load(name: str, runtime: Runtime, source: BackboneSource = backbones.unshared) -> Scorer:
    """A reward model's folder, an ensemble's, or a function, ready to score on all processes."""
    scorer = _load(name, runtime, source)
    if runtime.processes == 1:
        return scorer
    return Central(scorer, runtime) if is_function(name) else Divided(scorer, runtime)


def _load(name: str, runtime: Runtime, source: BackboneSource) -> Scorer:
    if is_function(name):
        return FunctionScorer(name, _function(name))
    if members := folders.members(Path(name)):
        return MeanScorer(tuple(_load(str(member), runtime, source) for member in members))
    return loading.load_reward_model(Path(name), runtime.frozen_dtype, runtime.device, source)


def modules(scorer: Scorer) -> Iterator[Module]:
    """The models that score, of one reward; none for a function."""
    if isinstance(scorer, MeanScorer):
        for member in scorer.members:
            yield from modules(member)
    if isinstance(scorer, Divided):
        yield from modules(scorer.scorer)
    if isinstance(scorer, RewardModel):
        yield scorer.model


def _function(name: str) -> Callable[[list[Any], list[str]], Sequence[float]]:
    place, _, attribute = name.rpartition(":")
    function = getattr(_module(name, place), attribute, None)
    if not callable(function):
        raise SalsaError(f"{name}: {place} has no function '{attribute}'")
    found: Callable[[list[Any], list[str]], Sequence[float]] = function
    return found


def _module(name: str, place: str) -> ModuleType:
    try:
        with _stdout_left_alone():
            if not place.endswith(".py"):
                return importlib.import_module(place)
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise ImportError(f"{place} is no Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    except Exception as error:
        raise SalsaError(
            f"{name}: cannot import {place} ({type(error).__name__}: {error})"
        ) from error


def _stdout_left_alone() -> AbstractContextManager[TextIO]:
    """What a function prints goes to stderr: stdout belongs to the result."""
    return redirect_stdout(sys.stderr)
