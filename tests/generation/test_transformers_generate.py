"""Transformers' own `generate` with our draws: the answers of a loop without cache or batch."""

from collections.abc import Callable

import pytest

from salsa_cli.generation import transformers_generate
from salsa_cli.models.forward import Module
from tests.support.kinds import (
    PROMPTS,
    convolutional,
    llama,
    naive,
    numbers,
    policy,
    recurrent,
    told,
)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("make", [llama, recurrent, convolutional])
def test_answers_are_those_of_a_loop(make: Callable[[], Module], temperature: float) -> None:
    # Recurrent states read padding, so the prompts are of one length.
    prompts = [prompt for prompt in PROMPTS if len(prompt) == 1] if make is not llama else PROMPTS
    model, uniforms = policy(make), numbers(len(prompts))
    found = transformers_generate.generate(model, prompts, uniforms, temperature)
    assert told(found) == naive(model.model, prompts, uniforms, temperature)
