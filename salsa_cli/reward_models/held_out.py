"""Scores of held-out pairs: assess, write and read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from salsa_cli.maths import statistics
from salsa_cli.records import read_rows, to_json, write_text
from salsa_cli.reward_models import assessment
from salsa_cli.reward_models.assessment import Assessment, PairScores
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.reward_models.rewards import RewardScale

SCORES = "eval_scores.jsonl"

REFERENCE_PAIRS = 256
"""Pairs that the mean and standard deviation of the scores are measured on."""


@dataclass(frozen=True)
class HeldOutAssessment:
    """The assessment of each member with its scale, and that of the whole ensemble."""

    members: tuple[Assessment, ...]
    scales: tuple[RewardScale, ...]
    together: Assessment


def assess(
    pairs: Sequence[EncodedPair], scores: Sequence[PairScores], scales: Sequence[RewardScale]
) -> HeldOutAssessment:
    """Assess one model, or the members of an ensemble and their mean, by their scores."""
    members = tuple(assessment.assess(pairs, one) for one in scores)
    together = members[0]
    if len(members) > 1:
        together = assessment.assess_ensemble(pairs, scores, scales)
    return HeldOutAssessment(members, tuple(scales), together)


def scale_of(*scores: PairScores) -> RewardScale:
    """Mean and standard deviation of all scores; the deviation is 1 where all are equal."""
    values = [side for one in scores for side in (one.chosen, one.rejected)]
    mean, std = statistics.mean_and_std(np.concatenate(values))
    return RewardScale(mean, std or 1.0)


def write_scores(path: Path, pairs: Sequence[EncodedPair], scores: PairScores) -> None:
    """Write one row per pair: its row in the data, its category, the raw scores."""
    sides = zip(pairs, scores.chosen.tolist(), scores.rejected.tolist(), strict=True)
    rows = [
        {"row": pair.row, "category": pair.category, "chosen": better, "rejected": worse}
        for pair, better, worse in sides
    ]
    write_text(path, "".join(to_json(row) + "\n" for row in rows))


def read_scores(path: Path) -> PairScores:
    """Read what `write_scores` wrote."""
    rows = read_rows(path)
    return PairScores(
        np.array([row["chosen"] for row in rows]), np.array([row["rejected"] for row in rows])
    )
