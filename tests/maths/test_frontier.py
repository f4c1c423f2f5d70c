"""Scores at a KL and KLs at a score: hand-worked polylines, and the spread by simulation."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from salsa_cli.maths import frontier

# Means: KL 1, 3, 4 (given in another order) with scores 2, 6, 5.
KL = [[4.0, 2.0], [0.5, 1.5], [5.0, 3.0]]
SCORE = [[7.0, 5.0], [2.0, 2.0], [4.0, 6.0]]


@pytest.mark.parametrize(
    ("at", "expected"), [(1, 2), (2, 4), (2.5, 5), (3, 6), (3.25, 5.75), (4, 5)]
)
def test_scores_between_points_by_hand(at: float, expected: float) -> None:
    found = frontier.score_at(KL, SCORE, at)
    assert found is not None and found.mean() == pytest.approx(expected)


def test_the_value_of_each_prompt_by_hand() -> None:
    # Halfway from (1, 2) to (3, 6): slope 2, KL (.5 + 4) / 2 and (1.5 + 2) / 2, scores 4.5 and 3.5.
    found = frontier.score_at(KL, SCORE, 2)
    assert found == pytest.approx([4.5 - 2 * (2.25 - 2), 3.5 - 2 * (1.75 - 2)])


@pytest.mark.parametrize(("at", "expected"), [(2, 1), (4, 2), (6, 3), (5, 2.5)])
def test_the_first_kl_with_a_score_by_hand(at: float, expected: float) -> None:
    found = frontier.kl_at(KL, SCORE, at)
    assert found is not None and found.mean() == pytest.approx(expected)


def test_there_is_no_value_beyond_the_points() -> None:
    assert frontier.score_at(KL, SCORE, 0.99) is None
    assert frontier.score_at(KL, SCORE, 4.01) is None
    assert frontier.kl_at(KL, SCORE, 6.01) is None
    assert frontier.kl_at(KL, SCORE, 1.99) is None  # the first point has it already


def test_a_single_point_and_equal_kls() -> None:
    one = frontier.score_at([[1.0, 3.0]], [[5.0, 6.0]], 2.0)
    assert one == pytest.approx([5, 6])
    assert frontier.kl_at([[1.0, 3.0]], [[5.0, 6.0]], 5.5) is None
    same = frontier.score_at([[1.0], [1.0], [2.0]], [[4.0], [6.0], [0.0]], 1.0)
    assert same == pytest.approx([4])
    flat = frontier.kl_at([[0.0], [1.0], [2.0]], [[4.0], [4.0], [6.0]], 4.0)
    assert flat == pytest.approx([1.0])


@given(st.lists(st.integers(-40, 40), min_size=2, max_size=6), st.sampled_from([0.25, 0.5, 0.9]))
def test_a_straight_line_is_found_again(places: list[int], share: float) -> None:
    assume(max(places) > min(places))
    kl = np.array(places)[:, None] + np.array([0.5, -0.5])
    at = min(places) + share * (max(places) - min(places))
    found = frontier.score_at(kl, 3 * kl + 1, at)
    assert found is not None
    # Both prompts lie on the line: no spread is left. Rounding: values below 256.
    assert found == pytest.approx([3 * at + 1] * 2, abs=1e-9)


def test_the_spread_is_that_of_the_interpolated_score() -> None:
    """The standard error from the values per prompt against that of many simulated samples."""
    rng = np.random.default_rng(0)
    estimates, errors = [], []
    for _ in range(2000):
        kl = np.array([[1.0], [3.0]]) + rng.normal(0, 1, (2, 100))
        score = np.array([[2.0], [6.0]]) + 0.5 * kl + rng.normal(0, 1, (2, 100))
        found = frontier.score_at(kl, score, 2.0)
        assert found is not None
        estimates.append(found.mean())
        errors.append(found.std(ddof=1) / 10)
    # 2,000 samples give the deviation to 1.6 %; 5 % is three times that.
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.05)


def test_what_is_no_table_is_refused() -> None:
    for kl, score in (([1.0], [1.0]), ([[1.0]], [[1.0, 2.0]]), ([[float("nan")]], [[1.0]])):
        with pytest.raises(ValueError, match=r"tables|NaN"):
            frontier.score_at(kl, score, 1.0)
