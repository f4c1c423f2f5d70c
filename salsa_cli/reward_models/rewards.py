"""Rewards: reward models and Python functions behind one interface that scores answers."""

import functools
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
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
from salsa_cli.formatting import counted
from salsa_cli.maths import ensembles, statistics
from salsa_cli.models import backbones, input_limits, loading
from salsa_cli.models.backbones import BackboneSource, Placement
from salsa_cli.models.forward import Module
from salsa_cli.models.loading import RewardModel
from salsa_cli.models.tokenization import Answer
from salsa_cli.reward_models.surroundings import Surroundings
from salsa_cli.weights import folders


class Scorer(Protocol):
    """Scores `[B]` in float32 on the CPU; higher is better."""

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor: ...


@dataclass(frozen=True)
class FunctionScorer:
    """A Python function `f(prompts, answers) -> scores` over lists of equal length."""

    name: str
    function: Callable[[list[Any], list[str]], Sequence[float]]
    surroundings: Surroundings

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        """Call the function and check its scores."""
        try:
            with _stdout_to_stderr(), self.surroundings.entered():
                given = self.function(
                    [data.prompt_json(prompt) for prompt in prompts],
                    [answer.text for answer in answers],
                )
                values = self._numbers(given)
        except (SalsaError, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit and GeneratorExit would end the run in silence
            raise SalsaError(f"{self.name} failed: {type(error).__name__}: {error}") from error
        if len(values) != len(answers):
            raise SalsaError(
                f"{self.name} returned {counted(len(values), 'score')} for "
                f"{counted(len(answers), 'answer')}"
            )
        scores = torch.tensor(values, dtype=torch.float32)
        if not bool(scores.isfinite().all()):
            raise SalsaError(
                f"{self.name} returned a score that is not a finite float32 number: {values}"
            )
        return scores

    def _numbers(self, given: object) -> list[float]:
        """The scores as numbers. Text and sets can be iterated, too, but are no scores."""
        if inspect.iscoroutine(given):
            given.close()  # else Python warns that it was never awaited
        if isinstance(given, str | bytes | Mapping | Set) or not _iterable(given):
            raise self._unexpected(_named(given))
        values = list(given.detach() if isinstance(given, torch.Tensor) else given)  # type: ignore[call-overload]
        if any(isinstance(value, str | bytes) for value in values):
            raise self._unexpected("texts")
        try:
            return [float(value) for value in values]
        except (TypeError, ValueError) as error:
            shaped = getattr(given, "shape", None) is not None
            items = "" if shaped else f" of {', '.join(sorted({_named(one) for one in values}))}"
            raise self._unexpected(f"{_named(given)}{items}") from error

    def _unexpected(self, found: str) -> SalsaError:
        return SalsaError(
            f"{self.name} returned {found}; expected a list with one number per answer"
        )


def _iterable(value: object) -> bool:
    try:
        iter(value)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def _named(value: object) -> str:
    """A value by its type, with its shape if it has one."""
    if value is None:
        return "None"
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {list(shape)}")


@dataclass(frozen=True)
class RewardScale:
    """Mean and standard deviation of raw scores; (score - mean) / std is the reward."""

    mean: float
    std: float

    @classmethod
    def of(cls, scores: torch.Tensor) -> Self:
        """The scale of scores `[N]`; the deviation is 1 where all are equal."""
        mean, std = statistics.mean_and_std(scores.double().numpy())
        return cls(mean, std or 1.0)


def stored_scale(folder: Path) -> RewardScale | None:
    """The scale that is stored in the folder of a reward model; its scores are normalised by it."""
    found = folders.reward_scale(folder)
    return RewardScale(float(found["mean"]), float(found["std"])) if found else None


def unscaled(names: Sequence[str]) -> list[Path]:
    """The models of some rewards that have no stored scale, so their raw scores are used."""
    return [one for name in names for one in models_of(name) if stored_scale(one) is None]


@dataclass(frozen=True)
class Scores:
    """Rewards of answers: `total` `[B]`, and the normalised scores `[N, B]` of the members."""

    total: torch.Tensor
    members: torch.Tensor


@dataclass(frozen=True)
class Ensemble:
    """One or several rewards, and the rule that combines them."""

    members: tuple[Scorer, ...]
    combine: Callable[[torch.Tensor], torch.Tensor]
    scales: tuple[RewardScale, ...] = ()

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> Scores:
        """Score answers with every member, normalise where there are scales, and combine."""
        raw = self.raw(prompts, answers)
        if self.scales:
            means = torch.tensor([scale.mean for scale in self.scales])
            deviations = torch.tensor([scale.std for scale in self.scales])
            raw = (raw - means[:, None]) / deviations[:, None]
        return Scores(self.combine(raw), raw)

    def raw(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        """Raw scores `[N, B]` of the members."""
        return torch.stack([member.score(prompts, answers) for member in self.members])


@dataclass(frozen=True)
class DistributedScorer:
    """A reward that scores answers independently: every process scores its part."""

    scorer: Scorer
    runtime: Runtime

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        """Score the part of this process, and gather all parts."""
        rows = self.runtime.part(torch.arange(len(answers)))
        mine = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
        scores = self.scorer.score(prompts[mine], answers[mine]) if len(rows) else torch.empty(0)
        return self.runtime.whole(scores, rows, len(answers))


@dataclass(frozen=True)
class MainProcessScorer:
    """A reward that may depend on the batch or on earlier calls: one process scores."""

    scorer: Scorer
    runtime: Runtime

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        """Score all answers in the main process and broadcast the scores."""
        return self.runtime.from_main(lambda: self.scorer.score(prompts, answers))


def combination(rule: str, weight: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function `[N, B] -> [B]` of `mean`, `min` or `uncertainty`."""
    if rule == "uncertainty":
        return partial(ensembles.uncertainty_weighted, weight=weight)
    return {"mean": ensembles.mean, "min": ensembles.least}[rule]


@dataclass(frozen=True)
class MeanScorer:
    """The folder of an ensemble as one reward: the mean of its members' normalised scores."""

    members: tuple[Scorer, ...]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> torch.Tensor:
        """Score with every member, and average."""
        return torch.stack([one.score(prompts, answers) for one in self.members]).mean(0)


def is_function(name: str) -> bool:
    """Whether a reward is named as a function (`module:function`, `file.py:function`)."""
    return ":" in name and not Path(name).exists()


def resolve(name: str) -> str:
    """Check that a reward exists, and fetch it from the hub if needed; loads no weights."""
    if is_function(name):
        _function(name)
        return name
    if folders.members(Path(name)):
        return name
    return str(loading.find(name))


def models_of(name: str) -> tuple[Path, ...]:
    """The models of a reward: one, the members of an ensemble, or none for a function."""
    if is_function(name):
        return ()
    return folders.members(Path(name)) or (Path(name),)


def check_prompts(
    name: str,
    prompts: Sequence[Prompt],
    source: str,
    answer_length: int,
    used: Collection[int] | None = None,
) -> None:
    """Refuse prompts that a model of a reward cannot read with answers of this many tokens.

    Raises:
        SalsaError: names the tokens, the lengths and the rows.
    """
    for folder in models_of(name):
        tokenizer = loading.load_tokenizer(folder)
        input_limits.check_prompts(folder, tokenizer, prompts, source, answer_length, used)


def load(name: str, runtime: Runtime, source: BackboneSource = backbones.unshared) -> Scorer:
    """Load a reward model, an ensemble or a function, to score on all processes."""
    scorer = _load(name, runtime, source)
    if runtime.processes == 1:
        return scorer
    return (
        MainProcessScorer(scorer, runtime)
        if is_function(name)
        else DistributedScorer(scorer, runtime)
    )


def _load(name: str, runtime: Runtime, source: BackboneSource) -> Scorer:
    if is_function(name):
        return FunctionScorer(name, _function(name), _surroundings(name.rpartition(":")[0]))
    if members := folders.members(Path(name)):
        return MeanScorer(tuple(_load(str(member), runtime, source) for member in members))
    return loading.load_reward_model(
        Path(name), Placement(runtime.frozen_dtype, runtime.device, source)
    )


def modules(scorer: Scorer) -> Iterator[Module]:
    """The transformers models of one reward; none for a function."""
    if isinstance(scorer, MeanScorer):
        for member in scorer.members:
            yield from modules(member)
    if isinstance(scorer, DistributedScorer):
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


@functools.cache
def _surroundings(place: str) -> Surroundings:
    """Those of one module, which is imported once, however many of its functions are rewards."""
    return Surroundings()


def _module(name: str, place: str) -> ModuleType:
    try:
        with _stdout_to_stderr(), _surroundings(place).entered():
            if not place.endswith(".py"):
                return importlib.import_module(place)
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            if spec is None or spec.loader is None:
                raise ImportError(f"{place} is not a Python file")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    except (Exception, SystemExit) as error:
        raise SalsaError(
            f"{name}: cannot import {place} ({type(error).__name__}: {error})"
        ) from error


def _stdout_to_stderr() -> AbstractContextManager[TextIO]:
    """Redirect what a function prints to stderr: stdout is for the result."""
    return redirect_stdout(sys.stderr)
