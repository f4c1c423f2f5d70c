"""Exact tests and power, by hand and from tables."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.maths import significance


def test_the_error_of_a_ratio_by_hand() -> None:
    # r = 4 / 5; residuals 3 - 2.4, 0 - 0.8, 1 - 0.8 over the mean weight 5 / 3: 0.36, -0.48, 0.12;
    # sqrt((0.1296 + 0.2304 + 0.0144) / 2 / 3).
    error = significance.standard_error([3, 0, 1], [3, 1, 1])
    assert error == pytest.approx(math.sqrt(0.3744 / 6), rel=1e-12)
    with pytest.raises(ValueError, match="weight"):
        significance.standard_error([0], [0])


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
        (5, 0, 2 / 32),
        (5, 5, 1.0),
        (6, 5, 1.0),
        (0, 0, 1.0),
    ],
)
def test_sign_test_by_hand(wins: int, losses: int, p: float) -> None:
    assert significance.sign_test(wins, losses) == p


def test_sign_test_of_many_and_more() -> None:
    # 1,000 is counted in whole numbers, 1,001 by logarithms: neighbours.
    assert significance.sign_test(541, 459) == pytest.approx(0.0104, abs=1e-4)
    few, many = significance.sign_test(540, 460), significance.sign_test(540, 461)
    assert few < many < 1.1 * few
    with pytest.raises(ValueError, match="counts"):
        significance.sign_test(3, -1)


def test_holm_by_hand() -> None:
    # 0.01 * 4, then 0.02 * 3, then max(0.06, 0.03 * 2), then max(0.06, 0.9).
    assert significance.holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert significance.holm([0.5, 0.6]) == [1.0, 1.0]
    assert significance.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_only_raises_and_keeps_the_order(values: list[float]) -> None:
    adjusted = significance.holm(values)
    assert all(before <= after <= 1 for before, after in zip(values, adjusted, strict=True))
    order = sorted(range(len(values)), key=values.__getitem__)
    assert all(adjusted[i] <= adjusted[j] for i, j in pairwise(order))


def test_what_80_percent_power_finds() -> None:
    # 1.959964 + 0.841621 standard errors; and in a simulation, four of five are found. Three
    # standard errors of 20,000 simulations are 0.0085.
    assert significance.detectable_difference(0.1) == pytest.approx(0.2801585, abs=1e-7)
    means = np.random.default_rng(0).normal(0.2801585, 0.1, size=20_000)
    assert np.mean(np.abs(means) > 0.1959964) == pytest.approx(0.8, abs=0.0085)
