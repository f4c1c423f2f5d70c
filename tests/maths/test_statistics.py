"""maths/statistics: estimates and their intervals."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from salsa_cli.maths import statistics

PROPERTY = settings(deadline=None, max_examples=40)
NAN = float("nan")

vectors = hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(-100, 100))
outcome_vectors = hnp.arrays(np.float64, st.integers(1, 30), elements=st.sampled_from([0, 0.5, 1]))
levels = st.floats(0.5, 0.99)


# --- pairs ---


def test_pair_outcomes_by_hand() -> None:
    outcomes = statistics.pair_outcomes([3, 1, 2, math.inf], [1.0, 3.0, 2.0, math.inf])
    assert outcomes.tolist() == [1.0, 0.0, 0.5, 0.5]
    assert outcomes.dtype == np.float64


@pytest.mark.parametrize(
    ("a", "b"),
    [([NAN, 1], [0, 0]), ([0, 1], [0, NAN]), ([1, 2], [1]), ([1], [1, 2]), ([[1]], [[1]])],
)
def test_pairs_that_cannot_be_compared_are_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match=r"NaN|paired|vector"):
        statistics.pair_outcomes(a, b)


def test_pair_outcomes_agree_with_loops() -> None:
    a, b = np.random.default_rng(0).integers(3, size=(2, 50))
    for x, y, outcome in zip(a, b, statistics.pair_outcomes(a, b), strict=True):
        assert outcome == (1.0 if x > y else 0.0 if x < y else 0.5)


@PROPERTY
@given(a=hnp.arrays(np.float64, 6), b=hnp.arrays(np.float64, 6))
def test_the_other_side_has_the_rest(a: np.ndarray, b: np.ndarray) -> None:
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    both = statistics.pair_outcomes(a, b) + statistics.pair_outcomes(b, a)
    assert (both == 1).all()


# --- bootstrap ---


def test_bootstrap_of_two_values_by_hand() -> None:
    # Of 0 and 1 a resample's mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4. At level 0.4 the
    # quantiles are 0.3 and 0.7, both 1/2; at level 0.6 they are 0.2 and 0.8, hence 0 and 1.
    # Standard error of those shares in 10,000 draws: 0.004.
    narrow = statistics.bootstrap_interval([0, 1], seed=0, level=0.4)
    assert narrow == statistics.Interval(estimate=0.5, low=0.5, high=0.5)
    wide = statistics.bootstrap_interval([0, 1], seed=0, level=0.6)
    assert wide == statistics.Interval(estimate=0.5, low=0.0, high=1.0)


def test_bootstrap_approaches_the_exact_distribution() -> None:
    # All 3^3 resamples of three values, enumerated.
    sample = [0.0, 1.0, 5.0]
    means = [sum(resample) / 3 for resample in itertools.product(sample, repeat=3)]
    low, high = np.quantile(means, [0.1, 0.9])
    interval = statistics.bootstrap_interval(sample, seed=1, draws=20_000, level=0.8)
    assert interval.estimate == 2.0
    assert interval.low == pytest.approx(low, abs=1e-9)
    assert interval.high == pytest.approx(high, abs=1e-9)


def test_bootstrap_agrees_with_loops() -> None:
    # The documented resampling, one index at a time, and quantiles by interpolation of ranks.
    sample = np.random.default_rng(3).normal(size=17)
    indices = np.random.default_rng(5).integers(17, size=(301, 17))
    means = []
    for row in indices:
        total = 0.0
        for index in row:
            total += float(sample[index])
        means.append(total / 17)
    means.sort()

    def quantile(q: float) -> float:
        rank = q * (len(means) - 1)
        below = math.floor(rank)
        return means[below] + (rank - below) * (means[below + 1] - means[below])

    interval = statistics.bootstrap_interval(sample, seed=5, draws=301, level=0.9)
    assert interval.estimate == pytest.approx(sum(sample.tolist()) / 17, abs=1e-10)
    assert interval.low == pytest.approx(quantile(0.05), abs=1e-10)
    assert interval.high == pytest.approx(quantile(0.95), abs=1e-10)


def test_bootstrap_matches_the_normal_approximation() -> None:
    # 400 outcomes, half wins: standard error 0.5 / 20 = 0.025, interval 0.5 -+ 1.96 * 0.025.
    interval = statistics.bootstrap_interval([0.0, 1.0] * 200, seed=0)
    assert interval.estimate == 0.5
    # The quantiles of 10,000 draws have standard errors of about 0.0007, the values steps of
    # 0.0025.
    assert interval.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.005)
    assert interval.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.005)


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000, 10**6])
def test_bootstrap_does_not_depend_on_the_chunking(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An odd n and an odd number of draws: a half-used word of the generator must carry over.
    sample = np.random.default_rng(0).normal(size=13)
    expected = statistics.bootstrap_interval(sample, seed=9, draws=501)
    monkeypatch.setattr(statistics, "_CHUNK", chunk)
    assert statistics.bootstrap_interval(sample, seed=9, draws=501) == expected


def test_bootstrap_of_many_values_is_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    # 300,000 values and 4 draws: three draws would fit into a chunk, not four.
    sizes = []

    class Recorder:
        def integers(self, n: int, size: tuple[int, int]) -> np.ndarray:
            sizes.append(size)
            return np.zeros(size, dtype=np.int64)

    monkeypatch.setattr(np.random, "default_rng", lambda seed: Recorder())
    statistics.bootstrap_interval(np.arange(300_000.0), seed=0, draws=4)
    assert sizes == [(3, 300_000), (1, 300_000)]


def test_bootstrap_depends_on_the_seed_only() -> None:
    sample = np.random.default_rng(0).normal(size=20)
    first = statistics.bootstrap_interval(sample, seed=1, draws=200)
    np.random.seed(123)  # the global generator must not matter
    assert statistics.bootstrap_interval(sample, seed=1, draws=200) == first
    assert statistics.bootstrap_interval(sample, seed=2, draws=200) != first


def test_bootstrap_of_one_value_has_no_width() -> None:
    assert statistics.bootstrap_interval([0.1], seed=0) == statistics.Interval(0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("values", "draws", "level", "message"),
    [
        ([], 10, 0.95, "at least one value"),
        ([1, NAN], 10, 0.95, "NaN"),
        ([[1, 2]], 10, 0.95, "vector"),
        ([1], 0, 0.95, "draws"),
        ([1], 10, 0.0, "level"),
        ([1], 10, 1.0, "level"),
        ([1], 10, NAN, "level"),
    ],
)
def test_bootstrap_refuses(values: list[float], draws: int, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        statistics.bootstrap_interval(values, seed=0, draws=draws, level=level)


@PROPERTY
@given(values=outcome_vectors, seed=st.integers(0, 2**32), level=levels)
def test_swapping_sides_mirrors_the_bootstrap(values: np.ndarray, seed: int, level: float) -> None:
    ours = statistics.bootstrap_interval(values, seed, draws=200, level=level)
    theirs = statistics.bootstrap_interval(1 - values, seed, draws=200, level=level)
    assert theirs.estimate == pytest.approx(1 - ours.estimate, abs=1e-12)
    assert theirs.low == pytest.approx(1 - ours.high, abs=1e-12)
    assert theirs.high == pytest.approx(1 - ours.low, abs=1e-12)


@PROPERTY
@given(values=vectors, seed=st.integers(0, 2**32), level=levels)
def test_bootstrap_stays_within_the_values(values: np.ndarray, seed: int, level: float) -> None:
    interval = statistics.bootstrap_interval(values, seed, draws=100, level=level)
    assert interval.low <= interval.high
    assert interval.low >= values.min() - 1e-9
    assert interval.high <= values.max() + 1e-9
    wider = statistics.bootstrap_interval(values, seed, draws=100, level=(1 + level) / 2)
    assert wider.low <= interval.low + 1e-9
    assert wider.high >= interval.high - 1e-9


# --- Wilson ---


def test_wilson_by_hand() -> None:
    # level 0.6826894921370859 makes z = 1. 1 of 4: p = 1/4, 1 + z^2 / n = 5/4,
    # centre (1/4 + 1/8) / (5/4) = 0.3, half sqrt(3/64 + 1/64) / (5/4) = 0.25 / 1.25 = 0.2.
    interval = statistics.wilson_interval(1, 4, level=0.6826894921370859)
    assert interval.estimate == 0.25
    assert interval.low == pytest.approx(0.1, abs=1e-12)
    assert interval.high == pytest.approx(0.5, abs=1e-12)


def test_wilson_at_the_default_level() -> None:
    # z = 1.959964, z^2 = 3.841459; 0 of 10: high = (z^2 / 10) / (1 + z^2 / 10) = z^2 / (10 + z^2).
    interval = statistics.wilson_interval(0, 10)
    assert interval.low == 0.0
    assert interval.high == pytest.approx(3.841459 / 13.841459, abs=1e-6)
    full = statistics.wilson_interval(10, 10)
    assert full.high == 1.0
    assert full.low == pytest.approx(10 / 13.841459, abs=1e-6)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.99])
def test_wilson_ends_solve_the_score_equation(level: float) -> None:
    # What the formula stands for: the p for which |share - p| = z sqrt(p (1 - p) / n), by bisection
    # on the distance in standard errors; z from its table, two-sided.
    z = {0.5: 0.674489750196, 0.8: 1.281551565545, 0.95: 1.959963984540, 0.99: 2.575829303549}[
        level
    ]
    for n in (1, 7, 80, 500):
        for successes in (0.5, n / 2, 0.7 * n):
            share = successes / n
            interval = statistics.wilson_interval(successes, n, level)
            for outside, end in ((1e-15, interval.low), (1 - 1e-15, interval.high)):
                near, far = share, outside
                for _ in range(200):
                    middle = (near + far) / 2
                    if abs(share - middle) < z * math.sqrt(middle * (1 - middle) / n):
                        near = middle
                    else:
                        far = middle
                assert end == pytest.approx(near, abs=1e-10)


@pytest.mark.parametrize(
    ("successes", "n", "level", "message"),
    [
        (0, 0, 0.95, "n must"),
        (-1, 5, 0.95, "successes"),
        (6, 5, 0.95, "successes"),
        (NAN, 5, 0.95, "successes"),
        (1, 5, 0.0, "level"),
        (1, 5, 1.0, "level"),
    ],
)
def test_wilson_refuses(successes: float, n: int, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        statistics.wilson_interval(successes, n, level)


@PROPERTY
@given(n=st.integers(1, 10_000), share=st.floats(0, 1), level=levels)
def test_wilson_properties(n: int, share: float, level: float) -> None:
    interval = statistics.wilson_interval(share * n, n, level)
    assert 0 <= interval.low <= interval.estimate + 1e-12
    assert interval.estimate - 1e-12 <= interval.high <= 1
    mirrored = statistics.wilson_interval(n - share * n, n, level)
    assert mirrored.low == pytest.approx(1 - interval.high, abs=1e-9)
    assert mirrored.high == pytest.approx(1 - interval.low, abs=1e-9)
    wider = statistics.wilson_interval(share * n, n, (1 + level) / 2)
    assert wider.high - wider.low >= interval.high - interval.low - 1e-12
    larger = statistics.wilson_interval(4 * share * n, 4 * n, level)
    assert larger.high - larger.low <= interval.high - interval.low + 1e-12


# --- mean and standard deviation ---


def test_mean_and_std_by_hand() -> None:
    # Mean (1 + 2 + 6) / 3 = 3; squared distances 4, 1, 9; sqrt(14 / 3), not sqrt(14 / 2).
    mean, std = statistics.mean_and_std([1, 2, 6])
    assert mean == 3.0
    assert std == pytest.approx(math.sqrt(14 / 3), rel=1e-15)
    assert statistics.mean_and_std([5]) == (5.0, 0.0)


@pytest.mark.parametrize("values", [[], [1, NAN], [[1, 2]]])
def test_mean_and_std_refuses(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least one|NaN|vector"):
        statistics.mean_and_std(values)


def test_mean_and_std_agree_with_loops() -> None:
    sample = np.random.default_rng(0).normal(3, 2, size=101)
    total = squares = 0.0
    for value in sample:
        total += float(value)
    for value in sample:
        squares += (float(value) - total / 101) ** 2
    mean, std = statistics.mean_and_std(sample)
    assert mean == pytest.approx(total / 101, abs=1e-10)
    assert std == pytest.approx(math.sqrt(squares / 101), abs=1e-10)


@PROPERTY
@given(values=vectors, shift=st.floats(-10, 10), scale=st.floats(-10, 10))
def test_mean_and_std_under_an_affine_map(values: np.ndarray, shift: float, scale: float) -> None:
    mean, std = statistics.mean_and_std(values)
    new_mean, new_std = statistics.mean_and_std(scale * values + shift)
    assert new_mean == pytest.approx(scale * mean + shift, abs=1e-9)
    assert new_std == pytest.approx(abs(scale) * std, abs=1e-9)
