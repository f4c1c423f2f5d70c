"""The output head of a language model: scale, bound, bias, and models that compute otherwise."""

from collections.abc import Callable

import pytest
import torch
import transformers

from salsa_cli.models import lm_head
from salsa_cli.models.forward import Module
from salsa_cli.models.lm_head import Head
from tests.support.families import FAMILIES, build
from tests.support.kinds import llama


@pytest.mark.parametrize(
    ("scale", "softcap", "bias"),
    [(1.0, None, False), (0.25, None, True), (3.0, 0.5, False), (0.5, 2.0, True)],
)
def test_log_probabilities_by_the_definition(
    scale: float, softcap: float | None, bias: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(11, 5, generator=generator, dtype=torch.float64)
    offset = torch.randn(11, generator=generator, dtype=torch.float64) if bias else None
    hidden = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    tokens = torch.tensor([0, 10, 3, 3, 5, 9, 1])
    head = Head(weight, offset, scale, softcap)
    logits = scale * (hidden @ weight.T + (0 if offset is None else offset))
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    for temperature in (1.0, 0.7):
        expected = torch.log_softmax(logits / temperature, -1)[torch.arange(7), tokens]
        found = head.logprobs(hidden, tokens, temperature)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "scale", "softcap"),
    [
        ("Llama", 1.0, None),
        ("Cohere, multiplied logits", 0.25, None),
        ("Granite, divided logits", 1 / 3, None),
        ("Gemma 2, bounded logits", 1.0, 0.5),
        ("Gemma 2, free logits", 1.0, None),
    ],
)
def test_scale_and_bound_are_read_from_the_configuration(
    family: str, scale: float, softcap: float | None
) -> None:
    assert family in FAMILIES
    head = lm_head.find_head(build(family))
    assert head is not None
    assert (head.scale, head.softcap) == (pytest.approx(scale), softcap)


def test_a_biased_head_keeps_its_bias() -> None:
    head = lm_head.find_head(build("Phi, biased logits"))
    assert head is not None and head.bias is not None


def doubled(model: Module) -> None:
    """Logits that no configuration tells of."""
    forward = model.forward

    def twice(*given: object, **options: object) -> object:
        found = forward(*given, **options)
        found.logits = 2 * found.logits
        return found

    model.forward = twice


def other_embedding(model: Module) -> None:
    model.set_output_embeddings(torch.nn.Sequential(model.get_output_embeddings()))


@pytest.mark.parametrize("change", [doubled, other_embedding])
def test_a_model_that_computes_its_logits_in_another_way_is_left_to_it(
    change: Callable[[Module], None],
) -> None:
    torch.manual_seed(0)
    model = llama().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    change(model)
    assert lm_head.find_head(model) is None


def test_a_head_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=24, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    ).eval()
    assert lm_head.find_head(model) is not None
    monkeypatch.setattr(lm_head, "_agrees", lambda *_: pytest.fail("checked again"))
    assert lm_head.find_head(model) is not None
