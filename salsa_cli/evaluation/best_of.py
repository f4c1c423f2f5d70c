"""`--best-of N`: score many answers of a model to each prompt, as a baseline for training."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from salsa_cli.config.eval import EvalConfig
from salsa_cli.data import stable_seed
from salsa_cli.devices.runtime import Runtime
from salsa_cli.errors import UsageError
from salsa_cli.evaluation import landscape
from salsa_cli.evaluation.answers import Generation
from salsa_cli.evaluation.judges import JudgeSpec
from salsa_cli.evaluation.judges.scoring import Scored
from salsa_cli.evaluation.questions import answer_files
from salsa_cli.evaluation.questions.answer_files import Replies
from salsa_cli.evaluation.questions.benchmarks import Question
from salsa_cli.evaluation.results import best_of_rows
from salsa_cli.evaluation.results.best_of_rows import AgainstBestOf, BestOfRow, Rewards
from salsa_cli.evaluation.results.win_rates import Resampling
from salsa_cli.models import loading
from salsa_cli.models.backbones import Placement
from salsa_cli.reward_models import rewards
from salsa_cli.runs.events import Advanced, Report

FILE = "best_of.jsonl"


def sampled_models(config: EvalConfig, models: Sequence[str]) -> tuple[str, ...]:
    """The models whose best of N is estimated; none without `--best-of`."""
    if config.best_of is None:
        return ()
    return config.best_of_models or tuple(models)


def check(
    config: EvalConfig,
    models: Sequence[str],
    judges: Sequence[JudgeSpec],
    questions: Sequence[Question],
    how: Generation,
) -> None:
    """Refuse `--best-of` where it cannot be estimated.

    Raises:
        UsageError: no judge scores, a model is not run here, or all its answers would be the same.
    """
    if config.best_of is None:
        return
    if not any(judge.scores for judge in judges):
        raise UsageError("--best-of needs a judge that returns scores: rm:MODEL or python:...")
    if unknown := [name for name in config.best_of_models if name not in models]:
        raise UsageError(
            f"--best-of-models {unknown[0]}: no such model; expected one of {', '.join(models)}"
        )
    if greedy := [one.id for one in questions if how.temperature_of(one) == 0]:
        raise UsageError(
            f"--best-of needs answers that differ, but prompt {greedy[0]} is answered at "
            "temperature 0; choose another --temperature"
        )


def estimate(
    models: Mapping[str, Path],
    questions: Sequence[Question],
    answered: Mapping[str, Replies],
    judges: Sequence[JudgeSpec],
    scored: Sequence[Scored],
    config: EvalConfig,
    how: Generation,
    folder: Path,
    runtime: Runtime,
    report: Report,
) -> tuple[tuple[BestOfRow, ...], tuple[AgainstBestOf, ...]]:
    """The best of 1 ... N of the models, and how all others compare with the best of N."""
    curves: list[BestOfRow] = []
    gaps: list[AgainstBestOf] = []
    drawn = Resampling(config.seed, config.draws)
    scores = {one.judge: {name: _by_question(one, name) for name in one.scores} for one in scored}
    scoring_judges = [judge for judge in judges if judge.scores]
    for name in sampled_models(config, tuple(models)):
        assert config.best_of is not None
        found = sample(
            name,
            models[name],
            questions,
            answered[name],
            scoring_judges,
            config.answers_per_prompt,
            how,
            folder / FILE,
            runtime,
            report,
        )
        curves += best_of_rows.curve(name, found, config.best_of, drawn)
        gaps += best_of_rows.against(name, found, config.best_of, scores, drawn)
    return tuple(curves), tuple(gaps)


def sample(
    name: str,
    model: Path,
    questions: Sequence[Question],
    first: Replies,
    judges: Sequence[JudgeSpec],
    samples: int,
    how: Generation,
    file: Path,
    runtime: Runtime,
    report: Report,
) -> Rewards:
    """What every judge gives `samples` answers to each question, the first of which are known.

    All questions are answered once, then again with other seeds. The rewards of a pass are in
    `file` when it is finished, and are not made again; the answers are not kept.
    """
    found = {
        (row["sample"], row["judge"]): row["rewards"]
        for row in answer_files.whole_rows(file)
        if row["model"] == name
    }
    names = [judge.name for judge in judges]
    missing = [k for k in range(samples) if any((k, judge) not in found for judge in names)]
    if missing:
        loaded = loading.load_language_model(model, Placement(runtime.frozen_dtype, runtime.device))
        scorers = {judge.name: rewards.load(judge.source, runtime) for judge in judges}
        for done, k in enumerate(missing, start=1 + samples - len(missing)):
            other = replace(how, seed=stable_seed(how.seed, "best of", k))
            replies = landscape.replies_of(loaded, questions, other, runtime) if k else first
            rows = []
            for judge, scorer in scorers.items():
                given = landscape.mean_rewards(scorer, questions, replies, how.batch_size)
                found[k, judge] = given
                rows.append({"model": name, "sample": k, "judge": judge, "rewards": given})
            answer_files.append(file, rows)
            report(Advanced(f"samples of {name}", done, samples, "answers per prompt"))
    return {judge: np.column_stack([found[k, judge] for k in range(samples)]) for judge in names}


def _by_question(scored: Scored, model: str) -> list[float]:
    """The score of each question: the mean over its turns."""
    sums: dict[str, list[float]] = {}
    for turn, score in zip(scored.turns, scored.scores[model], strict=True):
        sums.setdefault(turn.question.id, []).append(score)
    return [float(np.mean(given)) for given in sums.values()]
