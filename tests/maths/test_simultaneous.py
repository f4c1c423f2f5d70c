"""Intervals that hold at once, and what they cover after the best point was chosen."""

import numpy as np
import pytest

from salsa_cli.maths import resampling, simultaneous


def test_one_column_by_hand() -> None:
    # Mean 2, deviation sqrt(2 / 3) within the sample and 1 without bias. Of the 27 draws of three,
    # only 1,1,1 and 3,3,3 are at |mean - 2| = 1: 7 % of them, so that the 95 % quantile is there.
    (interval,) = simultaneous.simultaneous_intervals([[1.0], [2.0], [3.0]], seed=0, draws=5000)
    reach = 1.0 / (np.sqrt(2 / 3) / np.sqrt(3)) * 1.0 / np.sqrt(3)
    assert interval.estimate == 2.0
    assert (interval.low, interval.high) == pytest.approx((2 - reach, 2 + reach), rel=1e-12)


def test_many_columns_are_wider_than_one_and_equal_columns_are_not() -> None:
    values = np.random.default_rng(0).normal(size=(60, 8))
    (alone,) = simultaneous.simultaneous_intervals(values[:, :1], seed=1)
    first, *_ = simultaneous.simultaneous_intervals(values, seed=1)
    again, *_ = simultaneous.simultaneous_intervals(np.tile(values[:, :1], 8), seed=1)
    # Of 8 independent normals the largest is below 2.73 in 95 % of cases, one alone below 1.96.
    assert (first.high - first.low) / (alone.high - alone.low) == pytest.approx(1.39, abs=0.06)
    assert (again.low, again.high) == pytest.approx((alone.low, alone.high), rel=0.02)


def test_constant_columns_have_no_width() -> None:
    values = np.column_stack([np.full(5, 0.1), np.arange(5.0)])
    still, moving = simultaneous.simultaneous_intervals(values, seed=0, draws=200)
    assert (still.low, still.high) == (still.estimate, still.estimate)
    assert moving.low < 2.0 < moving.high
    (lone,) = simultaneous.simultaneous_intervals([[3.0]], seed=0, draws=10)
    assert (lone.low, lone.estimate, lone.high) == (3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="level"):
        simultaneous.simultaneous_intervals([[1.0]], seed=0, level=1.0)


def test_the_gain_is_over_the_better_rival() -> None:
    points = np.array([[3.0, 0.0], [5.0, 2.0]])
    rivals = np.array([[1.0, 2.0], [1.0, 4.0]])
    high, low = simultaneous.gains_over_the_best(points, rivals, seed=0, draws=200)
    assert (high.estimate, low.estimate) == (1.0, -2.0)  # 4 - 3 and 1 - 3, not 4 - 1 and 1 - 1
    # Against the second rival the differences are constant. Against the first they are 3 and 0
    # on average, with ends at -+ sqrt(2): never the lower one.
    assert (high.low, high.high) == (1.0, 1.0)
    assert (low.low, low.high) == (-2.0, -2.0)


@pytest.mark.slow
@pytest.mark.parametrize("questions", [12, 50, 200])
@pytest.mark.parametrize("bulge", [0.0, 0.4])
@pytest.mark.parametrize("skewed", [False, True])
def test_coverage_after_the_best_of_nine_was_chosen(
    questions: int, bulge: float, skewed: bool
) -> None:
    # 9 soups between 2 ends; with `bulge` the middle is better, and one end better than the other.
    generator = np.random.default_rng(questions)
    truth = bulge * np.sin(np.pi * np.arange(11) / 10)
    truth[-1] += bulge / 4
    gain = truth[1:-1].max() - max(truth[0], truth[-1])
    repetitions, covered, rechosen = 400, 0, 0
    for _ in range(repetitions):
        noise = generator.normal(size=(questions, 11))
        if skewed:
            noise = generator.exponential(size=(questions, 11)) - 1
        rewards = truth + noise + generator.normal(size=(questions, 1))
        points, ends = rewards[:, 1:-1], rewards[:, [0, -1]]
        rows = simultaneous.gains_over_the_best(points, ends, seed=0, draws=300)
        covered += max(row.low for row in rows) <= gain <= max(row.high for row in rows)
        means = resampling.resampled_sums(rewards, seed=0, draws=300) / questions
        low, high = resampling.percentiles(means[:, 1:-1].max(1) - means[:, [0, -1]].max(1))
        rechosen += low <= gain <= high
    # Three standard errors of a share of 95 % in 400 repetitions are 3.3 points.
    assert covered / repetitions > 0.917
    assert rechosen < covered


@pytest.mark.slow
@pytest.mark.parametrize("questions", [12, 50, 200])
def test_coverage_of_one_soup_between_two_ends(questions: int) -> None:
    # One end is far below the other: there is all but nothing to choose.
    generator = np.random.default_rng(questions)
    covered, repetitions = 0, 1000
    for _ in range(repetitions):
        rewards = np.array([-9.0, 0.5, 0.0]) + generator.normal(size=(questions, 3))
        (row,) = simultaneous.gains_over_the_best(rewards[:, 1:2], rewards[:, ::2], 0, draws=300)
        covered += row.low <= 0.5 <= row.high
    # Three standard errors of a share of 95 % in 1,000 repetitions are 2.1 points.
    assert covered / repetitions > 0.929
