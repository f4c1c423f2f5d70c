"""Bradley-Terry strengths of models, with and without control for the style of the answers."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from salsa_cli.maths.paired_design import PairedDesign

Array = NDArray[np.float64]

# Weight of a normal prior on the strengths: too weak to show in a fit that the data determine, and
# enough for a finite one where a model won all or where two groups of models never met.
_RIDGE = 1e-6
_STEPS = 50
# Newton's steps shrink quadratically: after one of this size, the next would be about its square.
_CONVERGED = 1e-6
# Longer steps leave the region where the current curvature is informative.
_LONGEST_STEP = 2.0

# Priors so weak that a fit which the data bound is the same under both (see `ControlledFit`).
_WEAK, _WEAKER = 1e-4, 1e-6
_BATCH = 2**21


def bradley_terry(points: ArrayLike) -> Array:
    """Strengths s [..., m] of m models, in log-odds with mean 0.

    Args:
        points: [..., m, m]; points[i, j] is what i won against j, in wins plus half the ties, each
            as often as it counts. Leading axes are separate fits (bootstrap draws).

    The maximum of sum_ij points[i, j] log sigmoid(s_i - s_j) (Bradley and Terry, 1952; a tie is
    half a win and half a loss), by Newton's method with halved steps where a step would lead too
    far.
    """
    won = np.asarray(points, dtype=np.float64)
    m = won.shape[-1]
    flat = won.reshape(-1, m, m)
    step = max(1, _BATCH // (m * m))
    parts = [_fit(flat[start : start + step]) for start in range(0, len(flat), step)]
    return np.concatenate(parts).reshape(won.shape[:-1])


def connected(points: ArrayLike) -> list[list[int]]:
    """Groups of models that can be compared: inside each, every model has a path of wins to every.

    Args:
        points: [m, m]; points[i, j] is what i won against j.

    Between two groups, one won all games or there were none, so that the likelihood of `bradley_
    terry` has no maximum (Ford, "Solution of a Ranking Problem from Binary Comparisons", 1957). For
    symmetric points these are the groups that never met. In the order of their first model.
    """
    reach = np.asarray(points, np.float64) > 0
    np.fill_diagonal(reach, True)
    for _ in range(max(1, len(reach)).bit_length()):  # paths twice as long each time
        reach = (reach.astype(np.float64) @ reach.astype(np.float64)) > 0
    both = reach & reach.T
    return [
        np.flatnonzero(row).tolist()
        for index, row in enumerate(both)
        if int(np.flatnonzero(row)[0]) == index
    ]


def expected_rate(strength: ArrayLike, opponent: ArrayLike) -> Array:
    """Win rate sigmoid(strength - opponent) that two strengths in log-odds imply."""
    return _sigmoid(np.asarray(strength, np.float64) - np.asarray(opponent, np.float64))


@dataclass(frozen=True)
class ControlledFit:
    """A Bradley-Terry fit with features of the two answers.

    `strengths` [m] in log-odds, `coefficients` [f] in the unit that Arena-Hard prints (log-odds
    over log 10, per standard deviation of the feature), `influence` [q, m]: how far one more copy
    of each question would move the strengths, to first order.

    `drift` [m] is how far each strength moves when a weak prior is made a hundred times weaker, and
    `feature_drift` [f] how far each feature then moves the game that it moves most, both in
    log-odds. What the data bound stays where it is. Where they separate wins from losses there is
    no maximum of the likelihood (Albert and Anderson, 1984): the weaker the prior, the farther out
    the fit, by about log(100) here.
    """

    strengths: Array
    coefficients: Array
    influence: Array
    drift: Array
    feature_drift: Array


def controlled_bradley_terry(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    outcomes: Array,
    weights: Array,
    features: Array,
    questions: NDArray[np.int64],
    models: int,
    origin: Array,
) -> ControlledFit:
    """Strengths of models at a given difference in style of the answers.

    Args:
        first, second: [b], the two models of each comparison, as numbers below `models`.
        outcomes: [b], 1, 0.5 or 0 for the first.
        weights: [b], how often a comparison counts.
        features: [b, f], the difference in style, first less second; scaled here to a spread of 1.
        questions: [b], the question of each comparison, as numbers from 0.
        models: how many models there are.
        origin: [f], the difference at which the strengths hold: 0 for equal style. Arena-Hard takes
            the mean of `features`, which is equal style only where the models' styles balance.

    The joint logistic fit of Arena-Hard's style control (Li et al., "From Live Data to High-Quality
    Benchmarks", 2024; Chiang et al., "Style Control", 2024): each comparison counts twice, with
    strengths scaled by log 10 and a standard normal prior on all parameters (scikit-learn's
    default, C = 1).
    """
    mean = np.average(features, axis=0, weights=weights)
    spread = np.sqrt(np.average((features - mean) ** 2, axis=0, weights=weights))
    # A feature that is the same in all comparisons controls nothing: its coefficient stays 0.
    varies = spread > 1e-12
    scaled = np.where(varies, (features - origin) / np.where(varies, spread, 1.0), 0.0)
    # Where a model meets itself, Arena-Hard keeps the second sign alone, as this design does.
    design = PairedDesign(first, second, scaled, models, float(np.log(10)))
    beta, curve = _penalised(design, outcomes, weights, 1.0, np.zeros(design.columns))
    weak, _ = _penalised(design, outcomes, weights, _WEAK, beta)
    weaker, _ = _penalised(design, outcomes, weights, _WEAKER, weak)
    drift = weaker - weak
    residuals = 2 * weights * (outcomes - _sigmoid(design.times(beta)))
    per_question = design.sums_by(questions, residuals, int(questions.max()) + 1)
    moved = np.linalg.solve(curve, per_question.T).T
    return ControlledFit(
        strengths=beta[:models] * np.log(10),
        coefficients=beta[models:],
        influence=moved[:, :models] * np.log(10),
        drift=drift[:models] * np.log(10),
        feature_drift=np.abs(drift[models:]) * np.abs(scaled).max(axis=0),
    )


def _penalised(
    design: PairedDesign, outcomes: Array, weights: Array, prior: float, start: Array
) -> tuple[Array, Array]:
    """The logistic fit with a normal prior of this precision, and the curvature at it.

    Newton's method; a step that leads downhill is halved.
    """

    def objective(beta: Array) -> float:
        z = design.times(beta)
        likelihood = 2 * weights @ (outcomes * z - np.logaddexp(0.0, z))
        return float(likelihood - prior * beta @ beta / 2)

    beta, value = start, objective(start)
    ridge = prior * np.eye(len(beta))
    curve = ridge
    for _ in range(_STEPS):
        rate = _sigmoid(design.times(beta))
        slope = design.sums(2 * weights * (outcomes - rate)) - prior * beta
        curve = design.gram(2 * weights * rate * (1 - rate)) + ridge
        step = np.linalg.solve(curve, slope)
        while (better := objective(beta + step)) < value and np.abs(step).max() > 1e-10:
            step = step / 2
        beta, value = beta + step, better
        if np.abs(step).max() < 1e-10:
            break
    return beta, curve


def _fit(won: Array) -> Array:
    """The fits [n, m] of points [n, m, m]; each takes part in the steps until it has converged."""
    strengths = np.zeros(won.shape[:2])
    if len(won) > 1:  # draws of one sample lie near their mean
        strengths += _fit(won.mean(axis=0, keepdims=True))
    games = won + won.transpose(0, 2, 1)
    first, second = np.nonzero(np.triu(games.any(axis=0), 1))
    points, games = won[:, first, second], games[:, first, second]
    left = np.arange(len(won))
    for _ in range(_STEPS):
        step = _newton_step(points[left], games[left], strengths[left], first, second)
        strengths[left] += step
        left = left[np.abs(step).max(axis=1) >= _CONVERGED]
        if not len(left):
            break
    return np.asarray(strengths - strengths.mean(axis=1, keepdims=True))


def _newton_step(
    points: Array,
    games: Array,
    strengths: Array,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
) -> Array:
    """The step [n, m] from some strengths.

    `points` and `games` [n, p] are of the p pairs that met: what model `first` [p] won against
    model `second` [p], and how often they met.
    """
    m, pairs = strengths.shape[1], np.arange(len(first))
    sides = np.zeros((len(first), m))
    sides[pairs, first], sides[pairs, second] = 1.0, -1.0
    rate = _sigmoid(strengths @ sides.T)
    slope = (points - games * rate) @ sides - _RIDGE * strengths
    curve = games * rate * (1 - rate)
    # Strengths are defined up to a constant: without this, the Hessian is singular in the
    # direction of that constant and the step would amplify rounding errors.
    hessian = np.empty((len(points), m, m))
    hessian[:] = (2 * curve.sum(axis=1) / m**2 + _RIDGE)[:, None, None]
    hessian[:, first, second] -= curve
    hessian[:, second, first] -= curve
    hessian[:, range(m), range(m)] += curve @ np.abs(sides) + _RIDGE
    step = np.linalg.solve(hessian, slope[:, :, None])[:, :, 0]
    size = np.abs(step).max(axis=1, keepdims=True)
    return np.asarray(step * np.minimum(1.0, _LONGEST_STEP / np.maximum(size, 1e-300)))


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))
