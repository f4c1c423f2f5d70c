"""Rows of best of n by hand, with their intervals."""

import numpy as np
import pytest

from salsa_cli.evaluation.results import best_of_rows
from salsa_cli.evaluation.results.win_rates import Resampling

DRAWN = Resampling(seed=0, draws=2000)
REWARDS = {
    "rm": np.array([[1.0, 2.0, 6.0], [3.0, 0.0, 3.0]]),
    "gold": np.array([[5.0, 5.0, 2.0], [1.0, 8.0, 3.0]]),
}


def test_the_curve_by_hand() -> None:
    rows = best_of_rows.curve("m", REWARDS, 3, DRAWN)
    by_rm, by_gold = rows[:3], rows[3:]
    # Pairs of 1, 2, 6: 2, 6, 6; of 3, 0, 3: 3 each.
    assert [row.score for row in by_rm] == pytest.approx([2.5, (14 / 3 + 3) / 2, 4.5])
    # Chosen by rm: 5, 2, 2; of the other the two equal ones count 2 each.
    assert [row.score for row in by_gold] == pytest.approx([4.0, (3 + 2) / 2, 2.0])
    # Two prompts: one draw in four takes the same one twice.
    assert (by_rm[2].low, by_rm[2].high) == (3.0, 6.0)
    assert {(row.prompts, row.samples, row.chosen_by) for row in rows} == {(2, 3, "rm")}


def test_others_compared_by_hand() -> None:
    scores = {"rm": {"m": [1.0, 3.0], "ppo": [7.0, 2.0]}, "gold": {"m": [5, 1], "ppo": [4, 4]}}
    by_rm, by_gold = best_of_rows.against("m", REWARDS, 3, scores, DRAWN)
    assert (by_rm.model, by_rm.difference, by_rm.low, by_rm.high) == ("ppo", 0.0, -1.0, 1.0)
    assert by_gold.difference == 2.0  # 4 - 2 for both prompts
