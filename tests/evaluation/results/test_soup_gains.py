"""What soups gain over their models, against sums by hand."""

import pytest

from salsa_cli.evaluation.results import soup_gains
from salsa_cli.evaluation.results.win_rates import Resampling

REWARDS = {
    (1.0, 0.0): [0.0, 2.0, 4.0],
    (0.75, 0.25): [3.0, 2.0, 4.0],
    (0.5, 0.5): [2.0, 3.0, 7.0],
    (0.0, 1.0): [0.0, 0.0, 3.0],
}


def test_the_gains_by_hand() -> None:
    first, quarter, half, second = soup_gains.rows(
        ("a", "b"), "j", REWARDS, Resampling(seed=0, draws=200)
    )
    assert [row.weights for row in (first, quarter, half, second)] == list(REWARDS)
    assert (quarter.score, half.score) == (3.0, 4.0)
    # Of each prompt: 3 - 0, 2 - 1.5, 4 - 3.75; and 2 - 0, 3 - 1, 7 - 3.5.
    assert quarter.gain == pytest.approx(3.75 / 3)
    assert half.gain == pytest.approx(7.5 / 3)
    # The better model alone has 2.0, the other one 1.0.
    assert (quarter.over_best, half.over_best) == (1.0, 2.0)
    assert half.over_best_low is not None and half.over_best_high is not None
    assert half.over_best_low < 2.0 < half.over_best_high
    assert first.over_best is None and second.over_best_low is None
    assert (first.gain, second.gain_high) == (0.0, 0.0)


def test_models_alone_have_nothing_to_choose_from() -> None:
    ends = {weights: REWARDS[weights] for weights in ((1.0, 0.0), (0.0, 1.0))}
    rows = soup_gains.rows(("a", "b"), "j", ends, Resampling(seed=0, draws=200))
    assert [row.over_best for row in rows] == [None, None]
