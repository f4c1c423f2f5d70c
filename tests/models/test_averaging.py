"""The weighted average of models in memory."""

import pytest
import torch

from salsa_cli.models import averaging


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_average_is_the_float64_one_rounded_once(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(7, 33, generator=generator).to(dtype) for _ in range(3)]
    # In halves and quarters the sum of narrow numbers is exact in float32, through which PyTorch
    # rounds a float64 to a narrow type.
    weights = (0.5, 0.25, 0.25) if dtype.itemsize == 2 else (0.5, 0.3, 0.2)
    exact = sum(w * one.double() for w, one in zip(weights, parts, strict=True))
    found = averaging.average(parts, weights)
    assert found.dtype == dtype and found.shape == (7, 33)
    assert torch.equal(found, exact.to(dtype))  # type: ignore[union-attr]


def test_a_transposed_tensor_and_a_wider_second_one_are_read_as_they_are() -> None:
    first = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).bfloat16().T
    found = averaging.average([first, torch.ones(2, 2)], (0.25, 0.75))
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [[1.0, 1.5], [1.25, 1.75]]


def test_what_is_not_a_weight_is_left_alone() -> None:
    assert not averaging.can_average(torch.arange(3))
    assert averaging.can_average(torch.zeros(3, dtype=torch.bfloat16))
