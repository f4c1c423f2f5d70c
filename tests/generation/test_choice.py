"""Which way of generation a model gets."""

from collections.abc import Callable

import pytest
import torch

from salsa_cli.errors import SalsaError
from salsa_cli.generation import choice, loop, plain
from salsa_cli.models.forward import Module
from tests.support.kinds import convolutional, hybrid, learned_positions, llama, recurrent, sliding


@pytest.mark.parametrize("make", [llama, sliding, hybrid, learned_positions])
def test_ours_drives_models_whose_rows_can_leave(make: Callable[[], Module]) -> None:
    assert choice.choose("auto", make()) is loop.generate
    assert choice.choose("loop", make()) is loop.generate


@pytest.mark.parametrize("make", [recurrent, convolutional])
def test_other_models_are_left_to_transformers(make: Callable[[], Module]) -> None:
    model = make()
    assert choice.choose("auto", model) is plain.generate
    with pytest.raises(SalsaError) as found:
        choice.choose("loop", model)
    assert str(found.value) == (
        f"--generator loop cannot drive a {type(model).__name__}; --generator auto can"
    )


def test_graphs_need_a_gpu() -> None:
    with pytest.raises(SalsaError, match="--generator graphs needs a CUDA device, and this is cpu"):
        choice.check("graphs", torch.device("cpu"))
    choice.check("graphs", torch.device("cuda"))
    for name in ("auto", "loop"):
        choice.check(name, torch.device("cpu"))
