"""The expected gradient of an update is that of the divergence which the option names."""

from typing import Any

import pytest
import torch

from salsa_cli.devices.runtime import Runtime, start_runtime
from salsa_cli.errors import UsageError
from salsa_cli.maths import group_advantages, kl
from tests.support import tabular
from tests.support.tabular import COEF, FAR, PAIRS, REFS, learned, objective_gradient, settings

ALLOWED = {
    ("kl", "k1", "reward"),
    ("kl", "k2", "loss"),
    ("kl", "k3", "loss"),
    ("mean-kl", "k1", "reward"),
    ("mean-kl", "k2", "loss"),
    ("mean-kl", "k3", "loss"),
    ("chi2", "k1", "reward"),
}


@pytest.fixture(scope="module")
def cpu() -> Runtime:
    return start_runtime("cpu")


@pytest.mark.parametrize(("penalty", "estimator", "place"), PAIRS)
def test_each_pair_has_the_gradient_of_its_divergence_or_is_refused(
    penalty: str, estimator: str, place: str, cpu: Runtime
) -> None:
    """Own and later tokens, with the reward: -(E[score] - coef * D), to 1e-9."""
    options: dict[str, Any] = {"penalty": penalty, "kl_estimator": estimator, "kl_in": place}
    if (penalty, estimator, place) not in ALLOWED:
        with pytest.raises(UsageError, match=r"expected|has no effect"):
            settings(**options)
        return
    found = learned(settings(**options), cpu)
    expected = objective_gradient(penalty, COEF)
    torch.testing.assert_close(found.gradients[0] / found.scale, expected, rtol=0, atol=1e-9)
    # The oracle tells the penalties apart, and from none.
    assert (expected - objective_gradient(penalty, 0.0)).abs().max() > 0.05


@pytest.mark.parametrize(("penalty", "estimator", "place"), sorted(ALLOWED))
@pytest.mark.parametrize(("advantage", "size"), [("rloo", 2), ("rloo", 3), ("group", 2)])
def test_comparing_answers_has_the_gradient_of_the_same_objective(
    advantage: str, size: int, penalty: str, estimator: str, place: str, cpu: Runtime
) -> None:
    """All groups of `size` answers, enumerated: rloo is unbiased, and group is (K - 1) / K of it.

    Divided by its `scale`, in which the unit holds that factor, so both compare with one oracle.
    """
    options: dict[str, Any] = {"penalty": penalty, "kl_estimator": estimator, "kl_in": place}
    found = learned(
        settings(**options, advantage=advantage, samples_per_prompt=size, micro_batch_size=256), cpu
    )
    expected = objective_gradient(penalty, COEF)
    torch.testing.assert_close(found.gradients[0] / found.scale, expected, rtol=0, atol=1e-9)
    tokens = 1.75  # 28 in the 16 answers of `tabular.batch`
    factor = {"rloo": 1.0, "group": (size - 1) / size}[advantage]
    assert found.scale * tokens == pytest.approx(factor)


def test_dividing_by_the_spread_has_another_gradient_that_is_known(cpu: Runtime) -> None:
    """In pairs, grpo compares ranks alone: (R - R') / (2 s) with s = |R - R'| / sqrt(2).

    So the gradient is that of how often an answer beats one of the policy as it was, and how far
    the scores are apart does not count: a score of 20 for 2 changes nothing.
    """
    options: dict[str, Any] = {"advantage": "grpo", "samples_per_prompt": 2, "kl_coef": 0.0}
    found = learned(settings(**options), cpu).gradients[0] * 1.75
    table = torch.log(tabular.POLICY).requires_grad_()
    wins = torch.zeros((), dtype=torch.float64)
    pairs = list(zip(tabular.ANSWERS, tabular.SCORES, strict=True))
    for answer, score in pairs:
        for other, theirs in pairs:
            weight = tabular.answer_probability(table, other).detach()
            apart = score - theirs
            advantage = apart / 2 / (abs(apart) / 2**0.5 + 1e-4)
            wins = wins + tabular.answer_probability(table, answer) * weight * advantage
    (expected,) = torch.autograd.grad(-wins, table)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    right = objective_gradient("kl", 0.0)
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), right.flatten(), dim=0)
    assert 0 < float(cosine) < 0.97


@pytest.mark.parametrize(("estimator", "place"), [("k1", "reward"), ("k3", "loss")])
def test_the_weight_means_the_same_with_whitened_rewards(
    estimator: str, place: str, cpu: Runtime
) -> None:
    """Whitened rewards have a constant per token added, which changes the gradient of the first
    step alone, where an answer may end; in the second step both gradients are the same."""
    options: dict[str, Any] = {"kl_estimator": estimator, "kl_in": place}
    whitened = learned(settings(**options, whiten_rewards=True), cpu)
    plain = learned(settings(**options), cpu)
    drift = whitened.gradients[0] / whitened.scale - plain.gradients[0] / plain.scale
    assert drift[1:].abs().max() < 1e-9


def test_chi2_beyond_its_limit_has_the_gradient_of_the_clipped_divergence(cpu: Runtime) -> None:
    found = learned(settings(penalty="chi2"), cpu, refs=[FAR])
    expected = objective_gradient("chi2", COEF, refs=[FAR])
    torch.testing.assert_close(found.gradients[0] / found.scale, expected, rtol=0, atol=1e-9)


def test_one_token_far_from_the_reference_leaves_the_other_advantages_their_spread() -> None:
    """A log-ratio of 6 cut the spread of the others to 0.385; here it leaves 0.9 of it."""
    generator = torch.Generator().manual_seed(1)
    advantages = torch.randn(64, 32, generator=generator, dtype=torch.float64)
    far = torch.tensor([[6.0]], dtype=torch.float64)
    own = kl.chi2(far, 0 * far) + kl.chi2_slope(far, 0 * far)
    penalised = advantages.clone()
    penalised[0, 0] -= 0.05 * own.item()
    whitened = (penalised - penalised.mean()) / penalised.std()
    assert whitened.flatten()[1:].std() > 0.9


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_loss_has_the_gradient_of_the_kl_after_the_policy_has_moved(
    estimator: str, cpu: Runtime
) -> None:
    """In the second step the states are the old policy's, and the KL in them the new policy's."""
    move = torch.tensor([[0.2, -0.1, 0.0], [-0.3, 0.1, 0.2], [0.1, 0.2, -0.2]], dtype=torch.float64)
    options: dict[str, Any] = {"kl_in": "loss", "kl_estimator": estimator, "epochs": 2}
    found = learned(settings(**options), cpu, moves=[move])
    # The advantages of the rewards are linear in those of the old policy: known by a run whose
    # loss holds nothing else, at the same advantages.
    table = (tabular.POLICY.log() + move).requires_grad_()
    met = torch.stack([torch.ones((), dtype=torch.float64), *tabular.POLICY[0, :2]])
    now = torch.log_softmax(table, -1)
    each = (now.exp() * (now - REFS[0].log())).sum(-1)
    (own,) = torch.autograd.grad(COEF * (met * each).sum(), table)
    surrogate = _surrogate_gradient(settings(**options), move)
    torch.testing.assert_close(found.gradients[1] / found.scale, surrogate + own, rtol=0, atol=1e-9)


def _surrogate_gradient(config: Any, move: torch.Tensor) -> torch.Tensor:
    """Of -E_old[sum_t ratio_t A_t] by the logits, with the advantages of the old policy by hand:
    what follows a token, score and later KL, less the value of its state."""
    ids, mask, scores = tabular.batch()
    old = torch.log(tabular.POLICY)
    states = torch.stack([torch.zeros(len(ids)).long(), 1 + ids[:, 0].clamp(max=1)], dim=1)
    k1 = (old - REFS[0].log())[states, ids] * mask
    values = tabular.VALUES[states] * mask
    later = torch.stack([k1[:, 1], torch.zeros(len(ids))], dim=1)
    gae = (scores[:, None] - COEF * later - values) * mask
    centred = gae - gae[mask].mean()
    table = (old + move).requires_grad_()
    ratio = torch.exp(torch.log_softmax(table, -1)[states, ids] - old[states, ids])
    loss = -(ratio * centred * mask).sum() / len(ids)
    (found,) = torch.autograd.grad(loss, table)
    return found


@pytest.mark.parametrize(("estimator", "place"), [("k1", "reward"), ("k2", "loss"), ("k3", "loss")])
def test_a_discount_weakens_the_score_and_the_kl_of_later_tokens(
    estimator: str, place: str, cpu: Runtime
) -> None:
    """In each state that the policy meets, the gradient is that of the discounted objective."""
    gamma = 0.5
    config = settings(kl_estimator=estimator, kl_in=place, gamma=gamma)
    found = learned(config, cpu)
    table = torch.log(tabular.POLICY).requires_grad_()
    now = torch.log_softmax(table, -1)
    own = (now.exp() * (now - REFS[0].log())).sum(-1)
    score = dict(zip(tabular.ANSWERS, tabular.SCORES, strict=True))
    given = torch.tensor(
        [[score[first, token] for token in range(3)] for first in range(2)], dtype=torch.float64
    )
    second = [
        (now[1 + first].exp() * given[first]).sum() - COEF * own[1 + first] for first in range(2)
    ]
    after = torch.stack([gamma * value.detach() for value in second])
    first = (now[0, :2].exp() * after).sum() + now[0, 2].exp() * score[(2,)] - COEF * own[0]
    met = tabular.POLICY[0, :2]
    objective = first + met[0] * second[0] + met[1] * second[1]
    (expected,) = torch.autograd.grad(-objective, table)
    torch.testing.assert_close(found.gradients[0] / found.scale, expected, rtol=0, atol=1e-9)
    # Far from rounding: the oracle tells this from the KL of whole answers.
    assert (expected - objective_gradient("kl", COEF)).abs().max() > 0.01


@pytest.mark.parametrize("coef", [0.7, 0.007])
def test_grpo_gives_a_prompt_of_equal_scores_to_the_penalty(coef: float) -> None:
    """Divided by their own spread, KLs count the same whatever the coefficient is."""
    kls = torch.tensor([[0.5], [1.0], [2.5], [4.0]], dtype=torch.float64)
    scores, mask = torch.ones(4, dtype=torch.float64), torch.ones(4, 1).bool()
    advantages = group_advantages.grpo(group_advantages.answer_returns(scores, kls, mask, coef), 4)
    standard = -(kls - kls.mean()) / kls.std()
    # The constant in the divisor, 1e-4 of a spread of 0.011 at least, is all that differs.
    torch.testing.assert_close(advantages, standard.flatten(), rtol=0.01, atol=0)
