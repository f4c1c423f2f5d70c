"""The draw of a token: the one that a row's own number selects."""

import torch

from salsa_cli.generation.generator import draw


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
