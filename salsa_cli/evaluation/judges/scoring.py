"""Scoring judges: reward models and Python functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import SalsaError
from salsa_cli.evaluation.judges import JudgeSpec
from salsa_cli.evaluation.questions.answer_files import Replies
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.evaluation.verdicts.verdict import Verdict
from salsa_cli.maths import statistics
from salsa_cli.models.tokenization import Answer
from salsa_cli.reward_models import rewards
from salsa_cli.reward_models.rewards import Scorer
from salsa_cli.runs.events import Advanced, Report, Working


@dataclass(frozen=True)
class Turn:
    """One turn of a question, counted from 1."""

    question: Question
    number: int


@dataclass(frozen=True)
class Scored:
    """The scores of one judge for the answers of each model, in the order of `turns`."""

    judge: str
    turns: Sequence[Turn]
    scores: Mapping[str, Sequence[float]]


def turns_of(questions: Sequence[Question]) -> list[Turn]:
    """All turns of all questions, in their order."""
    return [Turn(one, 1 + index) for one in questions for index in range(one.turns)]


def score(
    judge: JudgeSpec,
    questions: Sequence[Question],
    answers: Mapping[str, Replies],
    *,
    batch_size: int,
    runtime: Runtime,
    report: Report,
) -> Scored:
    """Score the answers of every model with one judge; each turn is scored in its context."""
    report(Working(f"loading {judge.name}"))
    scorer = rewards.load(judge.source, runtime)
    turns = turns_of(questions)
    total, done = len(turns) * len(answers), 0
    scores: dict[str, list[float]] = {}
    for model, replies in answers.items():
        scores[model] = []
        for first in range(0, len(turns), batch_size):
            part = turns[first : first + batch_size]
            scores[model] += _checked(judge, model, part, score_turns(scorer, part, replies))
            done += len(part)
            report(Advanced(f"judging by {judge.name}", done, total, "answers"))
    return Scored(judge.name, turns, scores)


def score_turns(scorer: Scorer, turns: Sequence[Turn], replies: Replies) -> list[float]:
    """Scores of some turns, computed in one batch."""
    prompts, answers = [], []
    for turn in turns:
        *before, last = replies[turn.question.id][: turn.number]
        prompts.append(turn.question.conversation([reply.text for reply in before]))
        answers.append(Answer(last.text, last.finished))
    return [float(value) for value in scorer.score(prompts, answers)]


def _checked(
    judge: JudgeSpec, model: str, turns: Sequence[Turn], scores: list[float]
) -> list[float]:
    """The scores; refuses values that are not finite (overflow of float32, NaN)."""
    for turn, value in zip(turns, scores, strict=True):
        if not np.isfinite(value):
            raise SalsaError(
                f"{judge.name}: the score of {model} on question {turn.question.id} is {value}; "
                "expected a finite number in float32"
            )
    return scores


def verdicts(scored: Scored, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
    """These pairs of models on every turn: the higher score wins, equal scores tie."""
    found = []
    for a, b in pairs:
        first, second = scored.scores[a], scored.scores[b]
        outcomes = statistics.pair_outcomes(np.asarray(first), np.asarray(second))
        found += [
            Verdict(
                question=turn.question.id,
                judge=scored.judge,
                a=a,
                b=b,
                turn=turn.number,
                outcome=float(outcome),
                score_a=score_a,
                score_b=score_b,
                category=turn.question.category,
            )
            for turn, outcome, score_a, score_b in zip(
                scored.turns, outcomes, first, second, strict=True
            )
        ]
    return found
