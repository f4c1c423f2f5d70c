"""How weights move: AdamW by its formula, clipping, schedules."""

import copy
import math
from pathlib import Path

import pytest
import torch

from salsa_cli.devices.runtime import start_runtime
from salsa_cli.errors import SalsaError
from salsa_cli.models import learners
from salsa_cli.models.learners import Learner, MomentStorage

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


def wide(
    optimiser: str, dtype: torch.dtype = torch.float32, offload: bool = False
) -> tuple[Learner, torch.nn.Linear]:
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 128, bias=False).to(dtype)
    storage = MomentStorage.of(optimiser, offload=offload, seed=3)
    made = Learner("policy", model, lambda m, x: m(x), 1e-3, 1e9, start_runtime("cpu"), storage)
    return made, model


def train(made: Learner, model: torch.nn.Linear, steps: range) -> None:
    """Two passes a step."""
    for step in steps:
        inputs = torch.randn(32, 64, generator=torch.Generator().manual_seed(step))
        for part in inputs.to(model.weight.dtype).split(16):
            (model(part) - part.repeat(1, 2)).square().mean().backward()
        made.step(1.0)


@pytest.mark.parametrize(
    ("optimiser", "dtype", "most"),
    [
        ("adamw-8bit", torch.float32, 0.05),
        ("adamw", torch.bfloat16, 0.1),
        ("adamw-8bit", torch.bfloat16, 0.12),
    ],
)
def test_weights_move_alike_in_less_memory(optimiser: str, dtype: torch.dtype, most: float) -> None:
    """Alike is some hundredths of the way of .014 a weight: an 8-bit code is off by 2.5 %, and the
    second moments stray. A bfloat16 weight of up to .125 has places of 2.4e-4 or 4.9e-4, and goes
    up or down by one in 40 steps of up to 1e-3, each rounded by itself."""
    start = wide("adamw")[1].weight.detach().clone()
    moved, held = [], []
    for settings in (("adamw", torch.float32), (optimiser, dtype)):
        made, model = wide(*settings)
        train(made, model, range(40))
        moved.append(model.weight.detach().float() - start)
        state = made.state()["optimiser"]["state"][0]
        held.append(sum(value.nbytes for value in state.values()) / model.weight.numel())
    assert (moved[1] - moved[0]).norm() < most * moved[0].norm()
    step = 4 / (64 * 128)
    assert held[0] == learners.MOMENTS["adamw"] + step
    scales = 2 * 4 / 64  # rows of 64 are blocks
    assert held[1] == (2 + scales if optimiser == "adamw-8bit" else 8) + step


WAYS = [
    ("adamw", torch.float32, False),
    ("adamw", torch.float32, True),
    ("adamw-8bit", torch.float32, False),
    ("adamw-8bit", torch.bfloat16, True),
    ("adamw", torch.bfloat16, False),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_state_that_went_through_a_file_goes_on_to_the_same_bits(
    tmp_path: Path, way: tuple[str, torch.dtype, bool]
) -> None:
    whole, one = wide(*way)
    train(whole, one, range(6))
    half, two = wide(*way)
    train(half, two, range(3))
    torch.save(half.state(), tmp_path / "state.pt")
    later, three = wide(*way)
    later.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    train(later, three, range(3, 6))
    assert torch.equal(one.weight, three.weight)


def test_a_run_may_begin_to_offload_its_moments_and_cease_to(tmp_path: Path) -> None:
    """It is the same run to the bit."""
    whole, one = wide("adamw")
    train(whole, one, range(6))
    made, model = wide("adamw")
    for first, offload in ((0, False), (2, True), (4, False)):
        state = made.state()
        made, model = wide("adamw", offload=offload)
        if first:
            made.restore(state)
        train(made, model, range(first, first + 2))
    assert torch.equal(one.weight, model.weight)


def test_gradients_in_bfloat16_are_clipped_by_their_norm_in_float32() -> None:
    made, model = wide("adamw-8bit", torch.bfloat16)
    model.weight.grad = torch.full_like(model.weight, 0.01)
    exact = float(torch.tensor(0.01).bfloat16()) * 8192**0.5
    assert made.step(1.0) == pytest.approx(exact, rel=1e-6)


def test_a_gradient_in_bfloat16_that_is_no_number_moves_nothing() -> None:
    made, model = wide("adamw-8bit", torch.bfloat16)
    before = model.weight.detach().clone()
    (model(torch.ones(1, 64).bfloat16()) * math.inf).sum().backward()
    with pytest.raises(SalsaError, match=r"not finite \(at weight\)"):
        made.step(1.0)
    assert torch.equal(model.weight, before)


def test_to_be_saved_the_plain_model_has_the_weights_unrounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As where what learns is sharded: a plain model in a narrower type generates beside it."""
    made, model = learner()
    narrow = copy.deepcopy(model).to(torch.bfloat16)
    made.model = narrow
    monkeypatch.setattr(Learner, "_spread", property(lambda self: True))
    exact = model.weight.detach().float()
    with made.unrounded():
        assert narrow.weight.dtype == torch.float32
        assert torch.equal(narrow.weight, exact)
    assert narrow.weight.dtype == torch.bfloat16
    assert torch.equal(narrow.weight, exact.to(torch.bfloat16))
    assert not torch.equal(narrow.weight.float(), exact)
