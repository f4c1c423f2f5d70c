"""The draw of a token: the one that a row's own number selects."""

import pytest
import torch

from salsa_cli.generation import cuda_graphs, loop, transformers_generate
from salsa_cli.generation.generator import Generator, draw
from tests.support.kinds import PROMPTS, llama, numbers, policy, told


def test_a_draw_by_hand() -> None:
    # Probabilities 1/2, 1/4, 1/4: cumulated 0.5, 0.75, 1.
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).expand(4, -1)
    uniforms = torch.tensor([0.0, 0.49, 0.5, 0.76], dtype=torch.float64)
    assert draw(logits, uniforms, 1.0).tolist() == [0, 0, 1, 2]


def test_the_temperature_divides_the_logits() -> None:
    # At temperature 1/2 probabilities are squared: 4/6, 1/6, 1/6.
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]])).expand(2, -1)
    uniforms = torch.tensor([0.66, 0.67], dtype=torch.float64)
    assert draw(logits, uniforms, 0.5).tolist() == [0, 1]


def test_at_temperature_zero_the_likeliest_token_whatever_the_number() -> None:
    logits = torch.tensor([[0.1, 3.0, 0.2], [5.0, 1.0, 1.0]])
    for number in (0.0, 0.999):
        uniforms = torch.full((2,), number, dtype=torch.float64)
        assert draw(logits, uniforms, 0.0).tolist() == [1, 0]


GENERATORS = [loop.generate, cuda_graphs.generate, transformers_generate.generate]


@pytest.mark.parametrize("generate", GENERATORS)
def test_log_probabilities_are_those_of_whole_sequences_in_float64(generate: Generator) -> None:
    """At the sampling temperature, in the order of the prompts, for rows that end early, too."""
    model, uniforms = policy(llama), numbers(len(PROMPTS))
    found = torch.full(uniforms.shape, float("nan"))
    answers = told(generate(model, PROMPTS, uniforms, 0.7, logprobs=found))
    assert len({len(answer) for answer in answers}) > 2
    wide = model.model.double()
    for row, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        logits = wide(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
        expected = torch.log_softmax(logits[len(prompt) - 1 : -1] / 0.7, dim=-1)
        chosen = expected[torch.arange(len(answer)), torch.tensor(answer)]
        # float32 through two layers.
        torch.testing.assert_close(found[row, : len(answer)].double(), chosen, rtol=0, atol=2e-6)
