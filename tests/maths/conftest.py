"""Ragged random batches, for comparing each formula with a loop written from its definition."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

WIDTH = 9


@pytest.fixture(params=range(5))
def generator(request: pytest.FixtureRequest) -> torch.Generator:
    return torch.Generator().manual_seed(int(request.param))


@pytest.fixture
def ragged_mask(generator: torch.Generator) -> Tensor:
    """Right-padded, [7, 9]: a row of one token, a full one, one of none, four random ones."""
    random = torch.randint(1, WIDTH + 1, (4,), generator=generator)
    lengths = torch.cat([torch.tensor([1, WIDTH, 0]), random])
    return torch.arange(WIDTH) < lengths.unsqueeze(1)


@pytest.fixture
def draw(generator: torch.Generator, ragged_mask: Tensor) -> Callable[[], Tensor]:
    """Standard normal float64 values [7, 9], NaN on masked positions."""

    def normal() -> Tensor:
        x = torch.randn(ragged_mask.shape, generator=generator, dtype=torch.float64)
        return x.masked_fill(~ragged_mask, torch.nan)

    return normal
