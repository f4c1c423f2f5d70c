"""Evaluates a reward model on held-out pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from salsa_cli.maths import calibration, rewardbench, statistics
from salsa_cli.maths.calibration import ReliabilityBin
from salsa_cli.maths.rewardbench import ScoredPrompt, Section
from salsa_cli.maths.statistics import Interval
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.reward_models.rewards import RewardScale

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class PairScores:
    """Raw scores, float64 `[n]`, of the chosen and the rejected answer of each held-out pair."""

    chosen: Vector
    rejected: Vector

    @property
    def leads(self) -> Vector:
        """By how much the better answer scores higher, [n]."""
        return self.chosen - self.rejected


@dataclass(frozen=True)
class Group:
    """The accuracy on one category of pairs; a tie counts as half, `ties` is their number."""

    name: str
    n: int
    accuracy: float
    low: float
    high: float
    ties: int


@dataclass(frozen=True)
class LengthBias:
    """Whether the model prefers longer answers.

    `correlation` is the correlation of score difference and length difference (in tokens), None
    where either does not vary; `longer_worse` are the pairs whose rejected answer is longer.
    """

    correlation: float | None
    longer_better: Group | None
    longer_worse: Group | None


@dataclass(frozen=True)
class EnsembleDisagreement:
    """How much the members of an ensemble disagree.

    `unanimous` is the share of pairs that all members rank the same way. `spread` is the standard
    deviation over the members of their normalised margins, averaged over the pairs.
    """

    unanimous: float
    spread: float
    accuracy_unanimous: float | None
    accuracy_divided: float | None


@dataclass(frozen=True)
class Assessment:
    """Accuracy with its 95% Wilson interval, calibration, categories, length bias.

    `accuracy` counts a tie as half. `margin` is the mean raw score of the chosen answer minus that
    of the rejected one (for an ensemble, of normalised scores). `calibration_error` is the expected
    calibration error of the Bradley-Terry probability, `reliability` its curve.
    """

    accuracy: Group
    margin: float
    calibration_error: float
    reliability: tuple[ReliabilityBin, ...]
    categories: tuple[Group, ...]
    sections: tuple[Section, ...]
    length: LengthBias
    disagreement: EnsembleDisagreement | None = None


def assess(pairs: Sequence[EncodedPair], scores: PairScores) -> Assessment:
    """Assess one model by its scores of held-out pairs.

    A contest counts as one pair: its worst right answer and its best wrong one.
    """
    return _assess(pairs, [scores], [RewardScale(0.0, 1.0)])


def assess_ensemble(
    pairs: Sequence[EncodedPair], members: Sequence[PairScores], scales: Sequence[RewardScale]
) -> Assessment:
    """Assess the mean of the members' normalised scores, which `ppo` and `eval` use.

    Its probability is the mean of the members' probabilities.
    """
    return _assess(pairs, members, scales)


def mean_scores(members: Sequence[PairScores], scales: Sequence[RewardScale]) -> PairScores:
    """The mean of the members' normalised scores of each answer."""
    return PairScores(
        np.mean([(m.chosen - s.mean) / s.std for m, s in zip(members, scales, strict=True)], 0),
        np.mean([(m.rejected - s.mean) / s.std for m, s in zip(members, scales, strict=True)], 0),
    )


def _assess(
    pairs: Sequence[EncodedPair], members: Sequence[PairScores], scales: Sequence[RewardScale]
) -> Assessment:
    mean = mean_scores(members, scales)
    better, worse = _decisive(pairs, mean)
    decisive = [
        replace(pairs[right], rejected=pairs[wrong].rejected)
        for right, wrong in zip(better, worse, strict=True)
    ]
    leads = mean.chosen[better] - mean.rejected[worse]
    each = np.stack([member.chosen[better] - member.rejected[worse] for member in members])
    curve = calibration.reliability(calibration.bradley_terry(each).mean(axis=0))
    categories = _categories(decisive, leads)
    return Assessment(
        accuracy=group("all", leads),
        margin=float(leads.mean()),
        calibration_error=calibration.expected_calibration_error(curve),
        reliability=curve,
        categories=categories,
        sections=_sections(pairs, mean, categories, decisive, leads),
        length=_length_bias(decisive, leads),
        disagreement=_disagreement(each, leads, scales) if len(members) > 1 else None,
    )


def _decisive(pairs: Sequence[EncodedPair], scores: PairScores) -> tuple[list[int], list[int]]:
    """Indices of the chosen and of the rejected score of each comparison.

    A pair is one comparison; so is a contest, between its worst right and its best wrong answer.
    """
    members: dict[object, list[int]] = {}
    for place, pair in enumerate(pairs):
        key = place if pair.contest is None else (pair.category, pair.contest)
        members.setdefault(key, []).append(place)
    return (
        [min(places, key=lambda place: scores.chosen[place]) for places in members.values()],
        [max(places, key=lambda place: scores.rejected[place]) for places in members.values()],
    )


def _sections(
    pairs: Sequence[EncodedPair],
    scores: PairScores,
    categories: Sequence[Group],
    decisive: Sequence[EncodedPair],
    leads: Vector,
) -> tuple[Section, ...]:
    """By the rules of RewardBench 2 for contests, by those of RewardBench 1 for pairs."""
    if pairs[0].contest is None:
        return rewardbench.sections(
            {one.name: (one.n, _strictly_right(decisive, leads, one.name)) for one in categories}
        )
    found: dict[tuple[str, str], tuple[list[float], list[float]]] = {}
    for place, pair in enumerate(pairs):
        right, wrong = found.setdefault((str(pair.category), str(pair.contest)), ([], []))
        right.append(float(scores.chosen[place]))
        wrong.append(float(scores.rejected[place]))
    return rewardbench.prompt_sections(
        [
            ScoredPrompt(name, subset, tuple(right), tuple(wrong))
            for (subset, name), (right, wrong) in found.items()
        ]
    )


def _disagreement(
    each: Vector, mean: Vector, scales: Sequence[RewardScale]
) -> EnsembleDisagreement:
    signs = np.sign(each)  # a tie is a third outcome
    alike = (signs == signs[0]).all(axis=0)
    normalised = each / np.array([[scale.std] for scale in scales])
    return EnsembleDisagreement(
        unanimous=float(alike.mean()),
        spread=float(normalised.std(axis=0).mean()),
        accuracy_unanimous=_share_right(mean[alike]),
        accuracy_divided=_share_right(mean[~alike]),
    )


def group(name: str, leads: Vector) -> Group:
    """The accuracy of some leads, ties as half, with its 95% Wilson interval."""
    ties = int((leads == 0).sum())
    interval: Interval = statistics.wilson_interval(_points(leads), len(leads))
    return Group(name, len(leads), interval.estimate, interval.low, interval.high, ties)


def _categories(pairs: Sequence[EncodedPair], leads: Vector) -> tuple[Group, ...]:
    names = sorted({pair.category for pair in pairs if pair.category is not None})
    return tuple(group(name, leads[_of_category(pairs, name)]) for name in names)


def _of_category(pairs: Sequence[EncodedPair], name: str) -> NDArray[np.bool_]:
    return np.array([pair.category == name for pair in pairs])


def _strictly_right(pairs: Sequence[EncodedPair], leads: Vector, name: str) -> float:
    """RewardBench's accuracy of a subset, in which a tie is an error."""
    return float((leads[_of_category(pairs, name)] > 0).mean())


def _length_bias(pairs: Sequence[EncodedPair], leads: Vector) -> LengthBias:
    longer = np.array([len(pair.chosen) - len(pair.rejected) for pair in pairs], dtype=np.float64)
    varied = bool(np.ptp(longer) and np.ptp(leads))
    return LengthBias(
        correlation=statistics.correlation(leads, longer) if varied else None,
        longer_better=_group_if_any("longer answer better", leads[longer > 0]),
        longer_worse=_group_if_any("longer answer worse", leads[longer < 0]),
    )


def _group_if_any(name: str, leads: Vector) -> Group | None:
    return group(name, leads) if len(leads) else None


def _share_right(leads: Vector) -> float | None:
    return _points(leads) / len(leads) if len(leads) else None


def _points(leads: Vector) -> float:
    return float((leads > 0).sum() + 0.5 * (leads == 0).sum())
