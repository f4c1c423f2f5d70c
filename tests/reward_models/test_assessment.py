"""What is said of held-out pairs, on numbers small enough to work out by hand."""

import math

import numpy as np
import pytest

from salsa_cli.reward_models import assessment
from salsa_cli.reward_models.assessment import Group, PairScores
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.reward_models.rewards import RewardScale

LOG3 = math.log(3)


def pair(category: str | None, better: int, worse: int) -> EncodedPair:
    return EncodedPair("p", (1,) * better, (1,) * worse, category=category)


PAIRS = (
    pair("easy", 5, 3),  # right, the better one longer
    pair("easy", 3, 5),  # wrong, the worse one longer
    pair("hard", 2, 4),  # a tie, the worse one longer
    pair(None, 4, 4),  # right, of one length
)
SCORES = PairScores(np.array([LOG3, 0, 1, LOG3]), np.array([0, LOG3, 1, 0]))


def test_one_model_by_hand() -> None:
    found = assessment.assess(PAIRS, SCORES)
    assert (found.accuracy.n, found.accuracy.accuracy, found.accuracy.ties) == (4, 0.625, 1)
    assert found.margin == pytest.approx(LOG3 / 4)
    # Confidence .75 three times with 2 of 3 right, and .5 once, half right.
    assert found.calibration_error == pytest.approx(0.75 * (0.75 - 2 / 3))
    assert [(one.name, one.n, one.accuracy) for one in found.categories] == [
        ("easy", 2, 0.5),
        ("hard", 1, 0.5),
    ]
    assert found.length.longer_better == assessment.group("longer answer better", np.array([LOG3]))
    worse = found.length.longer_worse
    assert worse is not None and (worse.n, worse.accuracy, worse.ties) == (2, 0.25, 1)
    expected = np.corrcoef([LOG3, -LOG3, 0, LOG3], [2, -2, -2, 0])[0, 1]
    assert found.length.correlation == pytest.approx(expected)
    assert found.disagreement is None and found.sections == ()


def test_the_interval_is_wilsons() -> None:
    # Published example: 9 of 10 gives 59.6 % to 98.2 % (Brown, Cai and DasGupta 2001, by formula).
    found = assessment.group("x", np.array([1.0] * 9 + [-1.0]))
    assert (found.low, found.high) == (
        pytest.approx(0.596, abs=1e-3),
        pytest.approx(0.982, abs=1e-3),
    )


def test_pairs_of_one_length_have_no_length_bias() -> None:
    found = assessment.assess([pair(None, 3, 3)] * 2, PairScores(np.ones(2), np.zeros(2))).length
    assert (found.correlation, found.longer_better, found.longer_worse) == (None, None, None)


def test_an_ensemble_is_the_mean_of_normalised_scores() -> None:
    # Normalised leads: (1, -1, 0, 1) and (-2, -2, 2, 2); their means -.5, -1.5, 1, 1.5.
    first = PairScores(np.array([2.0, -2, 0, 2]), np.zeros(4))
    second = PairScores(np.array([-1.0, -1, 1, 1]), np.zeros(4))
    found = assessment.assess_ensemble(
        PAIRS, [first, second], [RewardScale(0, 2), RewardScale(3, 0.5)]
    )
    assert (found.accuracy.accuracy, found.accuracy.ties) == (0.5, 0)
    assert found.margin == pytest.approx(0.125)
    # Probabilities: mean of sigmoid(raw lead) of the two members.
    sigmoid = [
        (1 / (1 + math.exp(-a)) + 1 / (1 + math.exp(-b))) / 2
        for a, b in zip((2, -2, 0, 2), (-1, -1, 1, 1), strict=True)
    ]
    assert sum(part.n for part in found.reliability) == 4
    mean = sum(part.n * part.confidence for part in found.reliability) / 4
    assert mean == pytest.approx(np.mean([max(p, 1 - p) for p in sigmoid]))
    disagreement = found.disagreement
    assert disagreement is not None
    assert disagreement.unanimous == 0.5  # pairs 2 and 4
    assert disagreement.spread == pytest.approx((1.5 + 0.5 + 1 + 0.5) / 4)
    assert disagreement.accuracy_unanimous == 0.5
    assert disagreement.accuracy_divided == 0.5


def test_rewardbench_counts_a_tie_as_an_error() -> None:
    pairs = [pair("hep-go", 2, 2), pair("hep-go", 2, 2)]
    found = assessment.assess(pairs, PairScores(np.array([1.0, 1]), np.array([0.0, 1])))
    assert found.categories[0] == Group(
        "hep-go", 2, 0.75, found.categories[0].low, found.categories[0].high, 1
    )
    assert [(one.name, one.score) for one in found.sections] == [("Reasoning", 0.5)]


def test_a_contest_is_one_comparison_of_its_worst_right_and_best_wrong_answer() -> None:
    def of(name: str, better: int, worse: int) -> EncodedPair:
        return EncodedPair("p", (1,) * better, (1,) * worse, category="Math", contest=name)

    pairs = [of("a", 2, 3), of("a", 2, 4), of("a", 2, 5), of("b", 6, 1), of("b", 7, 1)]
    scores = PairScores(np.array([1.0, 1, 1, 3, 2]), np.array([0.0, 2, 1, 1, 1]))
    found = assessment.assess(pairs, scores)
    # a: 1 against 2, wrong; b: the worse of 3 and 2 against 1, right.
    assert (found.accuracy.n, found.accuracy.accuracy) == (2, 0.5)
    assert found.margin == pytest.approx(0.0)
    longer = found.length.longer_worse
    assert longer is not None and longer.n == 1  # 2 tokens against the 4 of the best wrong answer
    # RewardBench 2 looks at the best right answer: 3 against 1.
    assert [(one.name, one.score) for one in found.sections] == [("Math", 0.5)]
