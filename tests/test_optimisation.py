"""How weights move: AdamW by its formula, clipping, schedules."""

import math

import pytest
import torch

from salsa_cli import optimisation, runtime
from salsa_cli.errors import SalsaError
from salsa_cli.optimisation import Learner

RATE = 0.1


def learner(max_grad_norm: float = 1e9) -> tuple[Learner, torch.nn.Linear]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1, bias=False).double()
    return Learner(
        "policy", model, torch.nn.Module.__call__, RATE, max_grad_norm, runtime.start("cpu")
    ), model


def push(model: torch.nn.Linear, gradient: list[float]) -> None:
    model.weight.grad = torch.tensor([gradient], dtype=torch.float64)


def test_two_steps_are_adams_by_the_formula() -> None:
    """m, v with bias correction, betas .9 and .999, epsilon 1e-5 outside the root, no decay."""
    made, model = learner()
    weights = model.weight.detach()[0].tolist()
    first, second = [0.0] * 3, [0.0] * 3
    for step, gradient in enumerate([[3.0, -1e-5, 0.0], [-1.0, 2e-5, 0.5]], start=1):
        push(model, gradient)
        made.step(0.5)
        for i, g in enumerate(gradient):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g * g
            m, v = first[i] / (1 - 0.9**step), second[i] / (1 - 0.999**step)
            weights[i] -= 0.5 * RATE * m / (math.sqrt(v) + 1e-5)
        assert model.weight.detach()[0].tolist() == pytest.approx(weights, abs=1e-14)


def test_a_gradient_is_scaled_down_to_the_norm_and_its_own_norm_is_told() -> None:
    made, model = learner(max_grad_norm=0.01)
    other, plain = learner()
    push(model, [3.0, 4.0, 0.0])
    push(plain, [0.006, 0.008, 0.0])
    assert made.step(1.0) == pytest.approx(5.0)
    assert other.step(1.0) == pytest.approx(0.01)
    # torch divides by the norm + 1e-6
    torch.testing.assert_close(model.weight, plain.weight, atol=1e-6, rtol=0)


def test_a_gradient_that_is_no_number_is_named_and_moves_nothing() -> None:
    made, model = learner()
    before = model.weight.detach().clone()
    push(model, [0.0, math.nan, 0.0])
    with pytest.raises(SalsaError, match=r"gradient of the policy is not finite \(at weight\)"):
        made.step(1.0)
    assert torch.equal(model.weight, before)


def test_dropped_gradients_leave_the_weights() -> None:
    made, model = learner()
    before = model.weight.detach().clone()
    push(model, [1.0, 1.0, 1.0])
    made.drop()
    assert model.weight.grad is None
    assert torch.equal(model.weight, before)


def test_schedules_by_hand() -> None:
    linear = [optimisation.warmed_up(step, 5, 0.4) for step in range(5)]
    assert linear == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    constant = [optimisation.warmed_up(step, 5, 0.4, schedule="constant") for step in range(5)]
    assert constant == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])
    assert [optimisation.warmed_up(step, 4, 0.0) for step in range(4)] == [1, 0.75, 0.5, 0.25]
