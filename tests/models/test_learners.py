"""How weights move: AdamW by its formula, clipping, schedules."""

import math
import sys
from pathlib import Path

import pytest
import torch

from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.models import learners
from salsa_cli.models.learners import Learner

RATE = 0.1


def learner(max_grad_norm: float = 1e9) -> tuple[Learner, torch.nn.Linear]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1, bias=False).double()
    return Learner(
        "policy", model, torch.nn.Module.__call__, RATE, max_grad_norm, start_runtime("cpu")
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
    linear = [learners.warmed_up(step, 5, 0.4) for step in range(5)]
    assert linear == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])
    constant = [learners.warmed_up(step, 5, 0.4, schedule="constant") for step in range(5)]
    assert constant == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])
    assert [learners.warmed_up(step, 4, 0.0) for step in range(4)] == [1, 0.75, 0.5, 0.25]


def wide(optimiser: str) -> tuple[Learner, torch.nn.Linear]:
    """Weights enough for 8 bits: less than 4,096 stay in float32."""
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 128, bias=False)
    made = Learner("policy", model, lambda m, x: m(x), 1e-3, 1e9, start_runtime("cpu"), optimiser)
    return made, model


def train(made: Learner, model: torch.nn.Linear, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(step))
        (model(inputs) - inputs.repeat(1, 2)).square().mean().backward()
        made.step(1.0)


def test_moments_in_eight_bits_move_the_weights_alike_in_a_quarter_of_the_memory() -> None:
    """Alike is 5 % of the way here (it is 2.7): a moment keeps 8 bits of its 24."""
    pytest.importorskip("bitsandbytes")
    start = wide("adamw")[1].weight.detach().clone()
    moved, held = [], []
    for optimiser in ("adamw", "adamw-8bit"):
        made, model = wide(optimiser)
        train(made, model, range(40))
        moved.append(model.weight.detach() - start)
        tensors = [v for v in made._optimiser.state[model.weight].values() if torch.is_tensor(v)]
        held.append(sum(tensor.nbytes for tensor in tensors) / model.weight.numel())
    assert (moved[1] - moved[0]).norm() < 0.05 * moved[0].norm()
    tables = 2 * 4 * 256 / (64 * 128)  # of the 256 values that 8 bits stand for, once a weight
    assert held[0] == pytest.approx(learners.MOMENTS["adamw"], abs=0.01)
    assert held[1] == pytest.approx(learners.MOMENTS["adamw-8bit"] + tables, abs=0.01)


@pytest.mark.parametrize("optimiser", ["adamw", "adamw-8bit"])
def test_a_state_that_went_through_a_file_goes_on_to_the_same_bits(
    tmp_path: Path, optimiser: str
) -> None:
    if optimiser != "adamw":
        pytest.importorskip("bitsandbytes")
    whole, one = wide(optimiser)
    train(whole, one, range(6))
    half, two = wide(optimiser)
    train(half, two, range(3))
    torch.save(half.state(), tmp_path / "state.pt")
    later, three = wide(optimiser)
    later.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    train(later, three, range(3, 6))
    assert torch.equal(one.weight, three.weight)


def test_eight_bits_without_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(SalsaError, match=r"needs bitsandbytes.*pip install bitsandbytes"):
        learners.check("adamw-8bit")
    learners.check("adamw")
