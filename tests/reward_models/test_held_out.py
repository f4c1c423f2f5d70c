"""Scores of held-out pairs: their scale, and that they come back from their file."""

from pathlib import Path

import numpy as np
import pytest

from salsa_cli.reward_models import held_out
from salsa_cli.reward_models.assessment import PairScores
from salsa_cli.reward_models.pairs import EncodedPair
from salsa_cli.reward_models.rewards import RewardScale

SCORES = PairScores(np.array([3.0, 1.0]), np.array([1.0, -1.0]))
PAIRS = [
    EncodedPair("p", (1, 2), (1, 3), category="math", row=4),
    EncodedPair("q", (1, 2), (1, 3), row=9),
]


def test_the_scale_is_of_both_sides_and_all_members() -> None:
    # 3, 1, 1, -1: mean 1, squared distances 4, 0, 0, 4.
    found = held_out.scale_of(SCORES)
    assert (found.mean, found.std) == (1.0, pytest.approx(2**0.5))
    other = PairScores(np.array([1.0, 1.0]), np.array([1.0, 1.0]))
    assert held_out.scale_of(SCORES, other).std == pytest.approx(1.0)
    assert held_out.scale_of(other) == RewardScale(1.0, 1.0)


def test_scores_come_back_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / held_out.SCORES
    held_out.write_scores(path, PAIRS, SCORES)
    assert path.read_text().splitlines()[0] == (
        '{"row": 4, "category": "math", "chosen": 3.0, "rejected": 1.0}'
    )
    found = held_out.read_scores(path)
    assert found.chosen.tolist() == [3.0, 1.0] and found.rejected.tolist() == [1.0, -1.0]


def test_an_ensemble_is_assessed_by_the_mean_of_its_scaled_members() -> None:
    # The second member has the first pair wrong, by less than the first has it right.
    second = PairScores(np.array([0.0, 30.0]), np.array([10.0, 10.0]))
    scales = [RewardScale(0.0, 1.0), RewardScale(0.0, 10.0)]
    found = held_out.assess(PAIRS, [SCORES, second], scales)
    assert [one.accuracy.accuracy for one in found.members] == [1.0, 0.5]
    assert found.together.accuracy.accuracy == 1.0
    alone = held_out.assess(PAIRS, [second], scales[1:])
    assert alone.together == alone.members[0]
