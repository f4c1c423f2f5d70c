"""Where models lie: their KL to anchors, and the rewards of soups on a line or in a triangle.

A soup is averaged here as `salsa soup` averages it, to the same values, but in memory: no folder is
written, and nothing is read but the ingredients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation import answers
from salsa_cli.evaluation.answers import Generation
from salsa_cli.evaluation.judges import JudgeSpec, scoring
from salsa_cli.evaluation.questions import answer_files
from salsa_cli.evaluation.questions.answer_files import Replies
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.models import averaging, loading, shapes
from salsa_cli.models.backbones import Placement
from salsa_cli.models.loading import LanguageModel
from salsa_cli.records import read_json
from salsa_cli.reward_models import rewards
from salsa_cli.reward_models.rewards import Scorer
from salsa_cli.runs.events import Advanced, Report
from salsa_cli.weights import compatibility, tied_embeddings, weight_files


@dataclass(frozen=True)
class Ingredients:
    """Models fine-tuned from the same base, in memory in the types in which they are stored."""

    folders: tuple[Path, ...]
    states: tuple[dict[str, torch.Tensor], ...]
    model: LanguageModel
    """Takes the weights of one soup after the other."""

    @property
    def template(self) -> Path:
        """The folder of `model`."""
        return _template(self.folders)

    def mix(self, weights: Sequence[float]) -> LanguageModel:
        """The soup with these weights; it stands until the next one is mixed."""
        target = self.model.model.state_dict()
        for name, first in self.states[0].items():
            if averaging.can_average(first):
                tensors = [state[name] for state in self.states]
                target[name].copy_(averaging.average(tensors, weights))
        return self.model


@dataclass(frozen=True)
class SoupRewards:
    """The reward of one soup's answers to each question, by one judge."""

    weights: tuple[float, ...]
    judge: str
    rewards: Sequence[float]


def check(folders: Sequence[Path]) -> None:
    """Refuse models that are not fine-tuned from the same base.

    Raises:
        SalsaError: lists all differences.
    """
    reasons = [
        *compatibility.compare(folders).fatal,
        *weight_files.differences([weight_files.open_weight_files(folder) for folder in folders]),
    ]
    if reasons:
        listed = "\n".join(f"  - {reason}" for reason in reasons)
        raise SalsaError(
            "these models cannot be averaged; expected fine-tuned models of the same base:\n"
            f"{listed}"
        )


def load(folders: Sequence[Path], runtime: Runtime) -> Ingredients:
    """Models to be mixed; `check` has passed them."""
    cpu = torch.device("cpu")
    states = []
    for folder in folders:
        stored = loading.load_language_model(folder, Placement(shapes.stored_dtype(folder), cpu))
        states.append({n: t.contiguous() for n, t in stored.model.state_dict().items()})
    template = _template(folders)
    model = loading.load_language_model(template, Placement(runtime.frozen_dtype, runtime.device))
    return Ingredients(tuple(folders), tuple(states), model)


def _template(folders: Sequence[Path]) -> Path:
    """The first model with an output embedding of its own, which can take any weights."""
    configs = {folder: read_json(folder / "config.json") for folder in folders}
    if len({repr(config.get(tied_embeddings.KEY)) for config in configs.values()}) == 1:
        return folders[0]
    untied = (f for f, config in configs.items() if not tied_embeddings.is_tied(config))
    return next(untied, folders[0])


def line(points: int) -> list[tuple[float, ...]]:
    """Weights of two models, from the first to the second in equal steps."""
    last = points - 1
    return [((last - step) / last, step / last) for step in range(points)]


def triangle(points: int) -> list[tuple[float, ...]]:
    """Weights of three models on a regular grid, `points` on each edge."""
    last = points - 1
    return [
        ((last - j - k) / last, j / last, k / last)
        for j in range(points)
        for k in range(points - j)
    ]


def rewards_of(
    folders: Sequence[Path],
    grid: Sequence[tuple[float, ...]],
    questions: Sequence[Question],
    judges: Sequence[JudgeSpec],
    how: Generation,
    file: Path,
    runtime: Runtime,
    report: Report,
) -> list[SoupRewards]:
    """What every judge gives the answers of every soup; those in `file` are not made again."""
    names = [str(folder) for folder in folders]
    found = {
        (tuple(row["weights"]), row["judge"]): row["rewards"]
        for row in answer_files.whole_rows(file)
        if row["models"] == names
    }
    missing = [weights for weights in grid if any((weights, j.name) not in found for j in judges)]
    if missing:
        ingredients = load(folders, runtime)
        scorers = {judge.name: rewards.load(judge.source, runtime) for judge in judges}
        for done, weights in enumerate(missing, start=1 + len(grid) - len(missing)):
            replies = replies_of(ingredients.mix(weights), questions, how, runtime)
            rows = []
            for judge, scorer in scorers.items():
                given = mean_rewards(scorer, questions, replies, how.batch_size)
                found[weights, judge] = given
                rows.append({"models": names, "weights": weights, "judge": judge, "rewards": given})
            answer_files.append(file, rows)
            report(Advanced(f"soups of {len(folders)} models", done, len(grid), "soups"))
    return [
        SoupRewards(weights, judge.name, found[weights, judge.name])
        for judge in judges
        for weights in grid
    ]


def replies_of(
    model: LanguageModel, questions: Sequence[Question], how: Generation, runtime: Runtime
) -> Replies:
    """A model's answers to all turns, by question id."""
    return {
        name: turns
        for _, said in answers.answer(model, questions, how, runtime)
        for name, turns in said.items()
    }


def mean_rewards(
    scorer: Scorer, questions: Sequence[Question], replies: Replies, batch_size: int
) -> list[float]:
    """The reward of each question: the mean over its turns."""
    turns = scoring.turns_of(questions)
    scores: list[float] = []
    for first in range(0, len(turns), batch_size):
        scores += scoring.score_turns(scorer, turns[first : first + batch_size], replies)
    by_question: dict[str, list[float]] = {}
    for turn, score in zip(turns, scores, strict=True):
        by_question.setdefault(turn.question.id, []).append(score)
    return [float(np.mean(by_question[question.id])) for question in questions]
