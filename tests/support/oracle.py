"""PPO for language models once more: naive float64 NumPy, loop by loop, from the formulas alone.

Written without a look at the code that it checks. Every argument is a list of one array an answer
(its real tokens only), so there is no padding to get wrong.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Rows = Sequence[Array]


@dataclass(frozen=True)
class Recipe:
    """The settings of one update."""

    estimator: str = "k1"
    coef: float = 0.05
    in_loss: bool = False
    whiten_rewards: bool = False
    gamma: float = 1.0
    lam: float = 0.95
    clip: float = 0.2
    dual_clip: float | None = None
    value_clip: float = 0.2
    temperature: float = 1.0
    cap: float = 2.0
    advantage: str = "gae"
    size: int = 1
    clip_high: float | None = None
    critic_lam: float | None = None
    adaptive: float | None = None
    by_answer: bool = False


@dataclass(frozen=True)
class Batch:
    """What the sampling left behind: one entry an answer, one number a token.

    `sampler` has the log-probabilities of the program that sampled, if it was another one. `units`
    say what a reward of 1 is worth in the advantages of each answer.
    """

    old: Rows
    refs: Sequence[Rows]
    values: Rows
    scores: Sequence[float]
    advantages: Rows = field(default_factory=list)
    returns: Rows = field(default_factory=list)
    sampler: Rows | None = None
    units: Sequence[float] = ()


def token_logprobs(logits: Array, tokens: Sequence[int], temperature: float) -> Array:
    """log p(token_t) of one answer; logits [R, V] predict its tokens."""
    found = []
    for row, token in zip(logits, tokens, strict=True):
        scaled = [z / temperature for z in row]
        top = max(scaled)
        total = sum(np.exp(z - top) for z in scaled)
        found.append(scaled[token] - top - np.log(total))
    return np.array(found, dtype=np.float64)


def divergence(policy: Array, ref: Array, estimator: str) -> Array:
    """One number a token."""
    ratio = np.exp(ref - policy)  # Schulman's r = ref / policy
    if estimator == "k1":
        return -np.log(ratio)
    if estimator == "k2":
        return np.log(ratio) ** 2 / 2
    if estimator == "k3":
        return ratio - 1 - np.log(ratio)
    return np.minimum(1 / ratio, np.exp(3.0)) - 1


def mean_divergence(policy: Array, refs: Sequence[Array], estimator: str) -> Array:
    """The mean over references."""
    total = np.zeros_like(policy)
    for ref in refs:
        total += divergence(policy, ref, estimator)
    return total / len(refs)


def spread(rows: Rows) -> float:
    """The standard deviation over all tokens, as whitening takes it."""
    every = [x for row in rows for x in row]
    mean = sum(every) / len(every)
    return float(np.sqrt(sum((x - mean) ** 2 for x in every) / len(every) + 1e-8))


def rewards(batch: Batch, recipe: Recipe) -> tuple[list[Array], float]:
    """-beta D on each token, the score once on the last; and what a reward of 1 has become.

    D is estimated without bias, whatever is differentiated in the loss.
    """
    found = []
    estimator = "chi2" if recipe.estimator == "chi2" else "k1"
    for row, score in enumerate(batch.scores):
        near = mean_divergence(batch.old[row], [ref[row] for ref in batch.refs], estimator)
        reward = -recipe.coef * near
        reward[-1] += score
        found.append(reward)
    if not recipe.whiten_rewards:
        return found, 1.0
    every = [r for row in found for r in row]
    mean = sum(every) / len(every)
    deviation = spread(found)
    return [(row - mean) / deviation + mean for row in found], 1 / deviation


def own_part(batch: Batch, row: int, recipe: Recipe) -> Array:
    """What the penalty on a token itself lacks: the ratio's own slope, or all of it in the loss."""
    total = np.zeros_like(batch.old[row])
    for ref in batch.refs:
        ratio = np.exp(batch.old[row] - ref[row])
        if recipe.in_loss:
            total -= np.log(ratio)
        elif recipe.estimator == "chi2":
            total += np.where(ratio < np.exp(3.0), ratio, 0.0)
    return total / len(batch.refs)


def compare(batch: Batch, recipe: Recipe) -> Batch:
    """Advantages by comparing the returns of the answers that stand in one group."""
    estimator = "chi2" if recipe.estimator == "chi2" else "k1"
    returns = []
    for row, score in enumerate(batch.scores):
        near = mean_divergence(batch.old[row], [ref[row] for ref in batch.refs], estimator)
        returns.append(score - recipe.coef * sum(near))
    advantages, units = [], []
    for row, mine in enumerate(returns):
        first = row - row % recipe.size
        group = returns[first : first + recipe.size]
        others = [returns[i] for i in range(first, first + recipe.size) if i != row]
        mean = sum(group) / recipe.size
        if recipe.advantage == "rloo":
            advantage, unit = mine - sum(others) / len(others), 1.0
        else:
            advantage, unit = mine - mean, 1 - 1 / recipe.size
        if recipe.advantage == "grpo":
            deviation = np.sqrt(sum((r - mean) ** 2 for r in group) / (recipe.size - 1)) + 1e-4
            advantage, unit = advantage / deviation, unit / deviation
        advantages.append(advantage - recipe.coef * unit * own_part(batch, row, recipe))
        units.append(float(unit))
    # An answer without own part has one advantage for all of its tokens.
    full = [a + np.zeros(len(old)) for a, old in zip(advantages, batch.old, strict=True)]
    return replace(batch, advantages=full, units=units)


def aim(batch: Batch, recipe: Recipe) -> Batch:
    """What the policy and the critic are trained towards."""
    return estimate(batch, recipe) if recipe.advantage == "gae" else compare(batch, recipe)


def estimate(batch: Batch, recipe: Recipe) -> Batch:
    """Advantages by the sum of discounted residuals, whitened over all tokens; and returns."""
    advantages, returns = [], []
    rewarded, unit = rewards(batch, recipe)
    for row, (reward, value) in enumerate(zip(rewarded, batch.values, strict=True)):
        length = len(reward)
        after = [*value[1:], 0.0]
        residuals = [reward[t] + recipe.gamma * after[t] - value[t] for t in range(length)]
        lam = recipe.lam
        if recipe.adaptive is not None:
            lam = max(0.0, 1 - 1 / (recipe.adaptive * length))
        gae = traces(residuals, recipe.gamma * lam)
        advantages.append(gae - recipe.coef * unit * own_part(batch, row, recipe))
        theirs = lam if recipe.critic_lam is None else recipe.critic_lam
        returns.append(traces(residuals, recipe.gamma * theirs) + value)
    every = [a for row in advantages for a in row]
    mean, deviation = sum(every) / len(every), spread(advantages)
    return replace(
        batch,
        advantages=[(row - mean) / deviation for row in advantages],
        returns=returns,
        units=[unit / deviation] * len(advantages),
    )


def traces(residuals: Sequence[float], decay: float) -> Array:
    """From each token on, the sum of what follows, decayed."""
    length = len(residuals)
    return np.array(
        [sum(decay ** (k - t) * residuals[k] for k in range(t, length)) for t in range(length)]
    )


def importance(old: float, sampler: float, cap: float) -> float:
    """pi_old / mu of one token, at most `cap`."""
    ratio = float(np.exp(old)) / float(np.exp(sampler))
    return cap if ratio > cap else ratio


def policy_loss(batch: Batch, new: Rows, recipe: Recipe, fixed: Rows | None = None) -> float:
    """The clipped surrogate per token, and the divergence where it is part of the loss.

    `fixed` are the log-probabilities at which the ratio of k2 is taken, which has no gradient.
    """
    answers = []
    for row, logprobs in enumerate(new):
        total = 0.0
        near = mean_divergence(logprobs, [ref[row] for ref in batch.refs], recipe.estimator)
        for t, logprob in enumerate(logprobs):
            ratio = float(np.exp(logprob - batch.old[row][t]))
            advantage = float(batch.advantages[row][t])
            above = recipe.clip if recipe.clip_high is None else recipe.clip_high
            inside = min(max(ratio, 1 - recipe.clip), 1 + above)
            gain = min(ratio * advantage, inside * advantage)
            if recipe.dual_clip is not None and advantage < 0:
                gain = max(gain, recipe.dual_clip * advantage)
            weight = 1.0
            if batch.sampler is not None:
                weight = importance(batch.old[row][t], batch.sampler[row][t], recipe.cap)
            total -= weight * gain
            if recipe.in_loss:
                if recipe.estimator == "k2" and fixed is not None:
                    ratio = float(np.exp(fixed[row][t] - batch.old[row][t]))
                total += weight * recipe.coef * batch.units[row] * ratio * float(near[t])
        answers.append((total, len(logprobs)))
    if recipe.by_answer:
        return sum(total / length for total, length in answers) / len(answers)
    return sum(total for total, _ in answers) / sum(length for _, length in answers)


def value_loss(batch: Batch, new: Rows, recipe: Recipe) -> float:
    """Half the larger of the two squared errors per token."""
    total, tokens = 0.0, 0
    for row, values in enumerate(new):
        for t, value in enumerate(values):
            old, target = batch.values[row][t], batch.returns[row][t]
            near = min(max(value, old - recipe.value_clip), old + recipe.value_clip)
            total += 0.5 * max((value - target) ** 2, (near - target) ** 2)
            tokens += 1
    return float(total / tokens)
