"""Bradley-Terry fits against closed forms, the likelihood itself, and a general minimiser."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salsa_cli.maths.bradley_terry import (
    ControlledFit,
    bradley_terry,
    connected,
    controlled_bradley_terry,
    expected_rate,
)


def test_two_models_by_hand() -> None:
    # 3 of 4: log odds log 3, half on each side of 0.
    strengths = bradley_terry([[0, 3], [1, 0]])
    assert strengths == pytest.approx([np.log(3) / 2, -np.log(3) / 2], abs=1e-5)
    assert expected_rate(strengths[0], strengths[1]) == pytest.approx(0.75, abs=1e-5)


def test_against_one_baseline_the_fit_is_each_rate() -> None:
    won = np.zeros((4, 4))
    won[1:, 0], won[0, 1:] = [30, 55, 99], [70, 45, 1]
    strengths = bradley_terry(won)
    assert expected_rate(strengths[1:], strengths[0]) == pytest.approx([0.3, 0.55, 0.99], abs=1e-5)


@given(st.integers(0, 2**32 - 1))
def test_expected_points_equal_those_won(seed: int) -> None:
    # The slope of the likelihood is won less expected, model by model.
    generator = np.random.default_rng(seed)
    won = generator.integers(1, 20, size=(5, 5)) / 2
    np.fill_diagonal(won, 0)
    strengths = bradley_terry(won)
    rates = expected_rate(strengths[:, None], strengths[None, :])
    expected = ((won + won.T) * rates).sum(axis=1)
    assert expected == pytest.approx(won.sum(axis=1), abs=1e-4)
    assert strengths.sum() == pytest.approx(0, abs=1e-12)


def test_draws_are_fitted_each_alone() -> None:
    generator = np.random.default_rng(1)
    won = generator.integers(1, 9, size=(6, 3, 3)).astype(float)
    together = bradley_terry(won)
    assert together == pytest.approx(np.array([bradley_terry(one) for one in won]), abs=1e-9)


def test_a_clean_sweep_and_strangers_stay_finite() -> None:
    sweep = bradley_terry([[0, 9], [0, 0]])
    assert np.isfinite(sweep).all() and expected_rate(sweep[0], sweep[1]) > 0.999
    strangers = np.zeros((4, 4))
    strangers[0, 1], strangers[1, 0], strangers[2, 3], strangers[3, 2] = 3, 1, 1, 1
    strengths = bradley_terry(strangers)
    assert strengths[0] - strengths[1] == pytest.approx(np.log(3), abs=1e-4)
    assert strengths[2] == pytest.approx(strengths[3], abs=1e-6)


def games(seed: int, count: int = 400) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    first, second = generator.integers(3, size=count), 3 + generator.integers(2, size=count)
    return {
        "first": first,
        "second": second,
        "outcomes": generator.choice([0.0, 0.5, 1.0], size=count),
        "weights": generator.choice([1.0, 3.0], size=count),
        "features": generator.normal(size=(count, 2)) + first[:, None],
        "questions": generator.integers(50, size=count),
    }


def one_pair(outcomes: list[float], features: list[float]) -> ControlledFit:
    count = len(outcomes)
    return controlled_bradley_terry(
        np.zeros(count, np.int64),
        np.ones(count, np.int64),
        np.array(outcomes),
        np.ones(count),
        np.array(features)[:, None],
        np.arange(count),
        2,
        np.zeros(1),
    )


def apart(fit: ControlledFit) -> float:
    return float(abs(fit.drift[0] - fit.drift[1]))


def test_a_fit_that_the_data_bound_does_not_drift() -> None:
    fit = one_pair([1, 0, 1, 0.5, 0, 1], [0.3, 0.2, -0.1, 0.0, -0.3, 0.1])
    assert apart(fit) < 1e-3 and fit.feature_drift.max() < 1e-3
    # One tie off the line bounds what the other games would separate.
    tied = one_pair([1, 1, 0, 0, 0.5], [0.2, 0.4, -0.2, -0.4, 0.3])
    assert apart(tied) < 0.1 and tied.feature_drift.max() < 0.1


def test_a_fit_that_only_the_prior_bounds_drifts() -> None:
    # The feature's sign is the outcome: the strengths are bounded, the coefficient is not.
    told = one_pair([1, 1, 0, 0], [0.2, 0.4, -0.2, -0.4])
    assert told.feature_drift.max() > 3 and apart(told) < 1e-6
    # The first won all: a strength of log(2n / prior), less a slow term, and no feature.
    swept = one_pair([1, 1, 1, 1], [0.2, 0.4, -0.2, -0.4])
    assert 4 < apart(swept) < np.log(100) and swept.feature_drift.max() < 0.1


def loss(beta: np.ndarray, given: dict[str, np.ndarray]) -> float:
    """What Arena-Hard minimises, game by game: each twice, a tie once won and once lost."""
    features, weights = given["features"], given["weights"]
    copies = np.repeat(np.arange(len(weights)), weights.astype(int))
    scaled = (features - features[copies].mean(axis=0)) / features[copies].std(axis=0)
    total = 0.5 * float(beta @ beta)
    for game in copies:
        strength = beta[given["first"][game]] - beta[given["second"][game]]
        logit = np.log(10) * strength + scaled[game] @ beta[5:]
        for won in {0.0: (0, 0), 0.5: (0, 1), 1.0: (1, 1)}[given["outcomes"][game]]:
            total += float(np.logaddexp(0, -logit if won else logit))
    return total


def origin(given: dict[str, np.ndarray]) -> np.ndarray:
    """Arena-Hard's: the mean difference."""
    return np.average(given["features"], axis=0, weights=given["weights"])


def test_at_equal_length_means_no_difference_in_length() -> None:
    """A judge that looks at length alone, and a model that writes more: level at equal length."""
    generator = np.random.default_rng(3)
    count = 20_000
    difference = generator.normal(0.3, 0.3, (count, 1))
    rate = 1 / (1 + np.exp(-4 * difference[:, 0]))
    given = {
        "first": np.zeros(count, np.int64),
        "second": np.ones(count, np.int64),
        "outcomes": (generator.random(count) < rate).astype(float),
        "weights": np.ones(count),
        "features": difference,
        "questions": np.arange(count),
    }
    level = controlled_bradley_terry(**given, models=2, origin=np.zeros(1)).strengths
    # The intercept's standard error is about 0.022 here; the mean difference is worth 1.2.
    assert level[0] - level[1] == pytest.approx(0, abs=0.1)
    mean = controlled_bradley_terry(**given, models=2, origin=origin(given)).strengths
    assert mean[0] - mean[1] == pytest.approx(4 * 0.3, abs=0.1)


def test_style_control_minimises_what_arena_hard_does() -> None:
    given = games(0, 60)
    fit = controlled_bradley_terry(**given, models=5, origin=origin(given))
    beta = np.concatenate([fit.strengths / np.log(10), fit.coefficients])
    best = loss(beta, given)
    for direction in np.eye(7):
        for step in (1e-3, -1e-3):
            assert loss(beta + step * direction, given) > best


def test_the_influence_of_a_question_is_that_of_one_more_copy() -> None:
    given = games(1, 2000)
    fit = controlled_bradley_terry(**given, models=5, origin=origin(given))
    # Features are scaled by all games, so a copy moves that scale as well, which the linear
    # influence leaves out: centred and scaled features keep it to a few hundredths of the move.
    copy = {
        name: np.concatenate([values, values[given["questions"] == 7]])
        for name, values in given.items()
    }
    again = controlled_bradley_terry(**copy, models=5, origin=origin(given))
    moved = again.strengths - fit.strengths
    assert fit.influence[7] == pytest.approx(moved, abs=0.15 * np.abs(moved).max())
    assert fit.influence.shape == (50, 5)


def test_a_feature_without_spread_controls_nothing() -> None:
    given = games(2)
    fit = controlled_bradley_terry(**given, models=5, origin=origin(given))
    constant = np.column_stack([given["features"], np.full(400, 0.1)])
    again = controlled_bradley_terry(
        **{**given, "features": constant}, models=5, origin=np.append(origin(given), 0.0)
    )
    assert again.coefficients[2] == pytest.approx(0, abs=1e-12)
    assert again.strengths == pytest.approx(fit.strengths, abs=1e-9)


def test_groups_that_are_connected_by_wins() -> None:
    # 0 and 1 beat one another, 2 lost to both, 3 and 4 met nobody else.
    won = np.zeros((5, 5))
    won[0, 1] = won[1, 0] = won[0, 2] = won[1, 2] = won[3, 4] = won[4, 3] = 1
    assert connected(won) == [[0, 1], [2], [3, 4]]
    assert connected(won + won.T) == [[0, 1, 2], [3, 4]]
    # A cycle of wins connects, however long.
    cycle = np.roll(np.eye(40), 1, axis=1)
    assert connected(cycle) == [list(range(40))]
