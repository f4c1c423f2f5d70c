"""Answers of a prompt compared with one another: against loops from the definitions, in float64."""

import math

import pytest
import torch
from torch import Tensor

from salsa_cli.maths import group_advantages as groups

GROUPS = [(2, 5), (3, 4), (8, 2)]  # answers per prompt, prompts


def drawn(size: int, prompts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, KLs and a ragged mask; NaN on the padding."""
    generator = torch.Generator().manual_seed(size)
    rows, width = size * prompts, 7
    lengths = torch.randint(1, width + 1, (rows,), generator=generator)
    mask = torch.arange(width) < lengths[:, None]
    kl = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    scores = 3 * torch.randn(rows, generator=generator, dtype=torch.float64)
    return scores, kl.masked_fill(~mask, torch.nan), mask


def naive_returns(scores: Tensor, kl: Tensor, mask: Tensor, coef: float) -> list[float]:
    found = []
    for score, row, real in zip(scores.tolist(), kl.tolist(), mask.tolist(), strict=True):
        total = score
        for nats, counts in zip(row, real, strict=True):
            if counts:
                total -= coef * nats
        found.append(total)
    return found


def in_groups(values: list[float], size: int) -> list[list[float]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def close(found: Tensor, expected: list[float]) -> None:
    assert found.tolist() == pytest.approx(expected, abs=1e-10, rel=0)


@pytest.mark.parametrize(("size", "prompts"), GROUPS)
def test_each_advantage_on_ragged_groups(size: int, prompts: int) -> None:
    scores, kl, mask = drawn(size, prompts)
    returns = groups.answer_returns(scores, kl, mask, 0.3)
    expected = naive_returns(scores, kl, mask, 0.3)
    close(returns, expected)
    rloo, centred, grpo = [], [], []
    for group in in_groups(expected, size):
        mean = math.fsum(group) / size
        deviation = math.sqrt(math.fsum((one - mean) ** 2 for one in group) / (size - 1))
        for place, one in enumerate(group):
            others = [other for index, other in enumerate(group) if index != place]
            rloo.append(one - math.fsum(others) / len(others))
            centred.append(one - mean)
            grpo.append((one - mean) / (deviation + 1e-4))
    close(groups.rloo(returns, size), rloo)
    close(groups.centred(returns, size), centred)
    close(groups.grpo(returns, size), grpo)


def test_by_hand() -> None:
    returns = torch.tensor([1.0, 2.0, 6.0, 5.0, 5.0, 5.0])
    assert groups.rloo(returns, 3).tolist() == pytest.approx([-3.0, -1.5, 4.5, 0, 0, 0])
    assert groups.centred(returns, 3).tolist() == [-2.0, -1.0, 3.0, 0, 0, 0]
    spread = math.sqrt((4 + 1 + 9) / 2) + 1e-4
    assert groups.spread(returns, 3).tolist() == pytest.approx([spread] * 3 + [1e-4] * 3)
    expected = [-2 / spread, -1 / spread, 3 / spread, 0, 0, 0]
    assert groups.grpo(returns, 3).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", ["rloo", "group", "grpo"])
def test_the_unit_is_what_a_return_of_one_is_worth(name: str) -> None:
    """By the difference that one more makes; that of grpo at the spread of the group as it is."""
    returns = torch.tensor([0.5, -1.0, 2.0, 0.25], dtype=torch.float64)
    found = groups.unit(returns, 4, name)
    more = returns + torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
    ways = {"rloo": groups.rloo, "group": groups.centred}
    if name == "grpo":
        gained = (groups.centred(more, 4) - groups.centred(returns, 4)) / groups.spread(returns, 4)
    else:
        gained = ways[name](more, 4) - ways[name](returns, 4)
    assert float(found[0]) == pytest.approx(float(gained[0]))
    assert found.shape == (4,)


@pytest.mark.parametrize("value", [0.1, 1e4, -7.3])
@pytest.mark.parametrize("size", [3, 7])
def test_equal_returns_are_worth_exactly_nothing(value: float, size: int) -> None:
    """In float32 the mean of equal numbers differs from them, and grpo would magnify that."""
    returns = torch.full((2 * size,), value)
    for way in (groups.rloo, groups.centred, groups.grpo):
        assert way(returns, size).abs().max() == 0
    assert groups.equal_groups(returns, size) == 2


def test_groups_are_equal_up_to_rounding() -> None:
    scores = torch.tensor([1.0, 1.0 + 1e-7, 2.0, 2.1, 0.0, 0.0, 0.0, 1e-3])
    assert groups.equal_groups(scores, 2) == 2
    assert groups.equal_groups(scores, 4) == 0
