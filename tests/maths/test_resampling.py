"""The bootstrap over questions: its draws, its intervals, and what they cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.maths import resampling

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def test_each_draw_takes_n_questions() -> None:
    table = np.column_stack([np.ones(7), np.arange(7.0)])
    sums = resampling.resampled_sums(table, seed=1, draws=50)
    assert sums.shape == (50, 2)
    assert (sums[:, 0] == 7).all()
    assert len(np.unique(sums[:, 1])) > 10
    assert np.array_equal(sums, resampling.resampled_sums(table, seed=1, draws=50))
    assert not np.array_equal(sums, resampling.resampled_sums(table, seed=2, draws=50))


@pytest.mark.parametrize("kinds", [2, 400])
@pytest.mark.parametrize("columns", [1, 3])
def test_the_moments_of_the_draws(kinds: int, columns: int) -> None:
    # Mean n m and variance n s^2 of a sum of n draws, whichever way they are drawn; four standard
    # errors of 20,000 draws are 4 / sqrt(20000) = 0.028 of s, and for the variance 4 sqrt(2 / N).
    generator = np.random.default_rng(3)
    table = generator.normal(size=(kinds, columns))[generator.integers(kinds, size=400)]
    sums = resampling.resampled_sums(table, seed=5, draws=20_000)
    spread = table.std(axis=0) * 20
    assert np.abs(sums.mean(axis=0) - table.sum(axis=0)).max() < 0.029 * spread.max()
    assert sums.std(axis=0) == pytest.approx(spread, rel=0.021)
    covariance = np.cov(sums.T, ddof=0) / 400
    assert np.atleast_2d(covariance) == pytest.approx(
        np.atleast_2d(np.cov(table.T, ddof=0)), abs=0.05
    )


@pytest.mark.parametrize("kinds", [2, 6, 40])
def test_the_other_side_is_the_mirror_image(kinds: int) -> None:
    generator = np.random.default_rng(0)
    values = generator.random(kinds)[generator.integers(kinds, size=200)]
    ours = resampling.ratio_interval(values, np.ones(200), seed=4, draws=500)
    theirs = resampling.ratio_interval(1 - values, np.ones(200), seed=4, draws=500)
    assert theirs.low == pytest.approx(1 - ours.high, abs=1e-12)
    assert theirs.high == pytest.approx(1 - ours.low, abs=1e-12)


def test_a_ratio_by_hand() -> None:
    # (3 + 0 + 1) / (3 + 1 + 1). Of 27 draws, one is all of the lost question: more than 2.5 %.
    interval = resampling.ratio_interval([3, 0, 1], [3, 1, 1], seed=0, draws=3000)
    assert interval.estimate == 0.8
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_draws_without_weight_are_left_out() -> None:
    interval = resampling.ratio_interval([0, 1], [0, 1], seed=0, draws=300)
    assert (interval.low, interval.high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("points", "weights", "words"),
    [([], [], "table"), ([1], [0], "sum to 0"), ([np.nan], [1], "NaN")],
)
def test_refusals(points: list[float], weights: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        resampling.ratio_interval(points, weights, seed=0, draws=10)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=30))
def test_an_interval_holds_its_estimate_within_the_values(values: list[float]) -> None:
    interval = resampling.ratio_interval(values, np.ones(len(values)), seed=0, draws=100)
    assert min(values) - 1e-12 <= interval.low <= interval.high <= max(values) + 1e-12


# --- coverage ---

QUESTIONS, SIMULATIONS = 100, 1000


def clustered(generator: np.random.Generator) -> Array:
    """Verdicts [questions, 4] of 0 or 1: on each question, all four lean the same way.

    The chance of a win on a question is beta(0.6, 0.4): 0.6 on the average, mostly near 0 or 1.
    """
    leaning = generator.beta(0.6, 0.4, size=(QUESTIONS, 1))
    return (generator.random((QUESTIONS, 4)) < leaning).astype(np.float64)


def test_intervals_over_questions_cover_the_truth_and_those_over_battles_do_not() -> None:
    generator = np.random.default_rng(2026)
    covered = {"questions": 0, "battles": 0}
    for simulation in range(SIMULATIONS):
        verdicts = clustered(generator)
        ones = np.ones(QUESTIONS)
        intervals = {
            "questions": resampling.ratio_interval(
                verdicts.mean(axis=1), ones, simulation, draws=1000
            ),
            # Arena-Hard and FastChat draw single battles.
            "battles": resampling.ratio_interval(
                verdicts.ravel(), np.ones(verdicts.size), simulation, draws=1000
            ),
        }
        for name, interval in intervals.items():
            covered[name] += interval.low <= 0.6 <= interval.high
    # 95 % give or take three standard errors of 1,000 simulations, 0.7 % each.
    assert 0.93 <= covered["questions"] / SIMULATIONS <= 0.97
    assert covered["battles"] / SIMULATIONS < 0.85


def test_columns_together_have_the_intervals_that_each_has_alone() -> None:
    generator = np.random.default_rng(4)
    table = np.column_stack(
        [generator.normal(size=(90, 70)), generator.integers(0, 2, 90), np.full(90, 0.3)]
    )
    together = resampling.mean_intervals(table, seed=3, draws=400)
    assert len(together) == 72
    for column, interval in enumerate(together):
        alone = resampling.ratio_interval(table[:, column], np.ones(90), seed=3, draws=400)
        assert (interval.estimate, interval.low, interval.high) == pytest.approx(
            (alone.estimate, alone.low, alone.high), rel=1e-13, abs=1e-15
        )
