"""Which way of generation a model gets."""

from collections.abc import Callable

import pytest
import torch

from salsa_cli.errors import SalsaError
from salsa_cli.generation import loop, selection, transformers_generate
from salsa_cli.models.forward import Module
from tests.support.kinds import convolutional, hybrid, learned_positions, llama, recurrent, sliding


@pytest.mark.parametrize("make", [llama, sliding, hybrid, learned_positions])
def test_ours_drives_models_whose_rows_can_leave(make: Callable[[], Module]) -> None:
    assert selection.select_generator("auto", make()) is loop.generate
    assert selection.select_generator("loop", make()) is loop.generate


@pytest.mark.parametrize("make", [recurrent, convolutional])
def test_other_models_are_left_to_transformers(make: Callable[[], Module]) -> None:
    model = make()
    assert selection.select_generator("auto", model) is transformers_generate.generate
    with pytest.raises(SalsaError) as found:
        selection.select_generator("loop", model)
    assert str(found.value) == (
        f"--generator loop does not support a {type(model).__name__}; use --generator auto"
    )


def test_graphs_need_a_gpu() -> None:
    with pytest.raises(SalsaError, match="--generator graphs needs a CUDA device, and this is cpu"):
        selection.check_generator("graphs", torch.device("cpu"))
    selection.check_generator("graphs", torch.device("cuda"))
    for name in ("auto", "loop"):
        selection.check_generator(name, torch.device("cpu"))
