"""Several rewards made one, worked by hand."""

import pytest
import torch

from salsa_cli.maths import ensembles

SCORES = torch.tensor([[1.0, 2.0], [3.0, 2.0], [8.0, -1.0]], dtype=torch.float64)


def test_mean_and_least_by_hand() -> None:
    assert ensembles.mean(SCORES).tolist() == [4.0, 1.0]
    assert ensembles.least(SCORES).tolist() == [1.0, -1.0]


def test_uncertainty_is_the_variance_of_the_rewards_themselves() -> None:
    # Squared distances from the means 4 and 1: 9 + 1 + 16 = 26, and 1 + 1 + 4 = 6; a third of each.
    found = ensembles.uncertainty_weighted(SCORES, 0.3)
    assert found.tolist() == pytest.approx([4 - 0.3 * 26 / 3, 1 - 0.3 * 2], abs=1e-12)
    assert ensembles.uncertainty_weighted(SCORES, 0.0).tolist() == [4.0, 1.0]


def test_one_reward_is_itself() -> None:
    alone = SCORES[:1]
    for combined in (
        ensembles.mean(alone),
        ensembles.least(alone),
        ensembles.uncertainty_weighted(alone, 5.0),
    ):
        assert combined.tolist() == [1.0, 2.0]
