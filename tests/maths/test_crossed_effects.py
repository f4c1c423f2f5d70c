"""Intervals over runs and prompts: hand-worked tables, limits, and coverage by simulation."""

from collections.abc import Callable

import numpy as np
import pytest

from salsa_cli.maths import crossed_effects, student_t
from salsa_cli.maths.crossed_effects import Spread

Array = np.ndarray


def test_a_table_worked_by_hand() -> None:
    # Rows 2, 5; columns 2, 3, 5.5; mean 3.5; the rest is -+ (0, .5, -.5) ... worked on paper:
    # MSR = 3 (1.5^2 + 1.5^2) / 1 = 13.5, MSP = 2 (1.5^2 + 0.5^2 + 2^2) / 2 = 6.5,
    # rest: 1 - 2 - 2 + 3.5 = .5, 1 - 2 - 3 + 3.5 = -.5, 4 - 2 - 5.5 + 3.5 = 0, and their mirror;
    # MSE = 2 (.25 + .25) / 2 = .5.
    found = crossed_effects.one_arm([[1, 1, 4], [3, 5, 7]])
    variance = (13.5 + 6.5 - 0.5) / 6
    df = 19.5**2 / (13.5**2 / 1 + 6.5**2 / 2 + 0.5**2 / 2)
    assert found.estimate == pytest.approx(3.5)
    assert found.error == pytest.approx(variance**0.5)
    assert found.df == pytest.approx(df)
    assert found.runs == pytest.approx(4.5)  # of the means 2 and 5
    assert found.prompts == pytest.approx((6.5 - 0.5) / 6)
    low, high = 3.5 - 2.0, 3.5 + 2.0
    # Two runs: the t-interval of the means 2 and 5 alone is wider, 12.7 * 1.5.
    half = student_t.quantile(0.975, 1) * 1.5
    assert half > student_t.quantile(0.975, df) * variance**0.5
    assert found.interval().low == pytest.approx(3.5 - half)
    assert found.interval().high == pytest.approx(3.5 + half)
    assert found.interval().low < low < high < found.interval().high


def test_without_prompt_effects_it_is_the_t_interval_of_the_runs_means() -> None:
    means = np.array([1.0, 2.0, 4.0])
    found = crossed_effects.one_arm(np.repeat(means[:, None], 5, axis=1))
    assert found.df == pytest.approx(2)
    assert found.error == pytest.approx(means.std(ddof=1) / 3**0.5)
    assert found.prompts == 0


def test_of_equal_runs_the_prompts_remain() -> None:
    values = np.array([1.0, 2.0, 4.0, 0.0])
    found = crossed_effects.one_arm(np.repeat(values[None], 3, axis=0))
    assert found.runs == 0
    assert found.df == pytest.approx(3)
    assert found.error == pytest.approx(values.std(ddof=1) / 2)


def test_two_arms_of_constant_rows_are_welchs_test() -> None:
    a, b = np.array([1.0, 2.0, 4.0]), np.array([0.0, 1.0])
    found = crossed_effects.two_arms(np.outer(a, np.ones(4)), np.outer(b, np.ones(4)))
    first, second = a.var(ddof=1) / 3, b.var(ddof=1) / 2
    assert found.estimate == pytest.approx(a.mean() - b.mean())
    assert found.error == pytest.approx((first + second) ** 0.5)
    # Welch and Satterthwaite: (v1 + v2)^2 / (v1^2 / 2 + v2^2 / 1)
    assert found.df == pytest.approx((first + second) ** 2 / (first**2 / 2 + second**2 / 1))


def test_two_arms_share_the_prompts() -> None:
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=(1, 50))
    a = prompts + 1 + 1e-9 * rng.normal(size=(3, 50))
    b = prompts + 1e-9 * rng.normal(size=(3, 50))
    # What both arms find hard cancels.
    assert crossed_effects.two_arms(a, b).error < 1e-8
    assert crossed_effects.one_arm(a).error > 0.05


def test_one_run_says_nothing_of_others() -> None:
    found = crossed_effects.prompts_only([1.0, 2.0, 4.0, 0.0])
    assert np.isnan(found.runs)
    assert found.error == pytest.approx(np.std([1, 2, 4, 0], ddof=1) / 2)


def test_the_bootstrap_has_the_variance_of_both_samples() -> None:
    y = np.random.default_rng(3).normal(size=(6, 1)) + np.zeros((1, 40))
    found = crossed_effects.bootstrap([y], seed=1, draws=20_000)
    rows = y.mean(axis=1)
    # Constant rows: a mean of R - 1 drawn runs has variance var(ddof=0) / (R - 1) = s^2 / R. Its
    # quantiles are those of a sum of five draws, near the normal ones: 10 % of room.
    normal = 1.96 * rows.std(ddof=1) / 6**0.5
    assert (found.high - found.low) / 2 == pytest.approx(normal, rel=0.1)
    assert found.estimate == pytest.approx(rows.mean())
    assert crossed_effects.bootstrap([y], seed=1, draws=20_000) == found
    assert crossed_effects.bootstrap([y, y + 1], seed=1, draws=100).estimate == pytest.approx(-1)


def test_the_runs_that_are_needed_meet_the_power() -> None:
    pilot = Spread(estimate=0.5, runs=0.36, prompts=0.0, error=0.0, df=2)
    needed = crossed_effects.runs_needed(pilot, arms=1)
    # 14 pairs have a power of 82 %, 13 of 79 % (noncentral t).
    assert needed == 14
    rng = np.random.default_rng(0)
    for pairs, enough in ((14, True), (13, False)):
        drawn = rng.normal(0.5, 0.6, (40_000, pairs))
        t = drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / pairs**0.5)
        power = np.mean(np.abs(t) > student_t.quantile(0.975, pairs - 1))
        assert (power >= 0.8) == enough


def test_too_few_prompts_cannot_be_mended_by_runs() -> None:
    assert crossed_effects.runs_needed(Spread(0.1, 0.01, 0.01, 0.0, 2), arms=1) is None
    assert crossed_effects.runs_needed(Spread(9.0, 0.0, 0.0, 0.0, 2), arms=2) == 2


def test_what_is_no_table_is_refused() -> None:
    for bad in ([[1.0, 2.0]], [[1.0], [2.0]], [[1.0, float("nan")], [2.0, 3.0]], [1.0, 2.0]):
        with pytest.raises(ValueError, match=r"table|NaN"):
            crossed_effects.one_arm(bad)
    with pytest.raises(ValueError, match="cannot be paired"):
        crossed_effects.two_arms(np.zeros((2, 3)), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="at least two prompts"):
        crossed_effects.prompts_only([1.0])


PROMPTS, REPETITIONS = 100, 1000


def drawn(rng: np.random.Generator, runs: int, between: float, shared: Array) -> Array:
    """A table around 0; `between` is the spread of runs in standard errors of one run's mean."""
    within = (2 / PROMPTS) ** 0.5
    run = rng.normal(0, between * within, (runs, 1))
    return run + shared + rng.normal(0, 1, (runs, PROMPTS))


def coverage(runs: int, between: float, interval: Callable[[Array], tuple[float, float]]) -> float:
    """Share of intervals of 1,000 simulated studies that hold the true mean, 0."""
    rng = np.random.default_rng(runs)
    hits = 0
    for _ in range(REPETITIONS):
        low, high = interval(drawn(rng, runs, between, rng.normal(0, 1, (1, PROMPTS))))
        hits += low <= 0 <= high
    return hits / REPETITIONS


def t_interval(table: Array) -> tuple[float, float]:
    found = crossed_effects.one_arm(table).interval()
    return found.low, found.high


def bootstrapped(table: Array) -> tuple[float, float]:
    found = crossed_effects.bootstrap([table], seed=0, draws=300)
    return found.low, found.high


@pytest.mark.parametrize("between", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("runs", [3, 5, 8, 15])
def test_the_t_interval_covers_at_any_number_of_seeds(runs: int, between: float) -> None:
    # The bar is 93 to 97 %; 1,000 repetitions have a standard error of .7 points.
    assert 0.93 <= coverage(runs, between, t_interval) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("between", [0.0, 2.0])
@pytest.mark.parametrize("runs", [8, 15])
def test_the_bootstrap_covers_from_eight_seeds_on(runs: int, between: float) -> None:
    # It is a little too wide where runs hardly differ: the rest counts three times (Owen 2007).
    assert 0.93 <= coverage(runs, between, bootstrapped) <= 0.985


def test_the_mean_over_runs_alone_would_not_cover() -> None:
    def of_means(table: Array) -> tuple[float, float]:
        means = table.mean(axis=1)
        half = student_t.quantile(0.975, len(means) - 1) * means.std(ddof=1) / len(means) ** 0.5
        return means.mean() - half, means.mean() + half

    assert coverage(8, 0.0, of_means) < 0.7


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_pairing_helps_where_seeds_are_shared_and_does_not_harm(shared: float) -> None:
    """`shared` is the correlation of the runs of one seed in both arms."""
    rng = np.random.default_rng(7)
    hits, widths = {"paired": 0, "unpaired": 0}, {"paired": 0.0, "unpaired": 0.0}
    for _ in range(REPETITIONS):
        prompts = rng.normal(0, 1, (1, PROMPTS))
        seeds = rng.normal(0, 1, (5, 1)) * shared**0.5
        a, b = (
            prompts
            + 0.3 * (seeds + rng.normal(0, 1, (5, 1)) * (1 - shared) ** 0.5)
            + rng.normal(0, 1, (5, PROMPTS))
            for _ in range(2)
        )
        for name, found in (
            ("paired", crossed_effects.one_arm(a - b)),
            ("unpaired", crossed_effects.two_arms(a, b)),
        ):
            interval = found.interval()
            hits[name] += interval.low <= 0 <= interval.high
            widths[name] += interval.high - interval.low
    assert 0.93 <= hits["paired"] / REPETITIONS <= 0.97
    if shared:
        assert widths["paired"] < 0.7 * widths["unpaired"]
    else:
        assert 0.93 <= hits["unpaired"] / REPETITIONS <= 0.97
        # Four degrees of freedom for eight: t is 2.78 for 2.31.
        assert widths["paired"] < 1.25 * widths["unpaired"]
