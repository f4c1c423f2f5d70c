"""Best of n against numbers by hand, all subsets, and its distribution in simulation."""

from fractions import Fraction
from itertools import combinations
from math import comb, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.maths import best_of


def all_subsets(rewards: list[float], scores: list[float], n: int) -> float:
    """The definition: the mean over all subsets, ties at random, in exact fractions."""
    total = Fraction(0)
    for subset in combinations(range(len(rewards)), n):
        most = max(rewards[i] for i in subset)
        best = [i for i in subset if rewards[i] == most]
        total += sum((Fraction(scores[i]) for i in best), Fraction(0)) / len(best)
    return float(total / comb(len(rewards), n))


def test_four_answers_by_hand() -> None:
    # Pairs of 1, 2, 4, 8: 2 once, 4 twice, 8 three times. Triples: 4 once, 8 three times.
    (row,) = best_of.expected_best_of([[4.0, 1.0, 8.0, 2.0]], None, 4)
    assert row == pytest.approx([15 / 4, (2 + 8 + 24) / 6, (4 + 24) / 4, 8.0], rel=1e-15)


def test_chosen_by_one_and_scored_by_another_by_hand() -> None:
    # By reward: the second, then two equal ones, whose scores 1 and 5 count 3 each.
    (row,) = best_of.expected_best_of([[7.0, 2.0, 7.0]], [[1.0, 9.0, 5.0]], 3)
    assert row == pytest.approx([5.0, (1 + 5 + 3) / 3, 3.0], rel=1e-15)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.integers(-3, 3).map(float)),
        min_size=1,
        max_size=7,
    )
)
def test_all_subsets(pairs: list[tuple[float, float]]) -> None:
    rewards, scores = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    (both,) = best_of.expected_best_of([rewards], [scores], len(pairs))
    (alone,) = best_of.expected_best_of([rewards], None, len(pairs))
    for n in range(1, len(pairs) + 1):
        assert both[n - 1] == pytest.approx(all_subsets(rewards, scores, n), abs=1e-12)
        assert alone[n - 1] == pytest.approx(all_subsets(rewards, rewards, n), abs=1e-12)


@pytest.mark.parametrize(("samples", "n"), [(1, 1), (5, 3), (64, 16), (4096, 1024)])
def test_the_weights_are_the_binomials(samples: int, n: int) -> None:
    found = best_of.order_weights(samples, n)
    exact = [comb(i - 1, n - 1) / comb(samples, n) for i in range(1, samples + 1)]
    assert found == pytest.approx(exact, rel=1e-10, abs=1e-300)
    assert found.sum() == pytest.approx(1.0, rel=1e-12)


def test_unbiased_whatever_the_number_of_samples() -> None:
    # The largest of 4 uniforms is 4/5 on average, with a standard deviation of 0.163: four standard
    # errors of 20,000 are 0.005. The largest of m > 4 would be above.
    generator = np.random.default_rng(0)
    for samples in (4, 6, 16):
        rows = best_of.expected_best_of(generator.random((20_000, samples)), None, 4)
        assert rows[:, 3].mean() == pytest.approx(0.8, abs=0.005)


def test_the_kl_bound() -> None:
    assert best_of.kl_bound(1) == 0.0
    assert best_of.kl_bound(4) == pytest.approx(log(4) - 0.75, rel=1e-15)
    # Of k equally likely answers of different rewards, the i-th is the best of n with probability
    # (i^n - (i - 1)^n) / k^n: its KL approaches the bound from below as k grows.
    exact = []
    for k in (4, 100, 10_000):
        i = np.arange(1, k + 1)
        p = (i / k) ** 4 - ((i - 1) / k) ** 4
        exact.append(float(np.sum(p * np.log(p * k))))
    assert exact == sorted(exact) and exact[-1] < best_of.kl_bound(4)
    assert exact[-1] == pytest.approx(best_of.kl_bound(4), abs=1e-3)


@pytest.mark.parametrize(
    ("rewards", "scores", "largest"),
    [([[1.0]], None, 2), ([[1.0]], [[1.0, 2.0]], 1), ([[float("nan")]], None, 1), ([1.0], None, 1)],
)
def test_what_is_refused(rewards: list[float], scores: list[float], largest: int) -> None:
    with pytest.raises(ValueError, match=r"n must be|expected two|NaN"):
        best_of.expected_best_of(rewards, scores, largest)
    with pytest.raises(ValueError, match="n must be at least 1"):
        best_of.kl_bound(0)
